"""Models that draw at random in eval mode: attacked and judged by the mean over draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.evaluation import CHECKS, EvalAttack, Level, _draws, _engine, evaluate
from jaxrobust.evaluation._view import look
from jaxrobust.models import from_callable
from jaxrobust.neighbourhoods import LInf
from tests.evaluation.conftest import SHAPE, logits_of

NOISE = 3.0


def noisy_logits(params, images, keys):
    """The linear model, whose score is flipped at random with a chance of one in four, and noise on top."""
    flips = jax.vmap(lambda key: jnp.where(jax.random.uniform(key) < 0.25, -1.0, 1.0))(keys)
    noise = jax.vmap(lambda key: NOISE * jax.random.normal(jax.random.fold_in(key, 1), (2,)))(keys)
    return flips[:, None] * logits_of(params, images) + noise


@pytest.fixture(scope="module")
def noisy(linear):
    return from_callable(noisy_logits, linear.params, SHAPE, random=True)


def measured(linear, model, eps, **options):
    attacks = {"PGD": EvalAttack(PGD(neighbourhood=LInf(eps=eps), steps=8, step_size=0.5))}
    return evaluate(
        model, linear.params, {}, linear.images, linear.labels, attacks, batch_size=16, seed=0, **options
    )


def test_the_mean_over_draws_is_attacked_and_judged(linear, noisy):
    """With many draws the mean is 0.5 z, whose decisions and margins are those of the linear model."""
    report = measured(linear, noisy, 0.1, draws=4000, trust_checks=False)
    clear = np.abs(linear.margin) > 0.3
    np.testing.assert_array_equal(report.flags["correct/none"][clear], (linear.margin > 0)[clear])
    left = linear.margin - 0.1 * linear.slope
    sure = np.abs(left) > 0.5
    np.testing.assert_array_equal(report.flags["correct/PGD"][sure], (left > 0)[sure])


def test_the_judge_draws_for_itself(linear, noisy):
    """An attack on two draws fools these two, and the judge's own draws less often."""
    s = _engine.subject(
        noisy, linear.params, {}, linear.images, linear.labels, batch_size=53, seed=0, draws=2
    )
    attacked, judged = (s._replace(stats=stats, judging=None) for stats in (s.stats, s.judging))
    first, second = (_engine.predict(one, linear.images).logits for one in (attacked, judged))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(_engine.predict(s, linear.images).logits, second)


def test_results_do_not_depend_on_the_batch(linear, noisy):
    reports = [
        evaluate(
            noisy, linear.params, {}, linear.images, linear.labels, {}, batch_size=size, seed=3, draws=5,
            trust_checks=False,
        )
        for size in (7, 53)
    ]  # fmt: skip
    for one in ("correct/none", "prediction/none"):
        np.testing.assert_array_equal(reports[0].flags[one], reports[1].flags[one])


def test_the_trust_checks_take_the_mean_for_a_sound_model(linear, noisy):
    s = _engine.subject(
        noisy, linear.params, {}, linear.images, linear.labels, batch_size=16, seed=0, draws=5
    )
    for name in ("batch_independence", "determinism"):
        assert CHECKS[name](look(s, {})).level == Level.OK


def test_equal_models_share_one_program(noisy):
    assert _draws.averaged(noisy.apply, 3) is _draws.averaged(noisy.apply, 3)


def test_a_random_model_without_keys_says_so(linear, noisy):
    with pytest.raises(ValueError, match="needs keys"):
        noisy.apply(linear.params, {}, linear.images, train=False)


def test_no_draws_are_refused(linear, noisy):
    with pytest.raises(ValueError, match="draws >= 1"):
        measured(linear, noisy, 0.1, draws=0)
