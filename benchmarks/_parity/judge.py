"""Logits of every saved result: `python -m benchmarks._parity.judge ROOT jax|torch`.

The judge is our model in JAX; the PyTorch twin is asked besides, since peers stop at boundaries that it
draws.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._parity import cases, store


def main(root: Path, side: str) -> None:
    """Writes the predicted classes of all results by `MODEL/CASE/LIBRARY`, and those of the clean images."""
    found = {}
    for model in cases.MODELS:
        if not (store.model_dir(root, model) / "images.npz").is_file():
            continue
        logits_fn = _jax(root, model) if side == "jax" else _torch(root, model)
        found[f"{model}/clean"] = logits_fn(store.load_problem(root, model).images).argmax(-1)
        for path in sorted((root / "results" / model).glob("*/*.npz")):
            images = store.read_arrays(path)["images"]
            found[f"{model}/{path.parent.name}/{path.stem}"] = logits_fn(images).argmax(-1)
    store.write_arrays(root / f"verdicts-{side}.npz", **found)


def _jax(root: Path, model: str) -> Callable[[np.ndarray], np.ndarray]:
    """The trained flax model itself, not the exported function that our attacks were given."""
    import jax

    from jaxrobust import experiments

    record = store.read_json(store.model_dir(root, model) / "problem.json")
    forward = jax.jit(experiments.load_run(root / record["run"]).logits_fn)
    return lambda images: np.asarray(forward(images))


def _torch(root: Path, model: str) -> Callable[[np.ndarray], np.ndarray]:
    from benchmarks._parity import twin

    net, difference = twin.load(root, model)
    store.write_json(store.model_dir(root, model) / "twin.json", {"logits_torch_max_difference": difference})
    return lambda images: twin.logits(net, images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
