from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxrobust.attacks import PGD, fgsm
from jaxrobust.evaluation import EvalAttack, _programs, accuracy_curve, evaluate, runner_up
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.types import AttackResult, Model
from tests.evaluation.stand_ins import Boundary

EPS = 0.1


def curve_of(linear, attack, model=None, params=None, **options):
    options = {"name": "a", "batch_size": 16, "seed": 0, **options}
    return accuracy_curve(
        model or linear.model,
        params or linear.params,
        {},
        linear.images,
        linear.labels,
        EvalAttack(attack),
        **options,
    )


def test_the_curve_of_a_linear_model_is_the_tail_of_its_margins(linear):
    curve = curve_of(linear, fgsm(LInf(eps=EPS)), factors=(1.0, 0.25, 0.5))
    assert curve.factors == (0.0, 0.25, 0.5, 1.0)
    expected = [(linear.margin > max(f * EPS * linear.slope, 0)).mean() for f in curve.factors]
    assert curve.accuracy == pytest.approx(expected)
    assert len(set(expected)) == 4
    for accuracy, low, high in zip(curve.accuracy, curve.low, curve.high):
        known = scipy_stats.binomtest(round(accuracy * 53), 53).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((known.low, known.high))
    assert (curve.eps, curve.norm, curve.radius, curve.n) == (EPS, np.inf, "ℓ∞ 0.1", 53)


@dataclass(frozen=True, kw_only=True)
class OnlyHalfway:
    """Fools every image at factor 0.5 and none at any other: a badly tuned attack."""

    size: float = 1.0

    def __call__(self, keys, score_fn, example):
        image = jnp.where(jnp.abs(self.size - 0.5) < 1e-3, 1 - example.image, example.image)
        return AttackResult(image, image, jnp.ones(len(keys), bool), jnp.ones(len(keys)))

    def scaled(self, factor):
        return replace(self, size=self.size * factor)


def test_a_curve_never_rises_for_smaller_radii_count(linear):
    curve = curve_of(linear, OnlyHalfway(), factors=(0.25, 0.5, 0.75, 1.0))
    assert curve.accuracy[1] == curve.accuracy[0] > curve.accuracy[2]
    assert curve.accuracy[2:] == (curve.accuracy[2],) * 3


def test_all_radii_share_one_program_with_the_evaluation(linear):
    traces = []

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        traces.append(1)
        return linear.model.apply(params, stats, x, train=train)

    model = Model(None, apply, linear.model.image_shape, 2)
    pgd = PGD(neighbourhood=LInf(eps=EPS), steps=2, step_size=0.5)
    evaluate(
        model,
        linear.params,
        {},
        linear.images,
        linear.labels,
        {"a": EvalAttack(pgd)},
        batch_size=16,
        seed=0,
        trust_checks=False,
    )
    before = len(traces), _programs.num_compiled()
    curve_of(linear, pgd, model=model, factors=np.linspace(0, 2, 9))
    assert (len(traces), _programs.num_compiled()) == before


def test_the_full_radius_agrees_with_the_row(linear):
    attack = fgsm(LInf(eps=EPS))
    row = evaluate(
        linear.model,
        linear.params,
        {},
        linear.images,
        linear.labels,
        {"a": EvalAttack(attack)},
        batch_size=16,
        seed=0,
        trust_checks=False,
    ).row("a")
    assert curve_of(linear, attack).accuracy[-1] == row["accuracy"]


def test_progress_is_told_by_radius(linear):
    told = []
    curve_of(linear, fgsm(LInf(eps=EPS)), factors=(0, 0.5, 1), progress_fn=lambda *at: told.append(at))
    assert told == [("a", 1, 2), ("a", 2, 2)]


def test_bad_arguments_are_named(linear):
    with pytest.raises(ValueError, match="clean entry"):
        curve_of(linear, None)
    with pytest.raises(ValueError, match=r"evaluate it once and take curve_of"):
        curve_of(linear, Boundary(neighbourhood=L2(eps=0.1)))
    led = EvalAttack(PGD(neighbourhood=LInf(eps=EPS), targeted=True), target_fn=runner_up)
    with pytest.raises(ValueError, match="Leave target_fn out"):
        accuracy_curve(
            linear.model, {}, {}, linear.images, linear.labels, led, name="a", batch_size=8, seed=0
        )
    with pytest.raises(ValueError, match="factors >= 0"):
        curve_of(linear, fgsm(LInf(eps=EPS)), factors=(-1.0,))
