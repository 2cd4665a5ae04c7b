"""What runs on faces are worth: verification of people they have never seen, clean and under attack."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust import data, evaluation
from jaxrobust.attacks import PGD
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import AttackedVerificationReport, VerificationReport
from jaxrobust.experiments import codec
from jaxrobust.experiments.face_data import FaceData, Faces
from jaxrobust.experiments.functions import embedding_fn
from jaxrobust.experiments.run import Run, started_from
from jaxrobust.types import Attack, Ball

PAIRS_FILE = "pairs.txt"
LARGEST = 4.0
"""Up to how many radii the least one is sought."""


class FaceReport(NamedTuple):
    """Verification on clean images, and under attack where there are attacks."""

    clean: VerificationReport
    attacked: AttackedVerificationReport | None


class Asked(NamedTuple):
    """Whom runs are asked about, as `evaluation.verify` takes it; `trained_on` None where nobody was."""

    identities: Identities
    pairs: Pairs
    validation: Pairs
    trained_on: list[np.ndarray] | None


def evaluate_faces(
    runs: Sequence[Run],
    *,
    attacks: Sequence[str] | None = None,
    dataset: str | None = None,
    pairs: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    changes: dict[str, Any] | None = None,
    far: float = 0.01,
    num_genuine: int | None = None,
    num_impostor: int | None = None,
    minimum_eps: bool = False,
    transfer_from: Mapping[str, Sequence[Run]] | None = None,
    batch_size: int = 64,
    num_draws: int = 1000,
    trust_checks: bool = True,
    seed: int = 0,
    name: str | None = None,
    log_fn: Callable[[str], None] = lambda text: None,
) -> FaceReport:
    """Measures one run, or the runs of several folds whose decisions are pooled.

    Each run is asked about the test people of its own fold, with thresholds from that fold's validation
    people. On another set a single run is asked about everybody in it.

    Args:
        runs: one, or runs of different folds of the same division of the same people.
        attacks: names that `evaluation.parse` reads; None for the experiment's. `none` alone attacks nothing.
        dataset: another set of people, as `load_identities` reads it, brought to the size and channels that
            the net takes; for a single run. Its test people are those of all folds, divided as the run's own.
        pairs: a list in LFW's format for that set; None takes `PATH/pairs.txt` of `folder:PATH` where there
            is one. Each of its folds has its threshold from the others, as in View 2.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        changes: fields of the experiment's `ThreatModel` to replace.
        far: the FAR that thresholds are to have on validation pairs.
        num_genuine, num_impostor: how many pairs are attacked; None for all genuine and as many impostor
            ones. Clean numbers are of all pairs always.
        minimum_eps: also the least radius per pair of the longest PGD among the attacks, by bisection from
            four times its own.
        transfer_from: other runs by name, one per run in `runs`, on which images are made too.
        batch_size: images, or pairs, per compiled call.
        num_draws: of the bootstrap over people.
        trust_checks: whether to look for masked gradients.
        seed: of pairs that are drawn, of the attacks and of the bootstrap.
        name: of the model in the report; None for the folders'.
        log_fn: receives a line per attack.

    Returns:
        The `FaceReport`.

    Raises:
        ValueError: runs that are not of faces or not of one division, a set that changed since training,
            unknown attacks, and as `evaluation.verify` and `verify_attacked`.
    """
    suite = _attacks(runs, attacks, changes or {})
    least = _least(suite) if minimum_eps else {}
    people = asked(runs, dataset, pairs, data_dir, log_fn)
    models = _models(runs)
    shared: dict[str, Any] = {
        "validation": people.validation,
        "trained_on": people.trained_on,
        "far": far,
        "batch_size": batch_size,
        "num_draws": num_draws,
        "seed": seed,
        "name": name or ", ".join(run.folder.name for run in runs),
    }
    clean = evaluation.verify(models, people.identities, people.pairs, **shared)
    if not suite:
        return FaceReport(clean, None)
    others = {title: _surrogates(own, runs) for title, own in (transfer_from or {}).items()}
    said: set[str] = set()

    def told(attack: str, done: int, total: int) -> None:
        # An attack comes again for every other model and every halving of a radius.
        if done == total and attack not in said:
            said.add(attack)
            log_fn(f"{attack}: {total} pairs.")

    attacked = evaluation.verify_attacked(
        models,
        people.identities,
        people.pairs,
        suite,
        minimum_eps=least,
        transfer_from=others or None,
        num_genuine=num_genuine,
        num_impostor=num_impostor,
        trust_checks=trust_checks,
        progress_fn=told,
        **shared,
    )
    return FaceReport(clean, attacked)


def embed_fn(run: Run) -> Any:
    """`images [b, h, w, c] -> embeddings [b, d]`, a pytree of the run's weights, compiled once a net."""
    return embedding_fn(run.model, run.params, run.stats)


