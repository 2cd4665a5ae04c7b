"""conv2d against lax's convolution and autodiff's gradients: values, loops, vmap, dtypes, other platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import signal

from jaxrobust.numerics import _winograd, compile
from jaxrobust.numerics.convolution import conv2d


def lax_conv(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(shape, kernel_shape, dtype=jnp.float32, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.random.normal(keys[0], shape, dtype), jax.random.normal(keys[1], kernel_shape, dtype)


CASES = {
    "first layer": ((20, 12, 11, 1), (3, 3, 1, 8), (1, 1), "VALID"),
    "colour image, same": ((3, 8, 9, 3), (3, 3, 3, 8), (1, 1), "SAME"),
    "colour image, stride": ((3, 8, 9, 3), (3, 3, 3, 8), (2, 2), "SAME"),
    "inner layer, several blocks": ((35, 9, 8, 8), (3, 3, 8, 4), (1, 1), "VALID"),
    "inner layer, same": ((16, 8, 8, 8), (3, 3, 8, 4), (1, 1), "SAME"),
    "stride two, even size": ((17, 8, 8, 4), (3, 3, 4, 8), (2, 2), "SAME"),
    "stride two, odd size": ((2, 9, 7, 4), (3, 3, 4, 8), (2, 2), "SAME"),
    "stride leaves a border": ((2, 8, 10, 4), (3, 2, 4, 8), (3, 2), "VALID"),
    "pointwise": ((3, 6, 5, 4), (1, 1, 4, 8), (1, 1), "VALID"),
    "pointwise, stride two": ((3, 7, 6, 4), (1, 1, 4, 8), (2, 2), "SAME"),
    "pointwise, one channel": ((3, 7, 6, 1), (1, 1, 1, 8), (1, 1), "VALID"),
    "pointwise, padded": ((3, 7, 6, 4), (1, 1, 4, 8), (1, 1), ((1, 2), (0, 1))),
    "padding wider than the kernel": ((2, 5, 5, 4), (2, 2, 4, 3), (1, 1), ((3, 0), (1, 2))),
    "padded image": ((2, 5, 5, 1), (2, 3, 1, 3), (1, 1), ((3, 0), (1, 2))),
    "kernel as large as the image": ((2, 5, 5, 4), (5, 5, 4, 3), (1, 1), "VALID"),
    "one image": ((1, 6, 6, 4), (3, 3, 4, 3), (1, 1), "VALID"),
}


def by_taps(x, kernel, g, strides, padding):
    """Value and gradients in NumPy. (lax's own gradient is wrong on CPU where pads exceed the kernel.)"""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    pads = (
        padding
        if not isinstance(padding, str)
        else lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    )
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    grad_x, grad_kernel, y = np.zeros_like(padded), np.zeros_like(kernel), np.zeros_like(g)
    for i, j in np.ndindex(kernel.shape[:2]):
        rows = slice(i, i + (g.shape[1] - 1) * strides[0] + 1, strides[0])
        columns = slice(j, j + (g.shape[2] - 1) * strides[1] + 1, strides[1])
        y += padded[:, rows, columns] @ kernel[i, j]
        grad_x[:, rows, columns] += g @ kernel[i, j].T
        grad_kernel[i, j] = np.einsum("bhwc,bhwo->co", padded[:, rows, columns], g)
    (top, _), (left, _) = pads
    return y, grad_x[:, top : top + x.shape[1], left : left + x.shape[2]], grad_kernel


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_value_and_gradients_tap_by_tap(case):
    shape, kernel_shape, strides, padding = case
    x, kernel = arrays(shape, kernel_shape)
    y = jax.eval_shape(lambda x, k: lax_conv(x, k, strides, padding), x, kernel)
    g = np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape)

    @compile.jit
    def ours(x, kernel, g):
        y, pull = jax.vjp(lambda x, k: conv2d(x, k, strides=strides, padding=padding), x, kernel)
        return y, *pull(g)

    for actual, expected in zip(ours(x, kernel, g), by_taps(x, kernel, g, strides, padding), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


WINOGRAD = {
    "same": ((2, 16, 16, 64), (3, 3, 64, 72), (1, 1), "SAME"),
    "valid, no multiple of four": ((3, 19, 20, 72), (3, 3, 72, 64), (1, 1), "VALID"),
    "uneven padding": ((2, 15, 14, 64), (3, 3, 64, 64), (1, 1), ((1, 0), (2, 1))),
    "gradient of a stride": ((2, 32, 32, 64), (3, 3, 64, 72), (2, 2), "SAME"),
}


@pytest.mark.parametrize("case", WINOGRAD.values(), ids=WINOGRAD.keys())
def test_the_winograd_form_is_a_convolution_and_its_gradient_too(case):
    shape, kernel_shape, strides, padding = case
    x, kernel = arrays(shape, kernel_shape)

    def input_gradient(x, kernel, g):
        return jax.vjp(lambda x: conv2d(x, kernel, strides=strides, padding=padding), x)[1](g)[0]

    y, pull = jax.vjp(lambda x, k: conv2d(x, k, strides=strides, padding=padding), x, kernel)
    g = np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape)
    # What is left to be a convolution of its own is the value of a strided one.
    text = jax.jit(input_gradient).lower(x, kernel, g).compile().as_text()
    assert "convolution(" not in text
    for actual, expected in zip((y, *pull(g)), by_taps(x, kernel, g, strides, padding), strict=True):
        np.testing.assert_allclose(actual, expected, atol=4e-5 * np.abs(expected).max())


