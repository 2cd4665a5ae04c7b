"""bfloat16 rounds inside the layers and nowhere else; float32 products are as exact as asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.evaluation import EvalAttack, _programs, evaluate
from jaxrobust.models import Precision, TinyCNN, WideResNet, build, from_callable, with_precision
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.convolution import conv2d
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.objectives import AT, Standard
from jaxrobust.training import Runtime, Wrapper, init_state, make_train_step
from jaxrobust.types import Batch, Example
from tests.common.tiny import tiny_fit, tiny_model

SHAPE, ROWS, EPS = (8, 8, 3), 8, 0.03
FULL = build(WideResNet(depth=10, widen_factor=1), SHAPE)
HALF = with_precision(FULL, Precision.BF16)
ATTACK = PGD(neighbourhood=LInf(eps=EPS), steps=2, step_size=0.7, keep_worst=False)


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    params, stats = FULL.init(jax.random.key(0))
    return params, stats, rng.random((ROWS, *SHAPE), np.float32), rng.integers(0, 10, ROWS).astype(np.int32)


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def test_the_policy_is_a_value_and_the_others_leave_the_model_alone():
    assert with_precision(FULL, Precision.BF16) == HALF != FULL
    assert hash(HALF) == hash(build(WideResNet(depth=10, widen_factor=1, dtype="bfloat16"), SHAPE))
    assert with_precision(HALF, Precision.BF16) == HALF
    assert all(with_precision(FULL, one) is FULL for one in (Precision.FLOAT32, Precision.HIGHEST))


def test_logits_and_gradients_of_images_are_float32_finite_and_near():
    params, stats, x, y = problem()

    @functools.partial(jax.jit, static_argnums=0)
    def both(model, x):
        def loss(x):
            logits = model.apply(params, stats, x, train=False)[0].logits
            return cross_entropy(logits, y).sum(), logits

        return jax.grad(loss, has_aux=True)(x)

    (gradient, logits), (full_gradient, full_logits) = both(HALF, x), both(FULL, x)
    assert logits.dtype == gradient.dtype == jnp.float32
    assert np.isfinite(gradient).all() and cosine(gradient, full_gradient) > 0.97
    assert 0 < np.abs(logits - full_logits).max() < 0.1 * np.abs(full_logits).max()


def test_the_attack_moves_in_float32():
    params, stats, x, y = problem()
    score_fn = lambda images, _: HALF.apply(params, stats, images, train=False)[0].logits  # noqa: E731
    keys = jax.random.split(jax.random.key(1), ROWS)
    result = jax.jit(lambda: ATTACK(keys, score_fn, Example(image=x, target=y)))()
    image = np.asarray(result.image)
    assert image.dtype == np.float32
    # In bfloat16 a pixel near 1 moves in steps of 0.004, and the border of 0.03 is missed by a tenth.
    inside = (x > EPS) & (x < 1 - EPS)
    np.testing.assert_allclose(np.abs(image - x)[inside].max(), EPS, atol=1e-6)
    rounded = np.asarray(jnp.asarray(image, jnp.bfloat16), np.float32)
    assert (rounded != image).mean() > 0.9


@pytest.mark.slow
def test_a_training_step_keeps_float32_and_goes_where_float32_goes():
    _, _, x, y = problem()
    batch, key = Batch(image=x, label=y, unlabelled=x[:0]), jax.random.key(2)
    optimizer = optax.sgd(0.1, momentum=0.9)
    objective = AT(attack=ATTACK)
    start = init_state(jax.random.key(0), FULL, objective, optimizer)
    states, losses = [], []
    for model in (FULL, HALF):
        step = jax.jit(make_train_step(model, objective, optimizer, num_steps=4))
        state, metrics = step(start, batch, key)
        states.append(state)
        losses.append(float(metrics["loss"]))
    full, half = states
    assert dtypes((half.params, half.stats, half.opt_state)) == {"float32"}
    moved = [jax.tree.map(jnp.subtract, state.params, start.params) for state in states]
    assert cosine(*moved) > 0.95
    assert cosine(half.stats, full.stats) > 0.999
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_evaluation_at_a_precision_compiles_once_and_says_which():
    params, stats, x, y = problem()
    run = functools.partial(
        evaluate, FULL, params, stats, x, y, {"PGD": EvalAttack(ATTACK)}, batch_size=4, seed=0,
        trust_checks=False, refuse_batch_dependent=False, num_samples=0,
    )  # fmt: skip
    compiled = [_programs.num_compiled()]
    for precision in (Precision.BF16, Precision.BF16, Precision.HIGHEST, Precision.HIGHEST):
        report = run(precision=precision)
        assert {row["precision"] for row in report.rows} == {report.meta["precision"]} == {precision.value}
        compiled.append(_programs.num_compiled())
    start, first, again, highest, highest_again = compiled
    assert start < first == again < highest == highest_again


def test_fit_computes_in_the_runtimes_precision():
    model = build(TinyCNN(num_classes=4, widths=(2, 2), hidden=4), (6, 6, 1))
    full, half = (
        tiny_fit(
            2,
            model=model,
            objective=Standard(),
            runtime=Runtime(wrapper=Wrapper.JIT, num_devices=1, precision=precision),
        ).params
        for precision in (Precision.FLOAT32, Precision.BF16)
    )
    assert dtypes(half) == {"float32"}
    difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), full, half)))
    assert 0 < difference < 0.05


@pytest.mark.parametrize("precision", Precision)
def test_highest_reaches_every_product_of_a_step_forward_and_backward(precision):
    def update(kernels, arrays, rows, words):
        def loss(kernels):
            y = conv2d(rows, kernels[0])
            return jnp.sum(y.reshape(len(y), -1) @ kernels[1])

        return jax.grad(loss)(kernels), {}

    arguments = (jnp.ones((3, 3, 2, 4)), jnp.ones((16, 3))), (), jnp.ones((2, 4, 4, 2)), ()
    compiled = Runtime(wrapper=Wrapper.JIT, num_devices=1, precision=precision).compile(update)
    text = compiled.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    products = text.count("stablehlo.dot_general") + text.count("stablehlo.convolution")
    assert products >= 2
    assert text.count("HIGHEST, HIGHEST") + text.count(
        "precision HIGHEST>, #stablehlo<precision HIGHEST"
    ) == (products if precision is Precision.HIGHEST else 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: with_precision(FULL, "bf16"),
            "Expected precision to be one of .*Precision.BF16, got 'bf16'",
        ),
        (lambda: with_precision(tiny_model(), Precision.BF16), "TinyNet cannot compute in bfloat16"),
        (
            lambda: with_precision(
                from_callable(lambda x: x.reshape(len(x), -1), None, (1, 2, 1)), Precision.BF16
            ),
            "is for models of models.build",
        ),
        (lambda: Runtime(precision="bf16"), "Expected precision"),
        (
            lambda: evaluate(FULL, {}, {}, [], [], {}, batch_size=1, seed=0, precision="x"),
            "Expected precision",
        ),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
