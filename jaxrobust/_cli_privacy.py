"""`jaxrobust audit privacy RUN`: from runs to what the audit takes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LEAST_HELD_OUT = 100
_MOST_HELD_OUT = 500


def audit_runs(
    runs: Sequence[Any],
    audit: Any,
    *,
    attacker_split: str = "train",
    attackers: str | None = None,
    data_dir: Path | None = None,
    num_attackers: int = 5000,
    num_victims: int = 500,
    perceptual: Any = None,
    folder: Path | None = None,
    name: str | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Any:
    """Audits a run, or the runs of several folds of people.

    Who attacks whom: `train` takes the people (images) that the run was trained on as attackers, its
    validation people as held-out attackers, its test people as victims. The attacker then owns what the
    model knows best, so that its features of his images may be unlike those of strangers: the report says
    so. `held-out` takes half of the test people as attackers, the others as victims: none of them was trained
    on, and they are few. Or the attacker brings a set of his own: a fifth of it, 500 images of classes at
    most, is held out, and the run's test people (images) are the victims.

    Args:
        runs: from `load_run`.
        audit: the `PrivacyAudit`.
        attacker_split: `train` or `held-out`.
        attackers: the attacker's own set by name, brought to the run's images, in place of the split.
        data_dir: the folder of prepared sets.
        num_attackers, num_victims: of classes at most so many images, drawn.
        perceptual: another run, by whose net the perceptual distance is measured.
        folder: where decoders are kept.
        name: for the report; None for the folders'.
        progress_fn, log_fn: receive where it stands, and warnings.

    Returns:
        The `PrivacyReport`.

    Raises:
        ValueError: as in the audit; several classifiers; a layer that the net has not; another run of another
            shape, or one that is audited; the run's own set as the attacker's.
    """
    from jaxrobust import experiments, inversion

    if attackers is not None and attacker_split != "train":
        raise ValueError("attacker_split divides the run's own set, attackers brings another; give one.")
    layer = inversion.Features(layer=audit.threat.layer)
    fns = [inversion.victim_features(layer, run.model, run.params, run.stats) for run in runs]
    shared: dict[str, Any] = {
        "folder": folder,
        "name": name or ", ".join(run.folder.name for run in runs),
        "progress_fn": progress_fn,
        "perceptual_fn": None if perceptual is None else _distance(perceptual, runs),
    }
    if isinstance(runs[0].experiment.data, experiments.FaceData):
        found = _people(runs, fns, audit, attacker_split, attackers, data_dir, shared, log_fn)
    elif len(runs) > 1:
        raise ValueError("Several runs are for folds of faces. Audit one classifier at a time.")
    else:
        nums = (num_attackers, num_victims)
        found = _classes(runs[0], fns[0], audit, attacker_split, attackers, data_dir, nums, shared, log_fn)
    return dataclasses.replace(found, warnings=(*_started(runs), *_brought(attackers), *found.warnings))


def _brought(attackers: str | None) -> list[str]:
    """What nobody can know of a set that the attacker brings."""
    if attackers is None:
        return []
    return [
        f"Only equal images show that somebody of {attackers} is a victim, or was trained on: other photos "
        "of the same person (object) are not recognised."
    ]


def _started(runs: Sequence[Any]) -> list[str]:
    """What the report's sentences on whom a model was trained on cannot know."""
    from jaxrobust.experiments.run import started_from

    names = {run.folder.name: started_from(run) for run in runs}
    return [
        f"{run} was started from {name}, and whom or what that was trained on is not known here: victims may "
        "have been among it."
        for run, name in names.items()
        if name is not None
    ]