def test_the_winograd_form_of_a_row_does_not_depend_on_the_others():
    x, kernel = arrays((5, 16, 16, 64), (3, 3, 64, 64))
    whole = jax.jit(conv2d)(x, kernel)
    alone = jax.jit(jax.vmap(lambda row: conv2d(row[None], kernel)[0]))(x)
    largest = float(jnp.abs(whole).max())
    np.testing.assert_allclose(conv2d(x[3:4], kernel)[0], whole[3], atol=1e-5 * largest)
    np.testing.assert_allclose(alone, whole, atol=1e-5 * largest)
    narrow = conv2d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), whole, atol=0.02 * largest)


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "why"),
    [
        ((64, 10, 10, 256), (3, 3, 256, 256), "the kernel's transform is not worth four tiles"),
        ((64, 18, 18, 32), (3, 3, 32, 64), "few channels"),
        ((64, 18, 18, 64), (5, 5, 64, 64), "no form for this kernel"),
        ((64, 15, 3, 64), (3, 3, 64, 64), "64 computed for 13 asked"),
    ],
)
def test_the_winograd_form_is_left_where_it_does_not_pay(shape, kernel_shape, why):
    assert not _winograd.pays(shape, kernel_shape), why


def test_value_is_scipys_correlation():
    x, kernel = arrays((2, 6, 7, 2), (3, 2, 2, 2))
    y = conv2d(x, kernel)
    for b, o in np.ndindex(2, 2):
        expected = sum(signal.correlate2d(x[b, :, :, c], kernel[:, :, c, o], "valid") for c in (0, 1))
        np.testing.assert_allclose(y[b, :, :, o], expected, rtol=1e-5, atol=1e-5)


def test_gradients_inside_a_loop_are_those_outside():
    x, kernel = arrays((18, 8, 8, 4), (3, 3, 4, 4))

    def gradients(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(conv2d(x, k) ** 2), argnums=(0, 1))(x, kernel)

    def looped(x, kernel):
        zeros = jax.tree.map(jnp.zeros_like, (x, kernel))
        return lax.fori_loop(0, 3, lambda _, a: jax.tree.map(jnp.add, a, gradients(x, kernel)), zeros)

    once, thrice = jax.jit(gradients)(x, kernel), jax.jit(looped)(x, kernel)
    for a, b in zip(once, thrice, strict=True):
        np.testing.assert_allclose(3 * a, b, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_is_a_loop(axes, channels):
    x, kernel = arrays((3, 5, 6, 6, channels), (3, 3, 3, channels, 2))
    args = [a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes, strict=True)]

    @jax.jit
    def grads(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(conv2d(x, k))), argnums=(0, 1))(x, kernel)

    batched = jax.jit(jax.vmap(grads, axes))(*args)
    for i in range(3):
        single = grads(*(a[i] if axis == 0 else a for a, axis in zip(args, axes, strict=True)))
        for b, s in zip(batched, single, strict=True):
            np.testing.assert_allclose(b[i], s, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [16, 40], ids=["one block", "blocks and a rest"])