def training_mean(run: Run, data_dir: str | os.PathLike | None) -> np.ndarray | None:
    """The mean of a run's training images, float32 `[h, w, c]`; None where they are not at hand."""
    try:
        found = _config(run).load(data_dir)
    except (ValueError, OSError):
        return None
    return mean_image(found.train.images) if found.fingerprint == run.fingerprint else None


def mean_image(images: Any) -> np.ndarray:
    """float32 `[h, w, c]` in [0, 1], of uint8 images, a thousand at a time."""
    total = np.zeros(images.shape[1:], np.float64)
    for start in range(0, len(images), 1000):
        total += np.asarray(images[start : start + 1000]).sum(axis=0, dtype=np.float64)
    return (total / (255 * len(images))).astype(np.float32)


def _models(runs: Sequence[Run]) -> Any:
    return embed_fn(runs[0]) if len(runs) == 1 else [embed_fn(run) for run in runs]


def _attacks(
    runs: Sequence[Run], names: Sequence[str] | None, changes: Mapping[str, Any]
) -> dict[str, Attack]:
    experiment = runs[0].experiment
    threat = dataclasses.replace(experiment.threat, **changes)
    suite = evaluation.suite(experiment.attacks if names is None else names, threat)
    for title, one in suite.items():
        if one.target_fn is not None:
            raise ValueError(
                f"{title} leads to a class, and pairs have none: away from the right decision is towards the "
                "wrong one. Leave target= out."
            )
    return {title: one.attack for title, one in suite.items() if one.attack is not None}


def _least(suite: Mapping[str, Attack]) -> dict[str, Attack]:
    """The longest PGD on a ball among the attacks, up to `LARGEST` of its radii."""
    climbs = {
        title: attack
        for title, attack in suite.items()
        if isinstance(attack, PGD) and isinstance(attack.neighbourhood, Ball) and attack.steps > 1
    }
    if not climbs:
        raise ValueError(
            "The least radius is sought with PGD on a ball: name one among the attacks, such as pgd:steps=40."
        )
    title = max(climbs, key=lambda name: climbs[name].steps)
    return {f"{title}, least eps": climbs[title].scaled(LARGEST)}


def _surrogates(others: Sequence[Run], runs: Sequence[Run]) -> Any:
    """Other runs that images are made on, one for each run."""
    if len(others) != len(runs):
        raise ValueError(
            f"Images are made on another run for each fold: expected {len(runs)}, got {len(others)}. "
            "Evaluate one run, or give the others in the order of the folds."
        )
    for other, run in zip(others, runs):
        _config(other)
        if other.model.image_shape != run.model.image_shape:
            raise ValueError(
                f"{other.folder} takes images {list(other.model.image_shape)}, {run.folder} "
                f"{list(run.model.image_shape)}; make images on a run of the same shape."
            )
    return _models(others)


def asked(
    runs: Sequence[Run],
    dataset: str | None,
    pairs: str | os.PathLike | None,
    data_dir: str | os.PathLike | None,
    log_fn: Callable[[str], None],
) -> Asked:
    """The test people of the runs' folds, or everybody in another set; see `evaluate_faces`."""
    configs = [_config(run) for run in runs]
    if dataset is not None and dataset != configs[0].dataset:
        if len(runs) > 1:
            raise ValueError(f"Expected one run on another set, {dataset}, got {len(runs)}. Evaluate one.")
        return _elsewhere(runs[0], configs[0], dataset, pairs, data_dir, log_fn)
    if pairs is not None:
        raise ValueError(
            "A list of pairs is for another set (dataset=...): on the run's own, most of its people were "
            "trained on. Their test pairs are those of the run's fold."
        )
    return _own(runs, configs, data_dir, log_fn)


def _config(run: Run) -> FaceData:
    config = run.experiment.data
    if not isinstance(config, FaceData):
        raise ValueError(
            f"{run.folder} classifies {config.dataset} and verifies nobody; leave --task verification out."
        )
    return config