def _distance(other: Any, runs: Sequence[Any]) -> Any:
    """The perceptual distance by another run's net."""
    from jaxrobust import inversion

    for run in runs:
        if other.folder == run.folder:
            raise ValueError(
                f"{other.folder} is audited itself: a perceptual distance needs an independent network. Give "
                "another run."
            )
        if other.model.image_shape != run.model.image_shape:
            raise ValueError(
                f"{other.folder} takes images {list(other.model.image_shape)}, {run.folder} "
                f"{list(run.model.image_shape)}; take a run of the same shape."
            )
    return inversion.perceptual_distance(other.model, other.params, other.stats)


def _people(
    runs: Sequence[Any],
    fns: Sequence[Any],
    audit: Any,
    attacker_split: str,
    attackers: str | None,
    data_dir: Path | None,
    shared: dict[str, Any],
    log_fn: Callable[[str], None],
) -> Any:
    from jaxrobust import audits, data, experiments

    # Reads the sets and refuses those that changed, and runs that are not of one division.
    asked = experiments.asked(runs, None, None, data_dir, log_fn)
    identities, brought = asked.identities, None
    if attackers is not None:
        other = _brought_people(runs[0], attackers, data_dir)
        identities = data.join_identities(asked.identities, other)
        brought = _divided(other, audit.seed, asked.identities.num_people)
    divisions = []
    for run, seen in zip(runs, asked.trained_on or []):
        part = run.experiment.data.load(data_dir).part
        counts = np.bincount(asked.identities.identity, minlength=asked.identities.num_people)
        victims, held_out = (_with_two(some, counts) for some in (part.test, part.validation))
        left = len(part.test) - len(victims) + len(part.validation) - len(held_out)
        if left:
            log_fn(f"Warning: {left} people of {run.folder.name}'s fold have one image and are left out.")
        own = np.sort(seen)
        if brought is not None:
            own, held_out = brought
        elif attacker_split == "held-out":
            order = np.random.default_rng((audit.seed, run.experiment.data.fold)).permutation(victims)
            own, victims = (np.sort(half) for half in np.array_split(order, 2))
        divisions.append(audits.Division(own, held_out, victims))
    return audits.audit_privacy(
        audit, list(fns), identities, divisions, trained_on=asked.trained_on, **shared
    )


def _brought_people(run: Any, name: str, data_dir: Path | None) -> Any:
    """The attacker's own set of people, brought to the size and channels of the run's images."""
    from jaxrobust import data

    height, width, channels = run.model.image_shape
    margin = run.experiment.data.margin
    found = data.load_identities(
        name, data_dir=data_dir, size=(height, width), channels=channels, margin=margin
    )
    _refuse_own(name, found.fingerprint, run)
    return found


