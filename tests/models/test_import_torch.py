"""Weights of PyTorch nets give PyTorch's logits; files that do not fit are refused with the keys listed."""

import importlib.util
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxrobust.models import PreActResNet18, SmallCNN, TinyCNN, WideResNet, build, load_state_dict

GOLDEN = Path(__file__).parent / "golden"
MU, SIGMA = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
MODULES = {
    "small_cnn": SmallCNN(),
    "preact_raw": PreActResNet18(width=8, activated_shortcut=False, final_norm=False),
    "preact_activated": PreActResNet18(width=8, mean=MU, std=SIGMA),
    "wrn_16_2": WideResNet(depth=16, widen_factor=2),
    "wrn_10_1": WideResNet(depth=10, widen_factor=1),
}
FULL = {
    "full_preact": PreActResNet18(mean=MU, std=SIGMA),
    "full_wrn_34_10": WideResNet(),
}

_spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


def read(path):
    """The golden logits, the images and the state dict that gave them."""
    with np.load(path) as file:
        logits, shapes, seed = file["logits"], json.loads(str(file["shapes"])), int(file["seed"])
        images = weights.images(tuple(file["images"]), seed)
    # Names are drawn for in sorted order without their prefix, which is the same for all.
    prefix = "module." if all(name.startswith("module.") for name in shapes) else ""
    state = weights.state_dict({name.removeprefix(prefix): shape for name, shape in shapes.items()}, seed + 1)
    for name, values in (("mu", MU), ("sigma", SIGMA)):
        if name in state:
            state[name] = np.array(values, np.float32).reshape(1, 3, 1, 1)
    return logits, images, {prefix + name: value for name, value in state.items()}


