"""What a run is measured by while it trains: classes of validation images, or pairs of validation people."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import data, evaluation, training
from jaxrobust.attacks.frontend import attack_pairs
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.face_data import FaceData, Faces
from jaxrobust.experiments.functions import embedding_fn
from jaxrobust.training import Runtime, TrainState
from jaxrobust.types import Array, Model

# Rows of a validation's compiled call; a larger batch gains nothing on CPU and costs memory on small devices.
_VALIDATION_BATCH = 250
_FAR = 0.01

ValidateFn = Callable[[TrainState], dict[str, float]]


def validate_fn(
    experiment: Experiment, model: Model, dataset: data.Dataset, parts: data.Split, runtime: Runtime
) -> ValidateFn:
    """`accuracy`, and `robust_accuracy` under the experiment's validation attack, of a state's weights."""
    if isinstance(dataset, Faces):
        return _verification(experiment, model, dataset)
    return _classification(experiment, model, parts, runtime)


def _classification(experiment: Experiment, model: Model, parts: data.Split, runtime: Runtime) -> ValidateFn:
    """Clean and robust accuracy on the validation images."""
    attack = experiment.validation_attack
    attacks = {} if attack is None else {"attack": evaluation.EvalAttack(attack)}
    images, labels = parts.validation

    def validate(state: TrainState) -> dict[str, float]:
        params, stats = training.eval_weights(state)
        report = evaluation.evaluate(
            model,
            params,
            stats,
            images,
            labels,
            attacks,
            batch_size=min(_VALIDATION_BATCH, len(labels)),
            seed=experiment.seed,
            precision=runtime.precision,
            num_devices=runtime.num_devices,
            trust_checks=False,
            num_samples=0,
        )
        scores = {"accuracy": report.row("none")["accuracy"]}
        return scores if attack is None else {**scores, "robust_accuracy": report.row("attack")["accuracy"]}

    return validate


def _verification(experiment: Experiment, model: Model, faces: Faces) -> ValidateFn:
    """EER and TAR at a FAR of 1% on the validation people's pairs, whose accuracy is 1 - EER.

    Under attack: the decisions at the threshold of the EER, on all genuine and as many impostor pairs, the
    first image of each changed; right are genuine pairs that are still accepted, impostor ones still refused,
    both kinds weighing alike.
    """
    assert isinstance(experiment.data, FaceData)
    pairs = experiment.data.pairs(faces, "validation")
    index = np.unique([pairs.first, pairs.second])
    images = data.to_float(np.asarray(faces.identities.images[index]))
    first, second = (np.searchsorted(index, rows) for rows in (pairs.first, pairs.second))
    chosen = _as_many_of_both(pairs.genuine)
    attack = experiment.validation_attack

    def validate(state: TrainState) -> dict[str, float]:
        params, stats = training.eval_weights(state)
        embed_fn = embedding_fn(model, params, stats)
        units = _in_batches(embed_fn, images)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
        curve = evaluation.roc((units[first] * units[second]).sum(axis=1), pairs.genuine)
        found = evaluation.eer(curve)
        scores = {
            "accuracy": 1 - found.value,
            "eer": found.value,
            "tar": evaluation.tar_at_far(curve, _FAR).tar,
        }
        if attack is None:
            return scores
        assert found.point.threshold is not None
        same = pairs.genuine[chosen]
        result = attack_pairs(
            attack,
            embed_fn,
            images[first[chosen]],
            units[second[chosen]],
            same,
            threshold=float(np.clip(found.point.threshold, -1, 1)),
            key=jax.random.key(experiment.seed),
            chunk=min(_VALIDATION_BATCH, len(chosen)),
        )
        accepted = np.where(np.asarray(result.found), ~same, same)
        return {**scores, "robust_accuracy": evaluation.decision_rates(accepted, same).balanced_accuracy}

    return validate


def _in_batches(embed_fn: Callable[[Array], Array], images: np.ndarray) -> np.ndarray:
    """float64 `[n, d]`; the last batch is filled up, so that one program serves all."""
    rows = min(_VALIDATION_BATCH, len(images))
    found = []
    for start in range(0, len(images), rows):
        part = images[start : start + rows]
        full = np.concatenate([part, np.repeat(part[-1:], rows - len(part), axis=0)])
        found.append(np.asarray(embed_fn(jnp.asarray(full)), np.float64)[: len(part)])
    return np.concatenate(found)


def _as_many_of_both(genuine: np.ndarray) -> np.ndarray:
    """Places of all pairs of the rarer kind and of as many of the other, evenly spaced in its list."""
    kinds = [np.flatnonzero(genuine), np.flatnonzero(~genuine)]
    num = min(len(kind) for kind in kinds)
    return np.concatenate([kind[np.arange(num) * len(kind) // num] for kind in kinds])
