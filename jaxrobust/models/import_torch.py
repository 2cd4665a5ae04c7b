"""State dicts of PyTorch nets, read without PyTorch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrobust.models._build import build
from jaxrobust.types import PyTree

_PREFIXES = ("module.", "model.", "_orig_mod.")
_BUFFERS = {"mean": ("mu", "mean"), "std": ("sigma", "std")}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_LISTED = 12  # keys named in a message before it says how many more there are


def load_state_dict(
    path: str | os.PathLike,
    module: nn.Module,
    *,
    image_shape: tuple[int, int, int] | None = None,
    ignore: tuple[str, ...] = (),
) -> tuple[PyTree, PyTree]:
    """Reads a PyTorch net's weights for SmallCNN, PreActResNet18, WideResNet, MobileFaceNet or IResNet.

    Keys are those of TRADES and RobustBench, of MobileFaceNet_Pytorch, and of InsightFace. The files of face
    nets have no class weights: `params["head"]` is zero then, and only embeddings mean anything.
    Prefixes such as `module.` are taken off; BatchNorm's counters and TRADES' unused `sub_block1` are passed
    over. Normalisation that the file carries (`mu` and `sigma`, or `mean` and `std`) must be the module's.
    What keys do not show must be known: normalisation done in code, and PreActResNet18's
    `activated_shortcut`.

    A `.pt` file is turned into one that is read here, where PyTorch is, by
    `safetensors.torch.save_model(net, "net.safetensors")`.

    Args:
        path: a `.safetensors` or `.npz` file of arrays by name.
        module: the net, a linen module of `MODELS` with the file's sizes.
        image_shape: `(h, w, c)` of the images it was trained on; by default `module.native_shape`.
        ignore: prefixes of further keys to pass over.

    Returns:
        (params, stats) for `build(module, image_shape)`.

    Raises:
        ValueError: the file cannot be read, or keys are missing, unknown, of another shape or not finite; the
            message lists them.
    """
    if not hasattr(module, "torch_prefix"):
        raise ValueError(
            f"{type(module).__name__} has no counterpart in PyTorch. "
            "State dicts are read for SmallCNN, PreActResNet18, WideResNet, MobileFaceNet and IResNet."
        )
    image_shape = image_shape or module.native_shape
    arrays = _unprefixed(_read(Path(path)))
    skipped = ignore + getattr(module, "torch_ignored", ())
    arrays = {
        name: value
        for name, value in arrays.items()
        if not name.startswith(skipped) and not name.endswith("num_batches_tracked")
    }
    arrays = _without_normalisation(arrays, module)
    params, stats = jax.eval_shape(build(module, image_shape).init, jax.random.key(0))
    flattened = module.torch_flattened(image_shape) if hasattr(module, "torch_flattened") else {}
    expected = _expected({"params": params, "batch_stats": stats}, module, flattened)
    # What may be absent starts at zero, so that nobody takes its answers for a trained layer's.
    absent = {
        name: np.zeros(shape, np.float32)
        for name, (where, shape) in expected.items()
        if where[1] in getattr(module, "torch_absent", ())
    }
    arrays = absent | arrays
    _compare(expected, arrays, path)
    tree = {
        where: jnp.asarray(_converted(arrays[name], flattened.get(where[-2])))
        for name, (where, _) in expected.items()
    }
    variables = unflatten_dict(tree)
    return variables["params"], variables.get("batch_stats", {})


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name."""
    if not path.is_file():
        raise ValueError(f"No such file: {path}.")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"Expected a .safetensors or .npz file, got {path.name}. Where PyTorch is installed, convert it "
            "with safetensors.torch.save_model(net, 'net.safetensors')."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # the readers raise errors of many kinds on damaged files
        raise ValueError(f"Cannot read {path}: {error}") from error


def _unprefixed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without what wrappers (DataParallel, torch.compile) put before each name."""
    found: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        short = name
        while short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        if short in found:
            raise ValueError(f"Two arrays of the file are both {short!r} without their prefixes.")
        found[short] = value
    return found


def _without_normalisation(arrays: dict[str, np.ndarray], module: nn.Module) -> dict[str, np.ndarray]:
    """The arrays without normalisation buffers, after a check that the module normalises alike."""
    rest = dict(arrays)
    for field, names in _BUFFERS.items():
        for name in [n for n in rest if n.rpartition(".")[2] in names]:
            buffer = tuple(float(value) for value in np.ravel(rest.pop(name)).astype(np.float64))
            own = getattr(module, field, ())
            if len(own) not in (1, len(buffer)) or not np.allclose(own, buffer, atol=1e-5):
                rounded = tuple(round(value, 6) for value in buffer)
                raise ValueError(
                    f"The file normalises with {name}={rounded}, the module with {field}={own}. "
                    f"Build the module with {field}={rounded}."
                )
    return rest


def _expected(
    variables: PyTree, module: nn.Module, flattened: Mapping[str, tuple[int, int, int]]
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """For each name of the state dict: where it goes in our variables, and its shape in PyTorch's layout."""
    found = {}
    for where, leaf in flatten_dict(variables).items():
        layer = ".".join(module.torch_prefix(part) for part in where[1:-1])
        shape = leaf.shape
        if where[-1] == "kernel":
            shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]
        found[f"{layer}.{_LEAVES[where[-1]]}"] = (where, shape)
    return found


def _converted(array: np.ndarray, flattened: tuple[int, int, int] | None) -> np.ndarray:
    """From PyTorch's layout (OIHW; a flattened activation is c, h, w) to ours (HWIO; h, w, c), in float32."""
    array = array.astype(np.float32)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and flattened is not None:
        h, w, c = flattened
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)
    return array.T


def _compare(expected: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Raises one ValueError that lists every missing, unknown, mis-shaped and unusable key."""
    shared = [name for name in expected if name in arrays]
    shaped = [name for name in shared if arrays[name].shape == expected[name][1]]
    faults = {
        "missing": [name for name in expected if name not in arrays],
        "unknown": [name for name in arrays if name not in expected],
        "of another shape": [
            f"{name} {list(arrays[name].shape)} instead of {list(expected[name][1])}"
            for name in shared
            if name not in shaped
        ],
        "not floating-point": [n for n in shaped if not jnp.issubdtype(arrays[n].dtype, jnp.floating)],
        "not finite": [
            n
            for n in shaped
            if jnp.issubdtype(arrays[n].dtype, jnp.floating)
            and not np.isfinite(arrays[n].astype(np.float32)).all()
        ],
    }
    messages = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if messages:
        raise ValueError(f"{path} does not fit the module. " + "; ".join(messages) + ".")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
