"""Margin losses against their equations in float64, at the ends of the cosine, and in bfloat16."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.numerics.margins import ArcFace, CosFace

S, M = 16.0, 0.4
COSINES = np.array([[0.7, -0.2, 0.1], [-0.5, 0.3, 0.9], [0.0, 0.99, -0.99]])
LABELS = np.array([0, 1, 1])
LOSSES = pytest.mark.parametrize(
    "loss_fn", [CosFace(s=S, m=M), ArcFace(s=S, m=M), ArcFace(s=S, m=M, easy_margin=True)], ids=str
)


def by_hand(moved):
    """Cross-entropy in float64 where the label's cosine has become `moved(cos)`."""
    logits = S * COSINES
    rows = np.arange(3)
    logits[rows, LABELS] = [S * moved(c) for c in COSINES[rows, LABELS]]
    return -special.log_softmax(logits, axis=-1)[rows, LABELS]


@pytest.mark.parametrize(
    ("loss_fn", "moved"),
    [
        (CosFace(s=S, m=M), lambda c: c - M),
        (ArcFace(s=S, m=M), lambda c: math.cos(math.acos(c) + M)),
        (ArcFace(s=S, m=M, easy_margin=True), lambda c: math.cos(math.acos(c) + M) if c > 0 else c),
    ],
    ids=["cosface", "arcface", "easy"],
)
def test_values_are_the_papers(loss_fn, moved):
    logits = jnp.asarray(S * COSINES, jnp.float32)
    np.testing.assert_allclose(loss_fn(logits, LABELS), by_hand(moved), rtol=2e-5, atol=1e-6)
    one_hot = jax.nn.one_hot(LABELS, 3)
    np.testing.assert_allclose(loss_fn(logits, one_hot), loss_fn(logits, LABELS), rtol=1e-6)


def test_beyond_pi_arcface_goes_on_falling():
    angles = np.linspace(0, np.pi, 2001)
    moved = np.asarray(ArcFace(m=M)._moved(jnp.asarray(np.cos(angles), jnp.float32)))
    assert (np.diff(moved) < 1e-6).all()
    np.testing.assert_allclose(moved[-1], -1 - M * math.sin(M), rtol=1e-6)
    easy = np.asarray(ArcFace(m=M, easy_margin=True)._moved(jnp.asarray(np.cos(angles), jnp.float32)))
    np.testing.assert_allclose(easy[angles > np.pi / 2], np.cos(angles[angles > np.pi / 2]), atol=1e-6)


@LOSSES
def test_without_a_margin_it_is_cross_entropy(loss_fn):
    bare, logits = type(loss_fn)(s=S, m=0.0), jnp.asarray(S * COSINES, jnp.float32)
    np.testing.assert_allclose(bare(logits, LABELS), cross_entropy(logits, LABELS), rtol=1e-5)


@LOSSES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_finite_at_the_ends(loss_fn, dtype):
    ends = S * jnp.array([1.0, -1.0, 1.0 + 2.0**-23, -1.0 - 2.0**-23, 1.0 - 2.0**-24])
    logits = jnp.stack([ends, 0 * ends, 1 - ends / S], axis=1).astype(dtype)
    labels = jnp.zeros(len(ends), int)
    values, gradient = loss_fn(logits, labels), jax.grad(lambda z: loss_fn(z, labels).sum())(logits)
    assert values.dtype == jnp.float32 and np.isfinite(values).all()
    assert gradient.dtype == dtype and np.isfinite(gradient.astype(jnp.float32)).all()
    assert (gradient[:, 0] <= 0).all() and (gradient[:, 1] >= 0).all()
    # A label that is far off is pulled with the full weight; one that is near, the harder the nearer.
    assert (gradient[jnp.array([1, 3]), 0] < -0.99).all()


@LOSSES
def test_gradients_are_the_finite_differences_of_the_loss(loss_fn):
    """Within the chord and outside; one label's logit at a time, by steps that float32 resolves."""
    cosines, step = jnp.array([1.0, 1.0 - 2.0**-17, 0.999, 0.1, -0.999, -1.0]), 2.0**-19
    labels = jnp.zeros(len(cosines), int)

    def loss(cosine):
        # Against many others at 1, the loss is nearly linear in the label's logit, with slope -1.
        return loss_fn(S * jnp.concatenate([cosine[:, None], jnp.ones((len(cosine), 200))], axis=1), labels)

    slopes = jax.grad(lambda cosine: loss(cosine).sum())(cosines)
    differences = (loss(cosines + step) - loss(cosines - step)) / (2 * step)
    np.testing.assert_allclose(differences, slopes, rtol=0.1)
    assert np.isfinite(slopes).all() and (slopes < -0.5 * S).all()


def test_arcfaces_slope_is_exact_in_double_precision():
    with jax.enable_x64(True):
        cosines, step, loss_fn = (
            jnp.array([1.0, 1.0 - 2.0**-18, 0.999, 0.1, -0.999, -1.0]),
            2.0**-22,
            ArcFace(),
        )
        differences = (loss_fn._moved(cosines + step) - loss_fn._moved(cosines - step)) / (2 * step)
        slopes = jax.grad(lambda cosines: loss_fn._moved(cosines).sum())(cosines)
        np.testing.assert_allclose(differences, slopes, rtol=1e-6)


def test_the_chord_is_near_the_curve_and_exact_at_its_ends():
    loss_fn = ArcFace(m=M)
    angles = np.linspace(0, 0.012, 400)
    with jax.enable_x64(True):
        excess = np.asarray(loss_fn._moved(jnp.asarray(np.cos(angles)))) - np.cos(angles + M)
    assert (excess > -1e-12).all() and excess.max() < 0.0014 * math.sin(M)
    np.testing.assert_allclose(excess[[0, -1]], 0, atol=1e-9)


def test_the_gradient_on_an_embedding_stays_bounded_towards_its_class():
    loss_fn, weight = ArcFace(m=M), jnp.array([1.0, 0.0, 0.0])

    def moved(features):
        return loss_fn._moved(features @ weight / jnp.linalg.norm(features))

    for angle in (0.0, 1e-4, 1e-3, 4e-3, 6e-3, 1e-2, 0.1):
        gradient = jax.grad(moved)(jnp.array([math.cos(angle), math.sin(angle), 0.0]))
        assert np.isfinite(gradient).all() and np.linalg.norm(gradient) < 2.1 * math.sin(M + angle)


@LOSSES
def test_another_scale_and_a_wrong_label_are_nan_in_their_rows_only(loss_fn):
    logits = jnp.asarray([[S * 1.1, 0.0], [S * 0.5, 0.0], [S * 0.5, 0.0]], jnp.float32)
    assert np.isnan(jax.jit(loss_fn)(logits, jnp.array([1, 0, 2]))).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosFace(s=0.0), "s > 0, got s=0.0"),
        (lambda: CosFace(m=2.5), "m <= 2.0, got m=2.5"),
        (lambda: ArcFace(m=-0.1), "0.0 <= m"),
        (lambda: ArcFace(m=2.0), "angle in radians"),
        (lambda: ArcFace(s=float("nan")), "finite s"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
