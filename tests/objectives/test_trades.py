"""TRADES against its formula in NumPy, its gradient against the whole defence written out in plain JAX."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, fgsm, near_start
from jaxrobust.experiments import registry
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics import losses
from jaxrobust.objectives import TRADES, Standard
from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import LINEAR, PLAIN, Shift, batch
from tests.common.tiny import tiny_model

EPS, STEPS, STEP = 0.1, 3, 0.5
BETA = 6.0


def beside(key, neighbourhood, ex):
    """A start that is known: 0.01 up in the even columns, down in the odd ones."""
    signs = jnp.where(jnp.arange(ex.image.shape[1]) % 2 == 0, 1.0, -1.0)
    return neighbourhood.project(ex, 0.01 * signs[None, :, None] * jnp.ones_like(ex.image))


ATTACK = PGD(
    neighbourhood=LInf(eps=EPS),
    steps=STEPS,
    step_size=STEP,
    loss_fn=losses.kl,
    start_fn=beside,
    keep_worst=False,
)


def run(objective, b, model=PLAIN):
    """(loss, aux, gradient) on fixed keys and weights."""
    params, stats = model.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(0), b.image.shape[0] + b.unlabelled.shape[0])
    row_keys = RowKeys(keys[: b.image.shape[0]], keys[b.image.shape[0] :])

    def loss_fn(params):
        return objective(row_keys, Net(model, params, stats, jnp.float32(0.5)), b, ())

    (loss, aux), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    return loss, aux, grads


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_loss_is_cross_entropy_plus_beta_kl():
    b = batch()
    loss, aux, _ = run(TRADES(attack=Shift(amount=0.2), beta=BETA), b)
    kernel = np.asarray(PLAIN.init(jax.random.key(1))[0]["kernel"], np.float64)
    clean, moved = (
        log_softmax(np.asarray(x, np.float64).reshape(4, -1) @ kernel) for x in (b.image, b.image + 0.2)
    )
    standard = -clean[np.arange(4), np.asarray(b.label)].mean()
    robust = (np.exp(clean) * (clean - moved)).sum(-1).mean()
    np.testing.assert_allclose(loss, standard + BETA * robust, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["robust_loss"], robust, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["agreement"], (clean.argmax(-1) == moved.argmax(-1)).mean())


@pytest.fixture(scope="module")
def normalised():
    """A net with BatchNorm, whose modes differ, with images and labels for it."""
    model = tiny_model(rate=0.0)
    images = jax.random.uniform(jax.random.key(2), (4, *model.image_shape))
    b = batch()._replace(image=images, unlabelled=images[:0])
    return model, b, run(TRADES(attack=ATTACK, beta=BETA), b, model)


def test_gradient_and_statistics_are_those_of_plain_jax(normalised):
    """Eval mode inside the attack, train mode outside, the gradient through both predictions."""
    model, b, (loss, aux, grads) = normalised
    params, stats = model.init(jax.random.key(1))
    columns = jnp.where(jnp.arange(6) % 2 == 0, 0.01, -0.01)[None, None, :, None]

    def evaluated(x):
        return jax.nn.log_softmax(model.apply(params, stats, x, train=False)[0].logits)

    def kl(log_p, log_q):
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

    def attacked():
        clean, x = evaluated(b.image), jnp.clip(b.image + columns, 0, 1)
        for _ in range(STEPS):
            x = x + STEP * EPS * jnp.sign(jax.grad(lambda x: kl(clean, evaluated(x)))(x))
            x = jnp.clip(jnp.clip(x, b.image - EPS, b.image + EPS), 0, 1)
        return x

    def trades(params, x):
        first, advanced = model.apply(params, stats, b.image, train=True)
        second, advanced = model.apply(params, advanced, x, train=True)
        log_p, log_q = jax.nn.log_softmax(first.logits), jax.nn.log_softmax(second.logits)
        return -log_p[jnp.arange(4), b.label].mean() + BETA * kl(log_p, log_q) / 4, advanced

    written_out = jax.jit(lambda: jax.value_and_grad(trades, has_aux=True)(params, attacked()))
    (expected, advanced), gradient = written_out()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads, gradient, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(aux.stats, advanced, rtol=1e-5)


def test_an_attack_on_cross_entropy_climbs_the_same_hill(normalised):
    model, b, (loss, _, _) = normalised
    attack = PGD(neighbourhood=LInf(eps=EPS), steps=STEPS, step_size=STEP, start_fn=beside, keep_worst=False)
    np.testing.assert_allclose(run(TRADES(attack=attack, beta=BETA), b, model)[0], loss, rtol=1e-5)


def test_beta_0_is_standard_exactly_and_makes_no_second_pass():
    b = batch()
    loss, aux, grads = run(TRADES(attack=Shift(), beta=0.0), b, LINEAR)
    plain, plain_aux, plain_grads = run(Standard(), b, LINEAR)
    assert float(loss) == float(plain) and aux.metrics.keys() == plain_aux.metrics.keys()
    assert (np.asarray(grads["kernel"]) == np.asarray(plain_grads["kernel"])).all()
    assert float(aux.stats["passes"]) == 1
    _, aux, _ = run(TRADES(attack=Shift()), b, LINEAR)
    assert float(aux.stats["passes"]) == 2 and float(aux.stats["rows"]) == 8


def test_the_near_start_leaves_the_point_without_gradient():
    attack = PGD(neighbourhood=LInf(eps=EPS), steps=STEPS, step_size=STEP, start_fn=near_start(0.001))
    # The noise of the start alone moves the prediction by a KL of 1e-6.
    assert run(TRADES(attack=attack), batch())[1].metrics["robust_loss"] > 1e-3


def test_the_named_experiments_have_the_papers_attack():
    objective = registry.get("cifar10_trades").objective
    assert objective == TRADES(
        attack=PGD(
            neighbourhood=LInf(eps=0.031),
            steps=10,
            step_size=0.007 / 0.031,
            loss_fn=losses.kl,
            start_fn=near_start(sigma=0.001),
            keep_worst=False,
        ),
        beta=6.0,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "Expected beta >= 0, got beta=-1.0"),
        ({"warmup": 1.5}, "warmup"),
        ({"attack": "pgd"}, "Expected attack to be an attack"),
        ({"attack": fgsm(LInf(eps=EPS))}, r"start_fn=identity_start.*Use start_fn=near_start\(sigma=0.001\)"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TRADES(**{"attack": Shift(), **options})
