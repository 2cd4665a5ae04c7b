"""What a page says in sentences, made of the rows' settings: nets, length, inner attacks, checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrobust import evaluation
from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.attacks import Sequence as Composite
from jaxrobust.experiments.experiment import BatchForm, Experiment
from jaxrobust.experiments.tables.plan import Job
from jaxrobust.experiments.tables.settings import DATASETS, Scale
from jaxrobust.experiments.tables.spec import Row, Spec
from jaxrobust.models import WideResNet


def setting(spec: Spec, rows: Sequence[Row], dataset: str, scale: Scale) -> dict[str, str]:
    """How the rows were trained, by name, beside the published setting where it is another."""
    paper = spec.make_rows(dataset, Scale.PAPER) if dataset in DATASETS and scale is not Scale.PAPER else []
    # A published table may have rows that a shorter one has not; where some rows are others, all are told.
    keys = {row.key for row in rows}
    if keys <= {row.key for row in paper}:
        paper = [row for row in paper if row.key in keys]
    tellers: dict[str, Callable[[Row], str]] = {
        "images": lambda row: images(row.experiment),
        "net": lambda row: net(row.experiment),
        "training": lambda row: _length(row.experiment),
        "inner attack": lambda row: _inner(row.experiment),
        "checkpoint": lambda row: _choice(row.experiment),
    }
    found = {}
    for name, tell in tellers.items():
        ours, theirs = by_row(rows, tell), by_row(paper, tell)
        beside = (
            f" (published: {theirs})"
            if name in ("images", "net", "training") and theirs not in ("", ours)
            else ""
        )
        found[name] = ours + beside
    longer = {_ratio(one, rows) for one in paper} - {None, 1}
    if longer:
        times = " to ".join(str(one) for one in sorted({min(longer), max(longer)}))  # type: ignore[type-var]
        found["training"] += f"; the published runs see {times} times as many images"
    weights = by_row(rows, lambda row: _warmups(row.experiment))
    if weights:
        found["warm-up"] = weights
    return found


def by_row(rows: Sequence[Row], tell: Callable[[Row], str]) -> str:
    """What holds for which rows: one text where it is the same for all, otherwise each with its rows."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(tell(row), []).append(row.title)
    others = {text: titles for text, titles in groups.items() if text}
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{text} ({_which(titles, rows)})" for text, titles in others.items())


def _which(titles: Sequence[str], rows: Sequence[Row]) -> str:
    """Some of the rows by their titles, or by those that are not among them."""
    rest = [row.title for row in rows if row.title not in titles]
    return f"all but {' / '.join(rest)}" if len(rest) < len(titles) else " / ".join(titles)


def images(experiment: Experiment) -> str:
    """How many training images have labels, and how many are there without.

    >>> from jaxrobust.experiments import get
    >>> images(get("mnist1k_srt"))
    '1,000 labelled and 9,000 unlabelled'
    """
    data = experiment.image_data
    if experiment.batches is not BatchForm.MIXED or data.num_unlabelled == 0:
        return f"{data.num_labelled:,} labelled"
    if data.num_unlabelled is None:
        return f"{data.num_labelled:,} labelled, all others but those for validation unlabelled"
    return f"{data.num_labelled:,} labelled and {data.num_unlabelled:,} unlabelled"


def net(experiment: Experiment) -> str:
    """The net by its class, a wide one with its size."""
    model = experiment.model
    if isinstance(model, WideResNet):
        return f"WRN-{model.depth}-{model.widen_factor}"
    return type(model).__name__


def _length(experiment: Experiment) -> str:
    optimizer = experiment.optimizer
    share = experiment.labelled_per_step
    mixed = "" if share is None else f", {share} of them labelled in mixed batches"
    clip = "" if optimizer.clip is None else f", gradients clipped at {optimizer.clip:g}"
    return (
        f"{experiment.num_steps:,} steps of {optimizer.name} at {optimizer.learning_rate:.3g}, "
        f"{experiment.batch_size:,} images each{mixed}{clip}"
    )


