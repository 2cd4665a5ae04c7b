"""Ensembles: who keeps which row, what counts, which keys; AutoAttack for few and many classes."""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import APGD, FAB, PGD, Ensemble, GridSearch, Sequence, Square, autoattack, fgsm
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.neighbourhoods import L1, L2, LInf, RotationTranslation
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import AttackResult, Example

ROWS, SHAPE = 4, (2, 3, 1)
KEYS = jax.random.split(jax.random.key(0), ROWS)
EXAMPLE = Example(jnp.full((ROWS, *SHAPE), 0.5), jnp.zeros(ROWS, jnp.int32))


def score(images, ex):
    """Class 1 from a mean above 0.7 on."""
    mean = images.mean(axis=(1, 2, 3))
    return jnp.stack([0 * mean, mean - 0.7], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A stand-in: row i becomes an image of `levels[i]` everywhere, at `distances[i]`; `broken`: NaN met."""

    minimum_norm: ClassVar[bool] = True
    levels: tuple[float, ...]
    distances: tuple[float, ...] = (0.5,) * ROWS
    broken: tuple[bool, ...] | None = None
    factor: float = 1.0

    def __call__(self, keys, score_fn, example):
        image = 0 * example.image + jnp.array(self.levels)[:, None, None, None]
        return AttackResult(
            image=image,
            theta=(),
            found=jnp.argmax(score_fn(image, example), axis=-1) != example.target,
            distance=jnp.array(self.distances),
            nonfinite=None if self.broken is None else jnp.array(self.broken),
        )

    def scaled(self, factor):
        return replace(self, factor=self.factor * factor)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A stand-in that fools nobody and answers with its own random numbers."""

    def __call__(self, keys, score_fn, example):
        image = 0 * example.image + 0.6 * jax.vmap(jax.random.uniform)(keys)[:, None, None, None]
        rows = jnp.zeros(len(image))
        return AttackResult(image, (), rows > 0, rows)

    def scaled(self, factor):
        return self


def levels(result):
    return np.asarray(result.image[:, 0, 0, 0])


def test_the_first_to_fool_a_row_keeps_it_and_the_worst_of_failures_is_kept():
    first = Fixed(levels=(0.8, 0.6, 0.4, 0.6), distances=(0.1, 0.2, 0.3, 0.4))
    second = Fixed(levels=(0.9, 0.8, 0.6, 0.5), distances=(0.6, 0.7, 0.8, 0.9))
    result = Ensemble(attacks=(first, second))(KEYS, score, EXAMPLE)
    np.testing.assert_allclose(levels(result), [0.8, 0.8, 0.6, 0.6])
    np.testing.assert_array_equal(result.found, [True, True, False, False])
    np.testing.assert_allclose(result.distance, [0.1, 0.7, 0.8, 0.4])
    np.testing.assert_allclose(result.theta, result.image - EXAMPLE.image)
    assert not result.nonfinite.any()


def test_a_success_beyond_the_radius_counts_as_the_clean_image():
    far = Fixed(levels=(0.8, 0.8, 0.9, 0.9), distances=(1.0, 1.1, 2.0, 1.00001))
    result = Ensemble(attacks=(far,))(KEYS, score, EXAMPLE)
    np.testing.assert_array_equal(result.found, [True, False, False, True])
    np.testing.assert_allclose(levels(result), [0.8, 0.5, 0.5, 0.9])
    np.testing.assert_allclose(result.distance, [1.0, 0.0, 0.0, 1.00001])
    # A later member still gets the row, and what it brings is worse than the clean image.
    later = Fixed(levels=(0.1, 0.8, 0.6, 0.1), distances=(0.5,) * ROWS)
    result = Ensemble(attacks=(far, later))(KEYS, score, EXAMPLE)
    np.testing.assert_array_equal(result.found, [True, True, False, True])
    np.testing.assert_allclose(levels(result), [0.8, 0.8, 0.6, 0.9])


def test_nan_met_on_rows_that_were_over_is_not_remembered():
    first = Fixed(levels=(0.8, 0.5, 0.5, 0.5), broken=(False, False, True, False))
    second = Fixed(levels=(0.8, 0.5, 0.5, 0.5), broken=(True, True, False, False))
    result = Ensemble(attacks=(first, second))(KEYS, score, EXAMPLE)
    np.testing.assert_array_equal(result.nonfinite, [False, True, True, False])


def test_members_draw_from_their_number_and_nested_ones_from_both():
    """So that an evaluation may run them one by one over what is left."""
    inner = Ensemble(attacks=(Fixed(levels=(0.1,) * ROWS), Draws()))
    outer = Ensemble(attacks=(Fixed(levels=(0.0,) * ROWS), inner))
    expected = Draws()(fold_rows(fold_rows(KEYS, 1), 1), score, EXAMPLE)
    found = outer(KEYS, score, EXAMPLE)
    worst = np.maximum(levels(expected), 0.1)
    np.testing.assert_allclose(levels(found), worst)


def test_it_finds_what_its_members_find_over_the_survivors():
    net, example = small_net(5)
    members = (
        PGD(neighbourhood=LInf(eps=0.014), steps=3),
        FAB(neighbourhood=LInf(eps=0.025), steps=5),
        Square(neighbourhood=LInf(eps=0.05), queries=20),
    )
    keys = jax.random.split(jax.random.key(1), len(example.target))
    together = jax.jit(lambda k, e: Ensemble(attacks=members)(k, net, e))(keys, example)
    left, broken_by = np.arange(len(keys)), {}
    for i, member in enumerate(members):
        alone = jax.jit(lambda k, e, a=member: a(k, net, e))(
            fold_rows(keys, i)[left], jax.tree.map(lambda leaf, rows=left: leaf[rows], example)
        )
        over = np.asarray(alone.found & (alone.distance <= 1 + 1e-4))
        broken_by |= {int(row): np.asarray(alone.image[at]) for at, row in enumerate(left) if over[at]}
        left = left[~over]
    np.testing.assert_array_equal(np.flatnonzero(together.found), sorted(broken_by))
    assert len(broken_by) > 1
    for row, image in broken_by.items():
        np.testing.assert_allclose(together.image[row], image, atol=1e-5)


def test_batches_that_are_over_skip_the_rest():
    """The second member would fail if it ran: a callback counts."""
    calls = []

    @dataclass(frozen=True)
    class Counted:
        def __call__(self, keys, score_fn, example):
            jax.debug.callback(lambda: calls.append(1))
            return Fixed(levels=(0.8,) * ROWS)(keys, score_fn, example)

        def scaled(self, factor):
            return self

    def run(first):
        calls.clear()
        jax.block_until_ready(jax.jit(lambda: Ensemble(attacks=(first, Counted()))(KEYS, score, EXAMPLE))())
        jax.effects_barrier()
        return len(calls)

    assert run(Fixed(levels=(0.8,) * ROWS)) == 0
    assert run(Fixed(levels=(0.8, 0.8, 0.8, 0.6))) == 1


def test_scaled_reaches_every_member():
    ensemble = Ensemble(attacks=(fgsm(LInf(eps=0.2)), Ensemble(attacks=(fgsm(L2(eps=1.0)),))))
    half = ensemble.scaled(0.5)
    assert half.attacks[0].neighbourhood.eps == 0.1
    assert half.attacks[1].attacks[0].neighbourhood.eps == 0.5
    assert half.loss_fn is ensemble.loss_fn


def test_targeted_is_one_thing_for_all_members():
    to, away = fgsm(LInf(eps=0.2), targeted=True), fgsm(LInf(eps=0.2))
    assert Ensemble(attacks=(to, to)).targeted
    assert not Ensemble(attacks=(away, Fixed(levels=(0.1,) * ROWS))).targeted
    made = replace(Ensemble(attacks=(away, Ensemble(attacks=(away,)))), targeted=True)
    assert made.attacks == (to, Ensemble(attacks=(to,)))
    assert made == replace(made)
    with pytest.raises(ValueError, match="all targeted or all untargeted"):
        Ensemble(attacks=(to, away))
    with pytest.raises(ValueError, match="all targeted or all untargeted"):
        Ensemble(attacks=(to, Sequence(stages=(away,))))


def test_the_worst_of_targeted_failures_is_the_nearest_to_the_designated_class():
    ensemble = Ensemble(attacks=(fgsm(LInf(eps=0.05)), fgsm(LInf(eps=0.1))), targeted=True)
    result = ensemble(KEYS, score, EXAMPLE._replace(target=jnp.ones(ROWS, jnp.int32)))
    assert not result.found.any()
    np.testing.assert_allclose(levels(result), 0.6, atol=1e-6)


@functools.cache
def small_net(num_classes):
    """A net of random weights and eight images, of which it has the target right."""
    first, second, third = jax.random.split(jax.random.key(num_classes), 3)
    kernel = jax.random.normal(first, (36, 10)) / 3
    head = jax.random.normal(second, (10, num_classes))

    def net(images, ex):
        return jnp.tanh(images.reshape(len(images), -1) @ kernel) @ head

    images = jax.random.uniform(third, (8, 6, 6, 1))
    return net, Example(images, jnp.argmax(net(images, None), axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "ball"), [(2, LInf(eps=0.1)), (3, L2(eps=0.4))])
def test_autoattack_is_at_least_as_strong_as_each_member_and_as_pgd(num_classes, ball):
    """Also with fewer than 4 classes, where the targeted DLR is undefined."""
    net, example = small_net(num_classes)
    keys = jax.random.split(jax.random.key(2), len(example.target))
    ensemble = autoattack(ball, steps=10, queries=50)
    result = jax.jit(lambda k, e: ensemble(k, net, e))(keys, example)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in (result.image, result.distance))
    assert result.distance.max() <= 1 + 1e-4
    wrong = jnp.argmax(net(result.image, example), axis=-1) != example.target
    np.testing.assert_array_equal(result.found, wrong)
    pgd = jax.jit(lambda k, e: PGD(neighbourhood=ball, steps=20, step_size=0.2)(k, net, e))(keys, example)
    assert (result.found | ~pgd.found).all()
    assert result.found.any()


def test_autoattack_is_the_standard_of_the_paper():
    ball = LInf(eps=8 / 255)
    ensemble = autoattack(ball)
    assert ensemble.attacks == (
        APGD(neighbourhood=ball, steps=100, restarts=1, loss_fn=cross_entropy),
        APGD(neighbourhood=ball, steps=100, restarts=1, num_targets=9),
        FAB(neighbourhood=ball, steps=100, restarts=1, num_targets=9),
        Square(neighbourhood=ball, queries=5000, restarts=1),
    )
    for other in (L1(eps=1.0), RotationTranslation(max_angle=3.0, max_shift=1.0)):
        with pytest.raises(ValueError, match="Expected a ball like"):
            autoattack(other)
    with pytest.raises(ValueError, match="num_targets >= 1"):
        autoattack(ball, num_targets=0)


def test_what_is_no_attack_is_refused():
    for wrong in ((), [fgsm(LInf(eps=0.1))], (PGD,), ("pgd",), GridSearch):
        with pytest.raises(ValueError, match="to be"):
            Ensemble(attacks=wrong)
