"""Rotation-translation against scipy, numpy's quarter turns and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxrobust.neighbourhoods import Pose, RotationTranslation, spatial
from jaxrobust.types import Example

move = jax.jit(spatial.move)
MOVES = RotationTranslation(max_angle=30.0, max_shift=3.0)


def pose(angle=0.0, down=0.0, right=0.0):
    return Pose(angle=jnp.asarray(angle, jnp.float32), shift=jnp.asarray([down, right], jnp.float32))


def scipy_move(image, angle, down, right):
    """Rotate on a canvas with room for every shift, then shift, then crop; in float64, by channel."""
    margin = int(np.ceil(max(abs(down), abs(right)))) + 1
    h, w, _ = image.shape
    canvas = np.pad(image.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)))
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    inverse = np.array([[cos, sin], [-sin, cos]])
    centre = np.array([canvas.shape[0] - 1, canvas.shape[1] - 1]) / 2
    moved = []
    for channel in np.moveaxis(canvas, -1, 0):
        turned = ndimage.affine_transform(
            channel, inverse, centre - inverse @ centre, order=1, mode="constant"
        )
        moved.append(ndimage.shift(turned, (down, right), order=1, mode="grid-constant"))
    return np.stack(moved, axis=-1)[margin : margin + h, margin : margin + w]


def real_images(num):
    from sklearn.datasets import load_digits

    return np.float32(load_digits().images[:num, :, :, None] / 16)


def check_against_scipy(image, poses):
    ours = jax.jit(jax.vmap(move, (None, 0)))(jnp.asarray(image), poses)
    for i, (angle, (down, right)) in enumerate(zip(np.asarray(poses.angle), np.asarray(poses.shift))):
        theirs = scipy_move(image, float(angle), float(down), float(right))
        np.testing.assert_allclose(ours[i], theirs, atol=1e-4, err_msg=f"{angle=} {down=} {right=}")


def test_the_775_grid_equals_scipy_on_digits():
    grid = MOVES.grid((5, 5, 31))
    assert grid.angle.shape == (775,)
    check_against_scipy(real_images(1)[0], grid)


def test_the_775_grid_equals_scipy_on_mnist(data_dir):
    tfds = pytest.importorskip("tensorflow_datasets")
    image = np.float32(tfds.data_source("mnist", split="test", data_dir=str(data_dir))[0]["image"]) / 255
    check_against_scipy(image, MOVES.grid((5, 5, 31)))


def test_any_pose_equals_scipy_on_odd_oblong_colour_images():
    image = np.random.default_rng(0).random((7, 12, 3), dtype=np.float32)
    wide = RotationTranslation(max_angle=180.0, max_shift=9.5)
    ex = Example(jnp.asarray(image), jnp.array(0))
    poses = jax.vmap(wide.sample, (0, None))(jax.random.split(jax.random.key(1), 100), ex)
    check_against_scipy(image, poses)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_positive_angles_are_counter_clockwise(turns):
    image = real_images(1)[0]
    turned = move(jnp.asarray(image), pose(angle=90.0 * turns if turns < 3 else -90.0))
    np.testing.assert_allclose(turned, np.rot90(image, turns), atol=1e-5)


def test_whole_shifts_are_copies_and_positive_is_down_and_right():
    image = real_images(1)[0]
    expected = np.zeros_like(image)
    expected[2:, :-1] = image[:-2, 1:]
    np.testing.assert_array_equal(move(jnp.asarray(image), pose(down=2.0, right=-1.0)), expected)


def test_the_identity_is_bitwise():
    for image in (real_images(3)[2], np.random.default_rng(1).random((9, 6, 2), dtype=np.float32)):
        ex = Example(jnp.asarray(image), jnp.array(0))
        np.testing.assert_array_equal(jax.jit(MOVES.apply)(ex, MOVES.init(ex)), image)


def test_content_that_rotation_takes_out_of_the_frame_comes_back_by_translation():
    # Half a turn about the centre keeps the corner in; an eighth takes it out through the top, by 0.21 * h.
    image = np.zeros((9, 9, 1), np.float32)
    image[0, 8] = 1.0
    assert float(move(jnp.asarray(image), pose(angle=45.0)).sum()) < 0.7
    moved = move(jnp.asarray(image), pose(angle=45.0, down=3.0))
    assert float(moved.sum()) == pytest.approx(1.0, abs=0.1)


def test_the_derivative_in_the_pose_equals_finite_differences():
    smooth = ndimage.gaussian_filter(real_images(1)[0, ..., 0], 1.0)[..., None]
    image = jnp.asarray(smooth)
    weights = jax.random.normal(jax.random.key(2), image.shape)

    def score(theta):
        return (move(image, theta) * weights).sum()

    at = pose(angle=7.3, down=0.37, right=-1.24)
    gradient = jax.jit(jax.grad(score))(at)
    step = 1e-2
    for name, move_by in {
        "angle": pose(angle=step),
        "down": pose(down=step),
        "right": pose(right=step),
    }.items():
        ahead, behind = (jax.tree.map(lambda a, b, s=s: a + s * b, at, move_by) for s in (1, -1))
        numeric = float(score(ahead) - score(behind)) / (2 * step)
        ours = {"angle": gradient.angle, "down": gradient.shift[0], "right": gradient.shift[1]}[name]
        assert float(ours) == pytest.approx(numeric, rel=0.05, abs=1e-3)


def test_the_derivative_in_the_image_is_the_transpose():
    # The motion is linear in the image, so <move(a), b> = <a, move^T(b)>.
    a, b = (jax.random.normal(jax.random.key(i), (8, 8, 2)) for i in (3, 4))
    at = pose(angle=-21.0, down=1.3, right=-0.4)
    moved, pullback = jax.vjp(lambda image: move(image, at), a)
    assert float((moved * b).sum()) == pytest.approx(float((a * pullback(b)[0]).sum()), rel=1e-4)


def test_the_grid_is_ordered_symmetric_and_holds_the_identity_exactly():
    grid = MOVES.grid((5, 5, 31))
    np.testing.assert_allclose(grid.angle[:31], np.linspace(-30, 30, 31), atol=1e-5)
    np.testing.assert_array_equal(grid.shift[:, 0], np.repeat(np.linspace(-3, 3, 5), 155))
    np.testing.assert_array_equal(grid.shift[:155, 1], np.repeat(np.linspace(-3, 3, 5), 31))
    is_identity = (grid.angle == 0) & (grid.shift == 0).all(axis=1)
    assert is_identity.sum() == 1
    np.testing.assert_array_equal(grid.angle[:31], -grid.angle[:31][::-1])


@pytest.mark.parametrize(
    ("limits", "granularity", "num"),
    [
        ((30.0, 3.0), (1, 1, 31), 31),
        ((30.0, 0.0), (5, 5, 31), 31),
        ((0.0, 3.0), (5, 5, 31), 25),
        ((30.0, 3.0), (1, 1, 1), 1),
    ],
)
def test_a_limit_of_0_or_a_granularity_of_1_leaves_a_motion_out(limits, granularity, num):
    grid = RotationTranslation(max_angle=limits[0], max_shift=limits[1]).grid(granularity)
    assert grid.angle.shape == (num,)
    if granularity[2] == 1 or limits[0] == 0:
        assert not grid.angle.any()
    if granularity[0] == 1 or limits[1] == 0:
        assert not grid.shift.any()


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5])
def test_scaled_beyond_half_a_turn_stops_there_traced_or_not(factor):
    moves = RotationTranslation(max_angle=100.0, max_shift=2.0)
    concrete = moves.scaled(factor)
    traced = jax.jit(lambda f: (moves.scaled(f).max_angle, moves.scaled(f).max_shift))(factor)
    assert concrete.max_angle == min(100 * factor, 180) and concrete.max_shift == 2 * factor
    np.testing.assert_allclose(traced, (concrete.max_angle, concrete.max_shift))


def test_the_grid_takes_a_traced_factor():
    grid = jax.jit(lambda factor: MOVES.scaled(factor).grid((3, 3, 3)))(0.5)
    np.testing.assert_allclose(grid.angle[:3], [-15, 0, 15], atol=1e-5)
    assert float(jnp.abs(grid.shift).max()) == 1.5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_angle": -1.0, "max_shift": 0.0}, "max_angle"),
        ({"max_angle": 181.0, "max_shift": 0.0}, "180"),
        ({"max_angle": 1.0, "max_shift": -1.0}, "pixels"),
        ({"max_angle": float("nan"), "max_shift": 1.0}, "finite"),
    ],
)
def test_limits_are_checked(fields, words):
    with pytest.raises(ValueError, match=words):
        RotationTranslation(**fields)