def save(path, state):
    """Writes a state dict in the format that the name ends in."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        save_file(state, path)
    return path


def logits_of(module, params, stats, images):
    model = build(module, images.shape[1:])
    apply = jax.jit(lambda params, stats, x: model.apply(params, stats, x, train=False)[0].logits)
    return np.asarray(apply(params, stats, images))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("name", MODULES)
def test_logits_equal_pytorchs(name, suffix, tmp_path):
    expected, images, state = read(GOLDEN / f"{name}.npz")
    params, stats = load_state_dict(save(tmp_path / f"net.{suffix}", state), MODULES[name])
    assert np.ptp(expected) > 0.1  # golden logits that say something
    np.testing.assert_allclose(logits_of(MODULES[name], params, stats, images), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_logits_of_full_size_equal_pytorchs(name, tmp_path):
    folder = os.environ.get("JAXROBUST_FULL_GOLDEN")
    if folder is None:
        pytest.skip("JAXROBUST_FULL_GOLDEN names no folder made by make_golden.py --full (needs torch)")
    expected, images, state = read(Path(folder) / f"{name}.npz")
    params, stats = load_state_dict(save(tmp_path / "net.safetensors", state), FULL[name])
    np.testing.assert_allclose(
        logits_of(FULL[name], params, stats, images), expected, atol=1e-4 * np.abs(expected).max(), rtol=0
    )


def test_imported_tree_is_that_of_init(tmp_path):
    for name, module in MODULES.items():
        _, images, state = read(GOLDEN / f"{name}.npz")
        loaded = load_state_dict(save(tmp_path / f"{name}.npz", state), module)
        made = jax.eval_shape(build(module, images.shape[1:]).init, jax.random.key(0))
        assert jax.tree.structure(loaded) == jax.tree.structure(made)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), loaded) == jax.tree.map(
            lambda a: (a.shape, a.dtype), made
        )


def test_dense_layer_after_a_non_square_activation(tmp_path):
    """fc1 reads (h, w, c) here and (c, h, w) there: one hot weight must find its activation."""
    module, h, w = SmallCNN(hidden=2), 28, 20
    _, _, state = read(GOLDEN / "small_cnn.npz")
    rows, columns = 4, 2
    weight = np.zeros((2, 64, rows, columns), np.float32)
    weight[0, 17, 3, 1] = 1.0
    state["classifier.fc1.weight"] = weight.reshape(2, -1)
    state["classifier.fc1.bias"] = np.zeros(2, np.float32)
    state["classifier.fc2.weight"], state["classifier.fc2.bias"] = np.eye(2, dtype=np.float32), np.zeros(2)
    state["classifier.fc3.weight"] = np.zeros((10, 2), np.float32)
    state["classifier.fc2.bias"] = np.zeros(2, np.float32)
    params, stats = load_state_dict(save(tmp_path / "net.npz", state), module, image_shape=(h, w, 1))
    x = weights.images((1, h, w, 1), 5)
    outputs, _ = build(module, (h, w, 1)).apply(params, stats, x, train=False)
    last = np.asarray(outputs.taps["conv4"])[0, :, :, 17]
    np.testing.assert_allclose(outputs.embedding[0, 0], last[6:8, 2:4].max(), rtol=1e-6)


def test_half_precision_files_give_float32(tmp_path):
    _, _, state = read(GOLDEN / "wrn_10_1.npz")
    for dtype in (np.float16, jax.numpy.bfloat16):
        halves = {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in state.items()}
        params, _ = load_state_dict(save(tmp_path / "net.safetensors", halves), MODULES["wrn_10_1"])
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_faults_are_listed_together(tmp_path):
    _, _, state = read(GOLDEN / "wrn_10_1.npz")
    state["extra.weight"] = np.zeros(3, np.float32)
    state["fc.weight"] = np.zeros((100, 64), np.float32)
    state["conv1.weight"] = state["conv1.weight"].astype(np.int32)
    state["bn1.bias"] = np.full(64, np.nan, np.float32)
    del state["block1.layer.0.bn1.running_mean"]
    with pytest.raises(ValueError) as caught:
        load_state_dict(save(tmp_path / "net.npz", state), MODULES["wrn_10_1"])
    message = str(caught.value)
    assert "missing: block1.layer.0.bn1.running_mean;" in message
    assert "unknown: extra.weight;" in message
    assert "of another shape: fc.weight [100, 64] instead of [10, 64];" in message
    assert "not floating-point: conv1.weight;" in message
    assert "not finite: bn1.bias." in message


def test_many_missing_keys_are_counted(tmp_path):
    _, _, state = read(GOLDEN / "wrn_10_1.npz")
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more"):
        load_state_dict(save(tmp_path / "net.npz", state), WideResNet(depth=16, widen_factor=1))


def test_ignored_prefixes_are_passed_over(tmp_path):
    _, _, state = read(GOLDEN / "wrn_10_1.npz")
    path = save(tmp_path / "net.npz", {**state, "projection.weight": np.zeros(3)})
    load_state_dict(path, MODULES["wrn_10_1"], ignore=("projection.",))
    with pytest.raises(ValueError, match=r"unknown: projection\.weight"):
        load_state_dict(path, MODULES["wrn_10_1"])


def test_normalisation_of_the_file_must_be_the_modules(tmp_path):
    _, _, state = read(GOLDEN / "preact_activated.npz")
    path = save(tmp_path / "net.npz", state)
    with pytest.raises(ValueError, match=r"Build the module with mean=\(0\.4914, 0\.4822, 0\.4465\)"):
        load_state_dict(path, PreActResNet18(width=8))
    with pytest.raises(ValueError, match=r"std=\(0\.2471, 0\.2435, 0\.2616\)"):
        load_state_dict(path, PreActResNet18(width=8, mean=MU, std=(0.2, 0.2, 0.2)))


def test_prefixes_that_collide_are_refused(tmp_path):
    path = save(tmp_path / "net.npz", {"module.fc.bias": np.zeros(2), "fc.bias": np.ones(2)})
    with pytest.raises(ValueError, match=r"both 'fc\.bias'"):
        load_state_dict(path, MODULES["wrn_10_1"])


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"No such file: .*absent\.npz"):
        load_state_dict(tmp_path / "absent.npz", SmallCNN())
    for suffix in ("npz", "safetensors"):
        path = tmp_path / f"torn.{suffix}"
        path.write_bytes(b"PK\x03\x04 torn")
        with pytest.raises(ValueError, match=rf"Cannot read .*torn\.{suffix}"):
            load_state_dict(path, SmallCNN())
    pickled = tmp_path / "net.pt"
    pickled.write_bytes(b"")
    with pytest.raises(ValueError, match=r"safetensors\.torch\.save_model"):
        load_state_dict(pickled, SmallCNN())


def test_nets_without_a_counterpart_are_refused(tmp_path):
    with pytest.raises(ValueError, match="TinyCNN has no counterpart in PyTorch"):
        load_state_dict(tmp_path / "net.npz", TinyCNN())
