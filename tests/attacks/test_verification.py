"""Attacks on verification: dodging and impersonation, pair by pair."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrobust
from jaxrobust.attacks import PGD, GridSearch, fgsm
from jaxrobust.neighbourhoods import LInf, Masked, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.numerics.similarity import cosine, pair_logits

KEY = jax.random.key(0)
PGD_MARGIN = PGD(neighbourhood=LInf(eps=0.1), steps=10, step_size=0.2, loss_fn=losses.margin)


def embed(kernel, images):
    return images.reshape(len(images), -1) @ kernel


KERNEL = jax.random.normal(jax.random.key(1), (25, 6))
MODEL = functools.partial(embed, KERNEL)
X = jax.random.uniform(jax.random.key(2), (8, 5, 5, 1))
PARTNERS = jnp.clip(X + 0.05 * jax.random.normal(jax.random.key(3), X.shape), 0, 1)
SAME = jnp.arange(8) < 4
THRESHOLD = 0.9


def references():
    """The first four look at their like, the others at strangers."""
    return jnp.where(SAME[:, None, None, None], PARTNERS, jnp.roll(1 - PARTNERS, 3, axis=0))


def decisions(images):
    return cosine(MODEL(images), MODEL(references())) > THRESHOLD


def run(attack, **options):
    options = {"threshold": THRESHOLD, "key": KEY, **options}
    return jaxrobust.attack_pairs(attack, MODEL, X, references(), SAME, **options)


def test_logits_are_half_the_score_and_its_negative():
    first, second = MODEL(X), MODEL(PARTNERS)
    cos = np.sum(first * second, -1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    logits = pair_logits(first, second, 0.3, 8.0)
    np.testing.assert_allclose(logits[:, 0], 4 * (cos - 0.3), atol=1e-5)
    np.testing.assert_allclose(logits[:, 1], -logits[:, 0])
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 0], jax.nn.sigmoid(8 * (cos - 0.3)), atol=1e-6)


def test_a_zero_embedding_has_finite_derivatives():
    zeros = jnp.zeros((1, 3))
    gradient = jax.grad(lambda e: pair_logits(e, jnp.ones((1, 3)), 0.0, 1.0).sum())(zeros)
    assert bool(jnp.isfinite(gradient).all())


def test_genuine_pairs_are_dodged_and_impostors_accepted():
    result = run(PGD(neighbourhood=LInf(eps=0.5), steps=40, step_size=0.1, loss_fn=losses.margin))
    np.testing.assert_array_equal(result.found, decisions(result.image) != SAME)
    assert result.found[:4].all()
    clean = cosine(MODEL(X), MODEL(references()))
    moved = cosine(MODEL(result.image), MODEL(references()))
    assert (moved < clean)[:4].all()
    assert (moved > clean)[4:].all()


def test_one_step_is_the_sign_of_the_cosines_gradient():
    gradient = jax.grad(lambda x: cosine(MODEL(x), MODEL(references())).sum())(X)
    toward = jnp.where(SAME, -1.0, 1.0)[:, None, None, None]
    expected = jnp.clip(X + 0.01 * toward * jnp.sign(gradient), 0, 1)
    np.testing.assert_allclose(run(fgsm(LInf(eps=0.01))).image, expected, atol=1e-6)


def test_embeddings_serve_as_partners():
    by_image = run(PGD_MARGIN)
    by_embedding = jaxrobust.attack_pairs(
        PGD_MARGIN, MODEL, X, 3.0 * MODEL(references()), SAME, threshold=THRESHOLD, key=KEY
    )
    np.testing.assert_allclose(by_image.image, by_embedding.image, atol=1e-6)


def test_chunks_and_other_thresholds_change_no_program():
    traces = []

    def counted(kernel, images):
        traces.append(1)
        return embed(kernel, images)

    def call(threshold, chunk):
        return jaxrobust.attack_pairs(
            PGD_MARGIN,
            functools.partial(counted, KERNEL),
            X,
            MODEL(references()),
            SAME,
            threshold=threshold,
            key=KEY,
            chunk=chunk,
        )

    first = call(THRESHOLD, 3)
    seen = len(traces)
    call(0.2, 3)
    assert len(traces) == seen
    np.testing.assert_allclose(first.image, call(THRESHOLD, None).image, atol=1e-6)


def test_geometry_attacks_pairs_too():
    moves = GridSearch(
        neighbourhood=RotationTranslation(max_angle=30.0, max_shift=1.0), granularity=(3, 3, 5)
    )
    result = run(moves)
    np.testing.assert_array_equal(result.found, decisions(result.image) != SAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": 0.5, "scale": 0.0}, "scale"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(PGD_MARGIN, **changes)


@pytest.mark.parametrize(
    ("partners", "same", "message"),
    [
        (X[:4], SAME, "shape of x"),
        (jnp.ones((8, 3)), SAME, "as embed_fn gives them"),
        (jnp.full((8, 6), jnp.nan), SAME, "finite"),
        (X, SAME[:3], r"bool \[8\]"),
        (X, SAME.astype(jnp.int32), "bool"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(partners, same, message):
    with pytest.raises(ValueError, match=message):
        jaxrobust.attack_pairs(PGD_MARGIN, MODEL, X, partners, same, threshold=0.5, key=KEY)


def test_a_mask_of_a_wrong_shape_or_value_is_refused():
    masked = PGD(neighbourhood=Masked(neighbourhood=LInf(eps=0.1)), steps=3)
    with pytest.raises(ValueError, match="mask of shape"):
        run(masked, mask=jnp.ones((3, 3, 1)))
    with pytest.raises(ValueError, match="zeros and ones"):
        run(masked, mask=jnp.full((5, 5, 1), 0.5))


def test_a_mask_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match="would not read"):
        run(PGD_MARGIN, mask=jnp.ones((5, 5, 1)))


def test_a_targeted_attack_on_pairs_is_refused():
    with pytest.raises(ValueError, match="untargeted"):
        run(PGD(neighbourhood=LInf(eps=0.1), targeted=True))


def test_the_example_runs():
    path = Path(__file__).parents[2] / "examples" / "attack_verification.py"
    spec = importlib.util.spec_from_file_location("attack_verification", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.main()
    assert found["clean"] < 0.3
    assert found["DDN, dodging"] == found["DDN, impersonation"] == 1
    assert found["PGD, impersonation"] > found["clean"]