def _check_one_division(runs: Sequence[Run], configs: Sequence[FaceData]) -> None:
    """The runs are of different folds of one experiment; seeds may differ."""
    numbers = [config.fold for config in configs]
    if numbers != sorted(set(numbers)):
        raise ValueError(
            f"Expected runs of different folds, those in their order, got the folds {numbers}. Leave doubles "
            "out and sort the others."
        )
    first = _but_for_fold(runs[0])
    for run in runs[1:]:
        if _but_for_fold(run) != first:
            raise ValueError(
                f"{run.folder} is another experiment than {runs[0].folder}, or another division of people: "
                "decisions of folds are pooled for one experiment. Evaluate them apart."
            )


def _but_for_fold(run: Run) -> dict[str, Any]:
    config = _config(run)
    same = dataclasses.replace(run.experiment, data=dataclasses.replace(config, fold=0), seed=0)
    return codec.training_json(same)


def _own(
    runs: Sequence[Run],
    configs: Sequence[FaceData],
    data_dir: str | os.PathLike | None,
    log_fn: Callable[[str], None],
) -> Asked:
    """Every run on the people that its own fold tests."""
    _check_one_division(runs, configs)
    loaded: list[Faces] = []
    for run, config in zip(runs, configs):
        found = config.load(data_dir)
        # Its classes are the people that a run was really trained on.
        if run.fingerprint not in ("", found.fingerprint) or run.class_names != found.class_names:
            raise ValueError(
                f"{found.name} is not what {run.folder} was trained on: its images or the division of its "
                "people changed, so that test people may have been trained on. Restore the set."
            )
        if started_from(run) is not None:
            log_fn(
                f"Warning: {run.folder} started from {started_from(run)}; if that was trained on its test "
                "people, these numbers flatter."
            )
        loaded.append(found)
    lists = {
        part: data.join_pairs([config.pairs(found, part) for config, found in zip(configs, loaded)])
        for part in ("test", "validation")
    }
    seen = [np.concatenate([found.part.train, found.unlabelled]) for found in loaded]
    return Asked(loaded[0].identities, lists["test"], lists["validation"], seen)


def _elsewhere(
    run: Run,
    config: FaceData,
    dataset: str,
    pairs: str | os.PathLike | None,
    data_dir: str | os.PathLike | None,
    log_fn: Callable[[str], None],
) -> Asked:
    """Everybody in another set: by a list of pairs, or by folds that are divided as the run's own."""
    height, width, channels = run.model.image_shape
    people = data.load_identities(
        dataset,
        data_dir=None if data_dir is None else Path(data_dir),
        size=(height, width),
        channels=channels,
        margin=config.margin,
    )
    if people.fingerprint == run.fingerprint:
        raise ValueError(
            f"{dataset} is the run's own set, {config.dataset}, under another name: most of its people were "
            "trained on. Leave --dataset out, and the run is asked about its test people."
        )
    known = sorted(set(people.names) & set(run.class_names))
    if known:
        log_fn(
            f"Warning: {len(known)} people of {dataset} have names of people that the run was trained on "
            f"({', '.join(known[:5])}); if they are the same, these numbers flatter."
        )
    scheme, _, path = dataset.partition(":")
    beside = Path(path).expanduser() / PAIRS_FILE
    if pairs is None and scheme == "folder" and beside.is_file():
        pairs = beside
    if pairs is not None:
        listed = data.read_lfw_pairs(Path(pairs), people)
        return Asked(people, listed, _from_other_folds(listed), None)
    folds = data.identity_folds(people, config.num_folds, config.num_validation, config.seed)
    test, validation = (
        data.fold_pairs(people, folds, part, num_impostor=config.num_impostor, seed=config.seed)
        for part in ("test", "validation")
    )
    return Asked(people, test, validation, None)


def _from_other_folds(listed: Pairs) -> Pairs:
    """For each fold the pairs of all others: where View 2 takes its thresholds from."""
    folds = np.unique(listed.fold)
    if len(folds) < 2:
        raise ValueError(
            "The list of pairs has one fold, and so no others to take a threshold from; give one of View 2."
        )
    others = [listed.at(listed.fold != fold) for fold in folds]
    return data.join_pairs(
        [one._replace(fold=np.full_like(one.fold, fold)) for one, fold in zip(others, folds)]
    )
