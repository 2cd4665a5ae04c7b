"""Trains or reuses the models, chooses the images, and exports weights: the JAX side of the preparation."""

import dataclasses
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._machine import hardware
from benchmarks._parity import cases, export, store
from jaxrobust import experiments, models
from jaxrobust.experiments.run import load_data

TOLERANCE = 1e-4
_FORWARD = 250


def prepare(root: Path, model: str, reuse: list[Path], data_dir: Path | None) -> None:
    """Writes all files of a model that are missing; a second call does nothing but check the experiment."""
    experiment = experiments.get(cases.MODELS[model])
    folder = store.model_dir(root, model)
    start = cases.STARTS.get(model)
    init_from = store.model_dir(root, start) / "run" if start else None
    run = _trained(experiment, folder / "run", reuse, init_from, data_dir)
    weights = store.digest_arrays(export.to_torch(run.params, experiment.model, run.model.image_shape))
    known = store.read_json(folder / "problem.json") or {}
    if known.get("weights") == weights and (folder / "images.npz").is_file():
        return
    data = load_data(run.experiment, data_dir)
    images, labels, logits, record = _images(run, data, cases.NUM_IMAGES[cases.dataset_of(model)])
    record |= {
        "model": model,
        "experiment": cases.MODELS[model],
        "weights": weights,
        "checkpoint": run.step,
        "hardware": hardware(),
    }
    record |= {"run": os.path.relpath(run.folder, root), "fingerprint": run.fingerprint}
    record |= _check_exports(folder, run, images, logits)
    digest = store.digest({"weights": weights, "images": store.digest_arrays({"x": images, "y": labels})})
    store.write_arrays(
        folder / "images.npz", images=images, labels=labels, logits=logits, digest=np.array(digest)
    )
    store.write_json(folder / "problem.json", record | {"digest": digest})
    print(f"{model}: clean {record['clean_accuracy']:.1%} of {record['num_test']} test images", flush=True)


def _trained(experiment, folder: Path, reuse: list[Path], init_from: Path | None, data_dir: Path | None):
    """A finished run of this experiment: our own, one of `reuse`, or a new one."""
    for candidate in (folder, *reuse):
        if (candidate / "result.json").is_file():
            run = experiments.load_run(candidate)
            # What does not decide the weights may have been changed since: words, and how models are judged.
            same = {"note": experiment.note, "threat": experiment.threat, "attacks": experiment.attacks}
            if dataclasses.replace(run.experiment, **same) == experiment:
                return run
    print(f"training {folder}", flush=True)
    return experiments.train(experiment, folder, data_dir=data_dir, init_from=init_from, log_fn=print)


def _images(run, data, count: int):
    """The first `count` test images that the model classifies right."""
    forward = jax.jit(run.logits_fn)
    images, labels = _as_float(data.test[0]), np.asarray(data.test[1])
    logits = np.concatenate([forward(images[i : i + _FORWARD]) for i in range(0, len(images), _FORWARD)])
    right = logits.argmax(-1) == labels
    where = np.flatnonzero(right)[:count]
    record = {
        "num_test": len(labels),
        "clean_accuracy": float(right.mean()),
        "num_images": len(where),
        "test_indices_up_to": int(where[-1]),
    }
    return images[where], labels[where].astype(np.int32), logits[where], record


def _as_float(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float32) * np.float32(1 / 255) if images.dtype == np.uint8 else images


def _check_exports(folder: Path, run, images: np.ndarray, logits: np.ndarray) -> dict:
    """Writes both exports and refuses them where logits differ; PyTorch's are checked in its own process."""
    module, shape = run.experiment.model, run.model.image_shape
    plain = export.to_plain(run.params)
    state = export.to_torch(run.params, module, shape)
    store.write_arrays(folder / "state_dict.npz", **state)
    arrays = {
        f"{name}.{part}": leaf for name, pair in zip(export.LAYERS, plain) for part, leaf in zip("kb", pair)
    }
    store.write_arrays(folder / "weights.npz", **arrays)
    found = {}
    for name, fn in (("plain", export.plain_logits), ("naive", export.naive_logits)):
        difference = np.abs(jax.jit(fn)(plain, images) - logits).max()
        found[f"logits_{name}_max_difference"] = float(difference)
        if not difference <= TOLERANCE:
            raise ValueError(f"Logits of the plain JAX function differ by {difference:.2g} > {TOLERANCE}.")
    back, _ = models.load_state_dict(folder / "state_dict.npz", module, image_shape=shape)
    same = jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), dict(back), dict(run.params)))
    if not same:
        raise ValueError(
            "The state dict that was written does not read back as the weights it was made from."
        )
    return found


if __name__ == "__main__":
    prepare(
        Path(sys.argv[1]),
        sys.argv[2],
        [Path(path) for path in sys.argv[4:]],
        Path(sys.argv[3]) if sys.argv[3] else None,
    )
