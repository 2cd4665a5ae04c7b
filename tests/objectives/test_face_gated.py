"""The objective behind the gate: its formula by hand, its exact reductions, what a closed gate costs."""

import math
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import PGD, Sequence, identity_start
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import MTER, REGULARISERS, FaceGated, Gate, Push, Standard, TripletCos
from jaxrobust.training import init_state, make_train_step
from jaxrobust.types import Batch, Net, Outputs, RowKeys
from tests.common.objectives_table import LINEAR, PLAIN, Shift, batch
from tests.objectives.by_hand import cross_entropy, kernel, logits_of
from tests.objectives.face_net import MODEL, PAIRS, face_fit

BATCH = {"measure": "batch_loss"}
TWO = batch(num_labelled=2, num_unlabelled=0)._replace(label=jnp.array([2, 0]))
"""Two people: each is the other's only target."""


@partial(jax.jit, static_argnums=(0, 1))
def evaluate(objective, model, b, is_open=None):
    """(loss, aux, gradient); `is_open` overrides the gate."""
    params, stats = model.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(7), b.image.shape[0])
    state = objective.init(params)
    if is_open is not None:
        state = state._replace(open=is_open)

    def loss_fn(params):
        net = Net(model, params, stats, jnp.float32(0.5))
        return objective(RowKeys(keys, keys[:0]), net, b, state)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, aux, grads


def units(images):
    """Unit embeddings of `PLAIN`, in float64."""
    e = logits_of(images) - 1
    return e / np.linalg.norm(e, axis=-1, keepdims=True)


def by_hand(name, s, a, t):
    def cos(u, v):
        return (u * v).sum(-1)

    def dist(u, v):
        return np.linalg.norm(u - v, axis=-1)

    return {
        "triplet_cos": lambda: np.maximum(0.4 + cos(a, t) - cos(a, s), 0) + 1 - cos(a, s),
        "mter": lambda: np.maximum(dist(a, s) - dist(a, t) + 0.4, 0),
        "push": lambda: np.maximum(cos(a, t) - cos(s, t) - 0.4, 0),
    }[name]()


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_the_open_loss_by_hand(name):
    objective = FaceGated(
        attack=Shift(amount=0.2), weight=0.3, lam=0.7, regulariser_fn=REGULARISERS[name](margin=0.4)
    )
    loss, aux, _ = evaluate(objective, PLAIN, TWO, True)
    y = np.asarray(TWO.label)
    standard = cross_entropy(logits_of(TWO.image), y).mean()
    adversarial = cross_entropy(logits_of(TWO.image + 0.2), y).mean()
    s, a = units(TWO.image), units(TWO.image + 0.2)
    regulariser = by_hand(name, s, a, s[::-1]).mean()
    np.testing.assert_allclose(loss, 0.7 * standard + 0.3 * adversarial + 0.7 * regulariser, rtol=1e-5)
    expected = {
        "loss": loss,
        "standard_loss": standard,
        "adversarial_loss": adversarial,
        "regulariser": regulariser,
        "accuracy": (logits_of(TWO.image).argmax(-1) == y).mean(),
        "gate_open": 1.0,
        "gate_measure": standard,
        "impostor_cosine": s[0] @ s[1],
    }
    assert set(aux.metrics) == set(expected)
    for metric, value in expected.items():
        np.testing.assert_allclose(aux.metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)


def test_gradients_flow_through_source_adversary_and_target():
    """Central differences of the loss by hand, with the adversarial images held where they are."""
    objective = FaceGated(
        attack=Shift(amount=0.2), weight=0.3, lam=0.7, regulariser_fn=TripletCos(margin=0.4)
    )
    grads = np.asarray(evaluate(objective, PLAIN, TWO, True)[2]["kernel"])
    images, y = np.asarray(TWO.image, np.float64).reshape(2, -1), np.asarray(TWO.label)

    def loss(w):
        def unit(z):
            return (z - 1) / np.linalg.norm(z - 1, axis=-1, keepdims=True)

        z, za = images @ w, (images + 0.2) @ w
        parts = 0.7 * cross_entropy(z, y) + 0.3 * cross_entropy(za, y)
        return (parts + 0.7 * by_hand("triplet_cos", unit(z), unit(za), unit(z)[::-1])).mean()

    w, h = kernel(), 1e-6
    for index in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[index] = h
        np.testing.assert_allclose(grads[index], (loss(w + step) - loss(w - step)) / (2 * h), atol=2e-5)