def _ratio(paper: Row, rows: Sequence[Row]) -> int | None:
    """How many times as many images the published run of a row sees."""
    own = next((row.experiment for row in rows if row.key == paper.key), None)
    if own is None:
        return None
    images = paper.experiment.num_steps * paper.experiment.batch_size
    return round(images / (own.num_steps * own.batch_size))


def _inner(experiment: Experiment) -> str:
    attack = getattr(experiment.objective, "attack", None)
    return "" if attack is None else attack_in_words(attack)


def attack_in_words(attack: Any) -> str:
    """An inner attack with its length and radius.

    >>> from jaxrobust.neighbourhoods import LInf
    >>> attack_in_words(PGD(neighbourhood=LInf(eps=0.3), steps=10, step_size=0.25))
    'PGD, 10 steps, ℓ∞ 0.3'
    """
    if isinstance(attack, Composite):
        return ", then ".join(attack_in_words(stage) for stage in attack.stages)
    radius = evaluation.radius_label(attack)
    if isinstance(attack, PGD):
        return f"PGD, {attack.steps} steps, {radius}"
    if isinstance(attack, RandomSearch):
        return f"the worst of {attack.num} random ones, {radius}"
    return f"{type(attack).__name__}, {radius}"


def _choice(experiment: Experiment) -> str:
    """Which checkpoint is kept."""
    count = experiment.data.num_validation
    if not count:
        return "the last"
    if not experiment.validate_every:
        return "the last: validated at the end only"
    if experiment.validation_attack is None:
        how = "clean accuracy"
    else:
        how = f"accuracy under {attack_in_words(experiment.validation_attack)}"
    return f"the best {how} on {count:,} validation images of the training set"


def _warmups(experiment: Experiment) -> str:
    """Over which part of a run radius and lam grow."""
    objective: Any = experiment.objective
    names = {"warmup": "radius", "lam_warmup": "λ"}
    parts = [
        f"{what} over the first {share:.0%}"
        for name, what in names.items()
        if (share := getattr(objective, name, 0.0))
    ]
    return ", ".join(parts)


def seeds(jobs: Sequence[Job]) -> str:
    """Which rows have which seeds.

    The first seed is every row's.
    """
    titles: dict[int, list[str]] = {}
    for job in jobs:
        titles.setdefault(job.experiment.seed, []).append(job.row.title)
    first, *further = titles
    if not further:
        return str(first)
    return f"{first}; {' and '.join(map(str, further))} of {' / '.join(titles[further[0]])} alone"


def trained_with(jobs: Sequence[Job], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Versions and hardware of training and of attacks, the hours of both, and the data; `found`: the rows of
    each job by its name."""
    rows = [row for job in jobs for row in found[job.name]]
    runs = [found[job.name][0] for job in jobs if found[job.name]]
    attacks = sum(row["seconds"] for row in rows if row.get("attack") == evaluation.WORST)
    attacks += sum(row["seconds"] for row in rows if row.get("factor") == 1.0)
    unknown = sum(row["train_seconds"] is None for row in runs)
    resumed = sum(bool(row["train_resumed_at"]) for row in runs)
    notes = [f"{resumed} of them resumed: their time is that of the last part"] if resumed else []
    notes += [f"that of {unknown} is not known"] if unknown else []
    hours = sum(row["train_seconds"] or 0.0 for row in runs) / 3600
    return {
        "versions, training": _distinct(_versions(row["train_versions"]) for row in runs),
        "versions, attacks": _distinct(_versions(row["versions"]) for row in rows),
        "hardware, training": _distinct(row["train_hardware"] or "not known" for row in runs),
        "hardware, attacks": _distinct(row["hardware"] for row in rows),
        "data": "fingerprint " + _distinct(row["fingerprint"] or "not known" for row in runs),
        "wall-clock": f"training {hours:.2f} hours for {len(runs)} models"
        + (f" ({'; '.join(notes)})" if notes else "")
        + f", attacks {attacks / 3600:.2f} hours, compilation included",
    }


def _versions(found: Mapping[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items()) if found else "not known"


def _distinct(texts: Any) -> str:
    return "; ".join(dict.fromkeys(texts))
