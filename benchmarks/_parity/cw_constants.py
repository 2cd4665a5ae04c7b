"""C&W with one constant at a time, against the search for it and against the peers: why norms differ.

    python -m benchmarks._parity.cw_constants [MODEL] [--root runs/parity]

Needs what `python -m benchmarks.parity --only MODEL:cw` has left in the root.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

import jaxrobust
from benchmarks._parity import cases, export, store
from jaxrobust.attacks import CarliniWagner
from jaxrobust.neighbourhoods import L2


def main(argv: list[str] | None = None) -> int:
    """Prints how many images each constant finds, and the norms of the nearest of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._parity.cw_constants")
    parser.add_argument("model", nargs="?", default="cifar10-srt", choices=cases.MODELS)
    parser.add_argument("--root", type=Path, default=store.ROOT)
    args = parser.parse_args(argv)
    made = store.load_problem(args.root, args.model)
    logits_fn = export.load_plain(store.model_dir(args.root, args.model))
    budget = cases.CASES["cw"].budget(cases.dataset_of(args.model))

    nearest = np.full(len(made.images), np.inf)
    for const in cases.CASES["cw_constants"].settings["constants"]:
        attack = CarliniWagner(neighbourhood=L2(eps=1.0), **{**budget, "searches": 1, "initial_const": const})
        result = jaxrobust.attack(attack, logits_fn, made.images, made.labels, key=jax.random.key(cases.SEED))
        norms = np.where(result.found, _norms(np.asarray(result.image), made.images), np.inf)
        nearest = np.minimum(nearest, norms)
        print(f"c = {const:g}: {np.isfinite(norms).sum()} found, median {np.median(norms):.4f}")
    print(f"the nearest of these: median {np.median(nearest):.4f}")
    for library in cases.LIBRARIES:
        path = args.root / "results" / args.model / "cw" / f"{library}.npz"
        if not path.is_file():
            continue
        norms = _norms(store.read_arrays(path)["images"], made.images)
        both = (norms > 0) & np.isfinite(nearest)
        ratio = nearest[both].mean() / norms[both].mean()
        print(
            f"{library}: {(norms > 0).sum()} moved, median of these {np.median(norms[both]):.4f}; "
            f"the nearest above over it, on these: {ratio:.3f}"
        )
    return 0


def _norms(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.sqrt(((images.astype(np.float64) - clean) ** 2).sum((1, 2, 3)))


if __name__ == "__main__":
    sys.exit(main())