def test_the_gates_two_sides_are_the_ungated_arm_and_standard_training():
    b = batch(num_labelled=8, num_unlabelled=0)
    gated = FaceGated(attack=PAIRS, gate=Gate(**BATCH, threshold=0.01), lam=0.7)
    ungated = evaluate(FaceGated(attack=PAIRS, gate=None, lam=0.7), LINEAR, b)
    opened, closed = evaluate(gated, LINEAR, b, True), evaluate(gated, LINEAR, b, False)
    chex.assert_trees_all_close(opened[0], ungated[0], rtol=1e-6)
    chex.assert_trees_all_close(opened[2], ungated[2], atol=1e-6)
    # Only the clean pass advances the statistics: one pass of eight rows.
    for aux in (opened[1], closed[1]):
        assert float(aux.stats["passes"]) == 1 and float(aux.stats["rows"]) == 8
    params, stats = LINEAR.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(7), 8)
    standard, grads = jax.value_and_grad(
        lambda p: Standard()(RowKeys(keys, keys[:0]), Net(LINEAR, p, stats, jnp.float32(0)), b, ())[0]
    )(params)
    chex.assert_trees_all_close(closed[0], standard, rtol=1e-6)
    chex.assert_trees_all_close(closed[2], grads, atol=1e-6)
    metrics = closed[1].metrics
    assert float(metrics["adversarial_loss"]) == float(metrics["regulariser"]) == 0
    assert float(metrics["gate_open"]) == 0 and float(opened[1].metrics["gate_open"]) == 1
    assert float(metrics["loss"]) == float(metrics["standard_loss"])


def test_the_measure_is_the_source_loss_alone():
    b = batch(num_labelled=8, num_unlabelled=0)
    objective = FaceGated(attack=Shift(amount=0.5), gate=Gate(**BATCH, threshold=0.01))
    opened, closed = evaluate(objective, PLAIN, b, True)[1], evaluate(objective, PLAIN, b, False)[1]
    assert float(opened.metrics["loss"]) != float(closed.metrics["loss"])
    assert float(opened.obj_state.measure) == float(closed.obj_state.measure)


STANDING = {
    "eps": {"attack": PGD(neighbourhood=LInf(eps=0.0), steps=2)},
    "eps_ungated": {"attack": PGD(neighbourhood=LInf(eps=0.0), steps=2), "gate": None},
    "weights": {"attack": PAIRS, "gate": None, "weight": 0.0, "lam": 0.0},
}


@pytest.fixture(scope="module")
def clean_run():
    return jax.device_get(face_fit(4, Standard()))


@pytest.mark.parametrize("name", sorted(STANDING))
def test_no_radius_or_no_weight_is_clean_training_bitwise(name, clean_run):
    objective = FaceGated(**STANDING[name])
    assert objective.always is False
    state = jax.device_get(face_fit(4, objective))
    for part in ("params", "stats", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(state, part), getattr(clean_run, part))
    assert int(state.obj_state.steps) == 4 and int(state.obj_state.steps_open) == 0


def test_every_part_of_a_composite_must_stand_still():
    still = PGD(neighbourhood=LInf(eps=0.0))
    assert FaceGated(attack=Sequence(stages=(still, still))).always is False
    assert FaceGated(attack=Sequence(stages=(still, PAIRS))).always is None


def computations(text):
    """{name: lines} of compiled HLO, and the name of the entry."""
    found, name, entry = {}, None, None
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head[2]
            found[name], entry = [], name if head[1] else entry
        elif name:
            found[name].append(line)
    return found, entry


def loops(text):
    """How many loops the entry reaches outside the branches of conditionals, and how many inside."""
    found, entry = computations(text)
    seen, counts = set(), [0, 0]

    def walk(name, inside):
        if (name, inside) in seen:
            return
        seen.add((name, inside))
        for line in found[name]:
            counts[inside] += " while(" in line
            called = re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", line)
            branches = re.findall(r"(?:true_computation|false_computation)=%?([\w.\-]+)", line)
            for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
                branches += [part.strip().lstrip("%") for part in group.split(",")]
            for other in called:
                walk(other, inside)
            for other in branches:
                walk(other, 1)

    walk(entry, 0)
    return tuple(counts)


def program(objective):
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(LINEAR, objective, optimizer, num_steps=4))
    state = init_state(jax.random.key(0), LINEAR, objective, optimizer)
    b = batch(num_labelled=4, num_unlabelled=0)
    return step.lower(state, b, jax.random.key(5)).compile().as_text()


