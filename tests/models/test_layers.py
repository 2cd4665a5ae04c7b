"""The layers against closed forms, and batch normalisation over devices against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrobust.models._layers import BatchNorm, Conv, Dense, dropout, leaky_relu, normalise, standardise

RNG = np.random.default_rng(0)


def batch(b=8, h=4, w=4, c=3):
    return jnp.asarray(RNG.normal(2.0, 3.0, (b, h, w, c)), jnp.float32)


def apply_norm(variables, x, *, train, axis_name=None, dtype="float32"):
    return BatchNorm(dtype=dtype).apply(
        variables, x, train=train, axis_name=axis_name, mutable=["batch_stats"]
    )


def norm_variables(c=3):
    return {
        "params": {"scale": jnp.linspace(0.5, 1.5, c), "bias": jnp.linspace(-1.0, 1.0, c)},
        "batch_stats": {"mean": jnp.linspace(0.0, 1.0, c), "var": jnp.linspace(1.0, 2.0, c)},
    }


def test_batch_norm_train_is_the_closed_form():
    x, variables = batch(), norm_variables()
    y, changed = apply_norm(variables, x, train=True)
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
    np.testing.assert_allclose(y, scale * (x - mean) / np.sqrt(var + 1e-5) + bias, atol=1e-5)
    count = x.size // 3
    stats = variables["batch_stats"]
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.9 * stats["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        changed["batch_stats"]["var"], 0.9 * stats["var"] + 0.1 * var * count / (count - 1), rtol=1e-5
    )


def test_batch_norm_eval_reads_the_running_statistics_and_leaves_them():
    x, variables = batch(), norm_variables()
    y, changed = apply_norm(variables, x, train=False)
    stats, params = variables["batch_stats"], variables["params"]
    expected = params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(changed["batch_stats"]["mean"], stats["mean"])


def test_batch_norm_keeps_digits_under_a_large_mean():
    x = batch() + 1e4
    y, _ = apply_norm(
        {**norm_variables(), "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}, x, train=True
    )
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1.0, atol=1e-3)


def test_batch_norm_of_bfloat16_has_float32_statistics():
    y, changed = apply_norm(norm_variables(), batch().astype(jnp.bfloat16), train=True, dtype="bfloat16")
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype("float32")}


def loss(variables, x, axis_name):
    """A loss whose gradient passes through the batch statistics."""
    y, changed = apply_norm(variables, x, train=True, axis_name=axis_name)
    return jnp.mean(y**3), changed["batch_stats"]


def one_device(variables, x):
    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables, x, None)
    return value, stats, grads["params"]


def check(result, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result, expected)


def test_batch_norm_over_pmap_equals_one_device():
    variables, x = norm_variables(), batch()

    def step(variables, x):
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables, x, "d")
        return jax.lax.pmean((value, grads["params"]), "d"), stats

    (value, grads), stats = jax.pmap(step, axis_name="d", in_axes=(None, 0))(
        variables, x.reshape(4, 2, 4, 4, 3)
    )
    first = jax.tree.map(lambda a: np.asarray(a)[0], (value, stats, grads))
    check(first, one_device(variables, x))
    # Every device has the same statistics, or replicas would drift apart.
    assert all(np.ptp(leaf, axis=0).max() == 0 for leaf in map(np.asarray, jax.tree.leaves(stats)))


def test_batch_norm_under_shard_map_with_checks_equals_one_device():
    variables, x = norm_variables(), batch()
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def step(variables, x):
        # As the training step does: else gradients of replicated parameters arrive summed.
        variables = {**variables, "params": jax.lax.pcast(variables["params"], "d", to="varying")}
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables, x, "d")
        return jax.lax.pmean((value, grads["params"]), "d"), stats

    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("d")), out_specs=P(), check_vma=True)
    (value, grads), stats = jax.jit(mapped)(variables, x)
    check((value, stats, grads), one_device(variables, x))


def test_batch_norm_without_its_axis_differs_between_devices():
    """What `axis_name` is for; were it ignored, the tests above could not fail."""
    variables, x = norm_variables(), batch()
    alone = jax.pmap(lambda x: apply_norm(variables, x, train=True)[0], axis_name="d")(
        x.reshape(4, 2, 4, 4, 3)
    )
    assert np.abs(np.asarray(alone).reshape(x.shape) - apply_norm(variables, x, train=True)[0]).max() > 1e-2


def test_dropout_rows_depend_on_their_own_key_only():
    keys, x = jax.random.split(jax.random.key(0), 6), jnp.ones((6, 50))
    together = dropout(x, 0.5, train=True, keys=keys, layer=0)
    for i in range(6):
        alone = dropout(x[i : i + 1], 0.5, train=True, keys=keys[i : i + 1], layer=0)
        np.testing.assert_array_equal(alone[0], together[i])
    assert len({np.asarray(row).tobytes() for row in together}) == 6


def test_dropout_scales_what_it_keeps():
    keys = jax.random.split(jax.random.key(1), 40)
    y = np.asarray(dropout(jnp.ones((40, 500)), 0.2, train=True, keys=keys, layer=0))
    np.testing.assert_allclose(np.unique(y), [0.0, 1.25])
    assert abs((y == 0).mean() - 0.2) < 0.01  # 3.5 standard deviations of 20,000 draws


def test_dropout_layers_draw_apart():
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.ones((2, 50))
    first, second = (dropout(x, 0.5, train=True, keys=keys, layer=i) for i in (0, 1))
    assert (first != second).any()


def test_dropout_is_the_identity_in_eval_mode_and_at_rate_zero():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.5, train=False, keys=None, layer=0) is x
    assert dropout(x, 0.0, train=True, keys=None, layer=0) is x


def test_dropout_says_which_keys_it_wants():
    with pytest.raises(ValueError, match="got keys=None"):
        dropout(jnp.ones((2, 3)), 0.5, train=True, keys=None, layer=0)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        dropout(jnp.ones((2, 3)), 0.5, train=True, keys=jax.random.split(jax.random.key(0), 3), layer=0)


def test_normalise_is_per_channel():
    x = jnp.asarray(RNG.random((2, 3, 3, 3)), jnp.float32)
    y = normalise(x, (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    np.testing.assert_allclose(y[..., 2], (x[..., 2] - 0.3) / 2.0, rtol=1e-5)
    np.testing.assert_array_equal(normalise(x, (), ()), x)


def test_standardise_is_per_image_and_finite_for_a_constant_one():
    x = jnp.asarray(RNG.random((2, 5, 5, 3)), jnp.float32).at[1].set(0.7)
    y = standardise(x)
    np.testing.assert_allclose([np.mean(y[0]), np.std(y[0])], [0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(y[1], 0.0, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(standardise(x)[..., 0]))(x)
    assert np.isfinite(gradient).all()
    # Below the floor of 1 / sqrt(75) the divisor is the floor, however small the contrast.
    faint = 0.5 + 1e-3 * (x[:1] - 0.5)
    np.testing.assert_allclose(standardise(faint), (faint - faint.mean()) * np.sqrt(75), atol=1e-5)


def test_leaky_relu():
    np.testing.assert_allclose(leaky_relu(jnp.array([-2.0, 0.0, 3.0]), 0.1), [-0.2, 0.0, 3.0])


def test_initial_spread_is_he_and_pytorchs():
    conv = Conv(64).init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"]
    np.testing.assert_allclose(np.std(conv["kernel"]), np.sqrt(2 / (9 * 32)), rtol=0.03)
    dense = Dense(300).init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
    np.testing.assert_allclose(np.abs(dense["kernel"]).max(), 1 / np.sqrt(400), rtol=0.01)
    np.testing.assert_allclose(np.std(dense["kernel"]), 1 / np.sqrt(3 * 400), rtol=0.02)
    assert not np.any(conv["bias"]) and not np.any(dense["bias"])
