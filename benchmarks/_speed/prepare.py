"""The models and images that are timed: `python -m benchmarks._speed.prepare ROOT PARITY_ROOT MODEL [DATA]`.

MNIST's models are those of the parity benchmark, with as many images as a batch has. PreActResNet-18 has
random weights, which are drawn in PyTorch (`prepare_random`), for CIFAR-10's first test images.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks._parity import export, store
from benchmarks._parity import prepare as parity
from benchmarks._speed import cases, problem
from jaxrobust import data, experiments
from jaxrobust.experiments.run import load_data

_CALIBRATION = 256


def prepare(root: Path, parity_root: Path, model: str, data_dir: Path | None) -> None:
    """Writes all files of a model, unless they are there and of the same weights."""
    if cases.MODELS[model].source == "random":
        _random(root, model, data_dir)
    else:
        _trained(root, parity_root, model, data_dir)


def _trained(root: Path, parity_root: Path, model: str, data_dir: Path | None) -> None:
    """The parity benchmark's model, which must be there, on the first images it classifies right."""
    what = cases.MODELS[model]
    made = store.read_json(store.model_dir(parity_root, what.source) / "problem.json")
    known = store.read_json(store.model_dir(root, model) / "problem.json") or {}
    if known.get("made_from") == made["weights"] and known.get("num_images") == what.num_images:
        return
    run = experiments.load_run(parity_root / made["run"])
    images, labels, logits, record = parity._images(run, load_data(run.experiment, data_dir), what.num_images)
    folder = store.model_dir(root, model)
    record |= parity._check_exports(folder, run, images, logits)
    state = export.to_torch(run.params, run.experiment.model, run.model.image_shape)
    module = run.experiment.model
    record |= {
        "module": type(module).__name__,
        "fields": {name: getattr(module, name) for name in ("num_classes", "widths", "hidden")},
        "made_from": made["weights"],
        "experiment": made["experiment"],
    }
    problem.save(root, model, state, record, images=images, labels=labels, logits=logits)


def _random(root: Path, model: str, data_dir: Path | None) -> None:
    """CIFAR-10 for a net of random weights, which a process with PyTorch then draws."""
    folder = store.model_dir(root, model)
    known = store.read_json(folder / "problem.json") or {}
    if known.get("num_images") == cases.MODELS[model].num_images:
        return
    found = data.load("cifar10", data_dir=data_dir)
    test = data.to_float(np.asarray(found.test.images[: cases.MODELS[model].num_images]))
    train = data.to_float(np.asarray(found.train.images[:_CALIBRATION]))
    store.write_arrays(folder / "given.npz", images=test, calibration=train)
    subprocess.run([sys.executable, "-m", "benchmarks._speed.prepare_random", str(root), model], check=True)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]) if sys.argv[4:] else None)