def _divided(other: Any, seed: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The people of the attacker's own set: those who attack, and a fifth, with two images, held out."""
    counts = np.bincount(other.identity, minlength=other.num_people)
    order = np.random.default_rng((seed, 4)).permutation(other.num_people)
    pairs = _with_two(order, counts)
    # One at least is left to those who attack.
    held_out = pairs[: max(min(other.num_people // 5, len(pairs) - 1), 2)]
    own = np.setdiff1d(order, held_out)
    if len(pairs) < 3 or len(own) < 2:
        raise ValueError(
            f"{other.name} has {other.num_people} people, {len(pairs)} of them with two images: expected "
            "four, three of them with two: two attack, two others show whether that works. Bring more."
        )
    return first + own, first + np.sort(held_out)


def _refuse_own(name: str, fingerprint: str, run: Any) -> None:
    if fingerprint == run.fingerprint:
        raise ValueError(
            f"{name} is what {run.folder.name} was made from, victims and all. Leave --attackers out: "
            "--attacker-split divides the run's own set."
        )


def _with_two(people: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(people)[counts[np.asarray(people)] > 1]


def _classes(
    run: Any,
    fn: Any,
    audit: Any,
    attacker_split: str,
    attackers: str | None,
    data_dir: Path | None,
    nums: tuple[int, int],
    shared: dict[str, Any],
    log_fn: Callable[[str], None],
) -> Any:
    from jaxrobust import audits, experiments

    found = experiments.test_set(run, None, data_dir, {}, log_fn)
    rng = np.random.default_rng((audit.seed, 3))
    test = rng.permutation(len(found.test.labels))
    num_attackers, num_victims = nums
    if attackers is None:
        own, checked, victims, said = _own_images(run, found, attacker_split, test, rng)
    else:
        other = experiments.test_set(run, attackers, data_dir, {}, log_fn)
        _refuse_own(attackers, other.fingerprint, run)
        own, checked, victims = *_brought_images(other, rng), test
        said = (f"Attackers, held-out ones too, are images of {other.name}, which the attacker brought.",)
    attacked = _paired(_taken(found.test, victims[:num_victims]))
    sides = [_apart(side, attacked[0]) for side in (tuple(a[:num_attackers] for a in own), checked)]
    dropped = min(len(own[1]), num_attackers) + len(checked[1]) - sum(len(side[1]) for side in sides)
    if dropped:
        log_fn(f"Warning: {dropped} images of the attacker are victims' too, pixel for pixel, and left out.")
    return audits.audit_classifier_privacy(
        audit,
        fn,
        sides[0],
        _paired(sides[1]),
        attacked,
        num_classes=found.num_classes,
        division=(*said, "The model was trained on none of the victims' images."),
        dataset=found.name,
        fingerprint=found.fingerprint,
        **shared,
    )


def _own_images(
    run: Any, found: Any, attacker_split: str, test: np.ndarray, rng: np.random.Generator
) -> tuple[Any, Any, np.ndarray, tuple[str, ...]]:
    """Attackers and held-out attackers, images with labels; victims among the test images; who is who."""
    indices = run.experiment.image_data.split(found).indices
    held_out = rng.permutation(indices["validation"])[:_MOST_HELD_OUT]
    victims = test
    if attacker_split == "held-out":
        half = len(test) // 2
        own, victims = _taken(found.test, test[:half]), test[half:]
        said = "Attackers are test images, which the model was not trained on."
    else:
        train = rng.permutation(np.concatenate([indices["labelled"], indices["unlabelled"]]))
        own = _taken(found.train, train)
        seen = f"{len(indices['labelled']):,} of {len(train):,}"
        said = f"Attackers are training images of the model, which saw {seen} with their labels."
    short = min(max(_LEAST_HELD_OUT - len(held_out), 0), len(own[1]) // 5)
    more, attackers = (tuple(values[rows] for values in own) for rows in (slice(short), slice(short, None)))
    checked = tuple(np.concatenate(pair) for pair in zip(_taken(found.train, held_out), more))
    division = [said]
    if len(held_out):
        division.append("Held-out attackers are its validation images, which chose its checkpoint.")
    if short:
        why = ", as validation images are few" if len(held_out) else ""
        division.append(f"{short} of the attackers' images are held out{why}.")
    return attackers, checked, victims, tuple(division)


def _brought_images(other: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """All images of the attacker's own set: those that attack, and a fifth that are held out."""
    sides = [_taken(part, np.arange(len(part.labels))) for part in (other.train, other.test)]
    images, labels = (np.concatenate(values) for values in zip(*sides))
    order = rng.permutation(len(labels))
    held_out, own = np.split(order, [min(len(labels) // 5, _MOST_HELD_OUT)])
    return (images[own], labels[own]), (images[held_out], labels[held_out])


def _taken(some: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(some.images[rows]), np.asarray(some.labels)[rows]


def _paired(side: Any) -> tuple[np.ndarray, np.ndarray]:
    """Without the classes that have one image."""
    images, labels = side
    keep = np.bincount(labels)[labels] > 1
    return images[keep], labels[keep]


def _apart(side: Any, victims: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without images that are a victim's too."""
    images, labels = side
    taken = {image.tobytes() for image in victims}
    keep = np.asarray([image.tobytes() not in taken for image in images], bool)
    return images[keep], labels[keep]