def test_kernel_gradients_agree_on_mapped_devices(rows):
    # The devices' images differ, and with them the sums over blocks that the kernel's gradient is made of.
    x, kernel = arrays((2 * rows, 6, 6, 8), (3, 3, 8, 4))
    devices = jax.devices()[:2]

    def gradient(x, kernel):
        return jax.grad(lambda k: (conv2d(x, k) ** 2).sum())(kernel)

    def summed(x, kernel):
        return lax.psum(gradient(x, lax.pcast(kernel, "batch", to="varying")), "batch")

    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    mapped = jax.shard_map(summed, mesh=mesh, in_specs=(spec("batch"), spec()), out_specs=spec())
    pmapped = jax.pmap(summed, axis_name="batch", in_axes=(0, None), devices=devices)
    expected = gradient(x, kernel)
    tolerance = 1e-5 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(jax.jit(mapped)(x, kernel), expected, atol=tolerance)
    np.testing.assert_allclose(pmapped(x.reshape(2, rows, 6, 6, 8), kernel)[0], expected, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 4])
def test_bfloat16_rounds_once(channels):
    x, kernel = arrays((5, 6, 6, channels), (3, 3, channels, 8), jnp.bfloat16)

    @jax.jit
    def value_and_gradients(x, kernel):
        y, pull = jax.vjp(conv2d, x, kernel)
        return y, *pull(jnp.ones_like(y))

    narrow = value_and_gradients(x, kernel)
    wide = value_and_gradients(x.astype(jnp.float32), kernel.astype(jnp.float32))
    for n, w in zip(narrow, wide, strict=True):
        assert n.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            n.astype(jnp.float32), w.astype(jnp.bfloat16).astype(jnp.float32), rtol=1e-2
        )


def test_an_empty_batch_passes():
    x, kernel = jnp.zeros((0, 5, 5, 4)), jnp.ones((3, 3, 4, 2))
    y, pull = jax.vjp(conv2d, x, kernel)
    assert y.shape == (0, 3, 3, 2)
    np.testing.assert_array_equal(pull(y)[1], 0)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_get_laxs_own_convolutions(platform):
    x, kernel = arrays((32, 8, 8, 4), (3, 3, 4, 4))

    def gradients(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(conv2d(x, k) ** 2), argnums=(0, 1))(x, kernel)

    def convolutions(platforms):
        module = jax.export.export(jax.jit(gradients), platforms=platforms)(x, kernel).mlir_module()
        return module.count("stablehlo.convolution"), "stablehlo.while" in module

    assert convolutions([platform]) == (3, False)
    assert convolutions(["cpu"])[1], "on CPU the kernel's gradient goes by blocks"
    assert convolutions(["cpu", platform])[1], "one module for both"


def test_wrong_arguments_are_named():
    x, kernel = arrays((2, 4, 4, 3), (3, 3, 3, 2))
    with pytest.raises(ValueError, match="same c"):
        conv2d(x[..., :2], kernel)
    with pytest.raises(ValueError, match="one floating dtype"):
        conv2d(x.astype(jnp.bfloat16), kernel)
    with pytest.raises(ValueError, match="Unknown padding 'same'"):
        conv2d(x, kernel, padding="same")
    with pytest.raises(ValueError, match="strides"):
        conv2d(x, kernel, strides=(0, 1))
    with pytest.raises(ValueError, match=">= 0"):
        conv2d(x, kernel, padding=((-1, 0), (0, 0)))
    with pytest.raises(ValueError, match="no larger than"):
        conv2d(x[:, :2], kernel)


@pytest.mark.parametrize(("size", "channels"), [(6, 4), (14, 64)], ids=["plain", "Winograd"])
def test_it_exports_for_any_number_of_images_with_both_gradients(size, channels):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, channels, channels)), jnp.float32)
    (rows,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((rows, size, size, channels), jnp.float32)
    assert _winograd.pays((2, size + 2, size + 2, channels), kernel.shape) == (channels == 64)

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: conv2d(x, kernel, padding="SAME").sum(), argnums=(0, 1))(x, kernel)

    exported = jax.export.export(jax.jit(gradients), platforms=["cpu", "cuda", "tpu"])(x, kernel)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(17, size, size, channels)), jnp.float32)
    for found, expected in zip(exported.call(images, kernel), gradients(images, kernel)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