def test_a_closed_gate_costs_no_attack():
    outside, inside = loops(program(FaceGated(attack=PAIRS)))
    ungated, none = loops(program(FaceGated(attack=PAIRS, gate=None)))
    clean = loops(program(Standard()))
    # The attack's loop, and what there is beside it, lies in the branch; nothing is left of it outside.
    assert outside == clean[0] and inside >= 1
    assert ungated > outside and none == 0 == clean[1]


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_the_smallest_radius_has_finite_gradients(name):
    """The adversary is where its source is, and in `Push` and `MTER` the hinge is at its kink."""
    attack = PGD(neighbourhood=LInf(eps=1e-12), steps=1)
    objective = FaceGated(attack=attack, gate=None, regulariser_fn=REGULARISERS[name](margin=0.0))
    loss, aux, grads = evaluate(objective, PLAIN, batch(num_unlabelled=0))
    chex.assert_tree_all_finite((loss, aux, grads))


def test_a_batch_of_one_person_dodges_and_has_no_regulariser():
    b = batch(num_unlabelled=0)
    alone = b._replace(label=jnp.zeros_like(b.label))
    loss, aux, grads = evaluate(FaceGated(attack=PAIRS, gate=None), PLAIN, alone)
    chex.assert_tree_all_finite((loss, aux, grads))
    assert float(aux.metrics["regulariser"]) == float(aux.metrics["impostor_cosine"]) == 0
    assert float(aux.metrics["adversarial_loss"]) > float(aux.metrics["standard_loss"])


def test_lam_0_is_adversarial_training_only():
    one = FaceGated(attack=PAIRS, gate=None, lam=0.0)
    other = FaceGated(attack=PAIRS, gate=None, lam=0.0, regulariser_fn=MTER())
    b = batch(num_unlabelled=0)
    first, second = evaluate(one, PLAIN, b), evaluate(other, PLAIN, b)
    assert float(first[0]) == float(second[0]) and float(first[1].metrics["regulariser"]) == 0
    metrics = first[1].metrics
    np.testing.assert_allclose(
        first[0], 0.5 * metrics["standard_loss"] + 0.5 * metrics["adversarial_loss"], rtol=1e-6
    )


def test_built_targets_are_a_pass_of_their_own():
    built = PGD(neighbourhood=LInf(eps=0.8), steps=4, step_size=0.5, targeted=True)
    b = batch(num_unlabelled=0)
    objective = FaceGated(attack=PAIRS, gate=None, built_attack=built, regulariser_fn=Push(margin=0.0))
    loss, aux, grads = evaluate(objective, LINEAR, b)
    chex.assert_tree_all_finite((loss, aux, grads))
    assert float(aux.stats["passes"]) == 1
    real = evaluate(FaceGated(attack=PAIRS, gate=None, regulariser_fn=Push(margin=0.0)), LINEAR, b)
    assert float(aux.metrics["regulariser"]) != float(real[1].metrics["regulariser"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": 3}, "Expected attack to be an attack"),
        ({"attack": PGD(neighbourhood=LInf(eps=0.1), targeted=True)}, "Expected an untargeted attack"),
        ({"attack": PGD(neighbourhood=LInf(eps=0.1), start_fn=identity_start)}, "starts beside the clean"),
        ({"weight": 1.5}, r"Expected 0.0 <= weight <= 1.0, got weight=1.5"),
        ({"lam": -1}, "Expected lam >= 0"),
        ({"gate": 0.5}, "Expected gate to be a Gate or None, got 0.5"),
        ({"built_attack": PAIRS}, "Expected built_attack to be targeted"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        FaceGated(**{"attack": PAIRS, **options})


def test_one_person_and_a_model_without_embedding_are_refused():
    b: Batch = batch(num_unlabelled=0)
    with pytest.raises(ValueError, match="at least 2 people, got num_classes=1"):
        evaluate(FaceGated(attack=PAIRS), PLAIN._replace(num_classes=1), b)

    def bare(params, stats, x, **options):
        return Outputs(PLAIN.apply(params, stats, x, **options)[0].logits), stats

    with pytest.raises(ValueError, match="Expected a model that gives an embedding"):
        evaluate(FaceGated(attack=PAIRS), PLAIN._replace(apply=bare), b)


def test_the_automatic_threshold_knows_the_number_of_people():
    """0.3 ln 4 = .416: a loss of four logits alike is ln 4, of a learnt batch 0."""
    objective = FaceGated(attack=PAIRS, gate=Gate(**BATCH))
    state = objective.init({})
    for factor, is_open in ((0.3001, False), (0.2999, True)):
        loss = jnp.float32(factor * math.log(MODEL.num_classes))
        assert bool(objective._decided(state, loss, MODEL.num_classes).open) is is_open
