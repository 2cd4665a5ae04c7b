"""What is timed: libraries, models, attacks with their budgets. Neither JAX nor PyTorch."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OURS, LIMITS = "ours", "limits"
BY_HAND = ("pytorch", "pytorch_channels_last")
LIBRARIES = {
    OURS: "ours",
    "pytorch": "PyTorch by hand",
    "pytorch_channels_last": "PyTorch by hand, channels last",
    "torchattacks": "torchattacks",
    "foolbox": "Foolbox, PyTorch",
    "foolbox_jax": "Foolbox, JAX",
    "art": "ART",
    "autoattack": "AutoAttack's code",
    "cleverhans": "CleverHans",
}
"""Each has a module `side_NAME`; a case's libraries are those whose module has an entry for it."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model and its images.

    Args:
        about: a line for the table.
        source: the parity benchmark's model that it is, or `random` weights.
        num_images: the batch.
        eps: radii by norm.
        attacks: which cases are run on it.
        bar: the least ratio to the fastest peer that is asked for, in place of the attacks' own.
    """

    about: str
    source: str
    num_images: int
    eps: Mapping[str, float]
    attacks: tuple[str, ...]
    bar: float | None = None


class Passes(NamedTuple):
    """What an attack cannot do without: gradients with respect to the images, and lone forward passes."""

    gradients: int
    forwards: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack with its budget, which is the same for all libraries.

    Args:
        title: as the table calls it.
        norm: of the radius within which an image counts as a success: `linf`, `l2`, `l0` (features),
            `l0_pixels`, or `free`, as turned images are.
        settings: the budget.
        passes_fn: the passes that the budget makes necessary; None where the images decide.
        num_images: fewer than the model has, where some peer is too slow for them all.
        fewer: still fewer for single libraries, which would take much longer over them than the others, or
            take them one by one; their rate per image is compared.
        rounds: how often each library does it.
        seeds: results whose successes are averaged, more than one where chance decides.
        bar: the least ratio to the fastest peer that is asked for; None for none.
        note: what a reader must know about the comparison.
    """

    title: str
    norm: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes_fn: Callable[[Mapping[str, Any]], Passes] | None = None
    num_images: int | None = None
    fewer: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 5
    seeds: int = 1
    bar: float | None = None
    note: str = ""


_MOVES = {"shift": 3, "angle": 30}
_GRID = {**_MOVES, "shifts": 5, "angles": 31}


def _grid_size(b: Mapping[str, Any]) -> int:
    return b["shifts"] ** 2 * b["angles"]


CASES: dict[str, Case] = {
    "fgsm": Case(title="FGSM", norm="linf", passes_fn=lambda b: Passes(1, 0)),
    "pgd": Case(
        title="PGD-20",
        norm="linf",
        settings={"steps": 20, "step": 0.1},
        passes_fn=lambda b: Passes(b["steps"], 0),
        rounds=15,  # short, and the case that is quoted: a shared machine has slow minutes
        bar=1.5,
        note="From the clean image, the last iterate: so all libraries must find the same.",
    ),
    "mi_fgsm": Case(
        title="MI-FGSM",
        norm="linf",
        settings={"steps": 10, "decay": 1.0},
        passes_fn=lambda b: Passes(b["steps"], 0),
        bar=1.5,
        note="Foolbox adds up gradients as they are, the others gradients of length 1, as published.",
    ),
    "cw": Case(
        title="C&W l2, 5 x 50",
        norm="l2",
        settings={
            "searches": 5,
            "steps": 50,
            "learning_rate": 0.1,
            "initial_const": 1e-3,
            "abort_early": False,
        },
        passes_fn=lambda b: Passes(b["searches"] * b["steps"], 0),
        fewer={"art": 32},
        rounds=3,
        bar=1.5,
        note="torchattacks has no search for c and gets five constants; CleverHans goes on from the last "
        "search's point, and is nearer for it; ART adds a line search, up to ten passes a step.",
    ),
    "ddn": Case(
        title="DDN-100",
        norm="l2",
        settings={"steps": 100, "gamma": 0.05, "initial_norm": 1.0},
        passes_fn=lambda b: Passes(b["steps"], 0),
        rounds=3,
        bar=1.5,
        note="Without rounding to 256 levels, which Foolbox leaves out.",
    ),
    "jsma": Case(
        title="JSMA",
        norm="l0_pixels",
        settings={"theta": 1.0, "upsilon": 0.145},
        num_images=64,
        fewer={"torchattacks": 4, "art": 8},
        rounds=3,
        bar=5.0,
        note="Targeted at each other class in turn; a success is any image within the share upsilon.",
    ),
    "pointwise": Case(
        title="Point-wise",
        norm="l0",
        settings={"starts": 1, "bisections": 0, "noise_steps": 1000},
        num_images=64,
        rounds=3,
        seeds=3,
        bar=5.0,
        note="One start, by each library's own search (Foolbox: 1,000 steps of noise), then changes are "
        "undone until no single one can be; no bisection of what remains, for Foolbox repeats its own until "
        "no bit changes.",
    ),
    "apgd": Case(
        title="APGD-CE-50",
        norm="linf",
        settings={"steps": 50},
        passes_fn=lambda b: Passes(b["steps"], 0),
        seeds=5,
        bar=1.5,
    ),
    "autoattack": Case(
        title="AutoAttack, reduced",
        norm="linf",
        settings={"steps": 50, "queries": 1000, "num_targets": 9},
        num_images=128,
        rounds=3,
        bar=2.0,
        note="APGD-CE, APGD-T and FAB-T to 9 targets with 50 steps each, Square with 1,000 queries, each on "
        "what is left; ours through `evaluation.evaluate`, which judges as theirs do. ART's has other parts.",
    ),
    "rand_adv": Case(
        title="RandAdv, 10 draws",
        norm="free",
        settings={**_MOVES, "draws": 10},
        passes_fn=lambda b: Passes(0, b["draws"]),
        seeds=50,
        bar=5.0,
        note="Foolbox draws one set of poses for all images, the others one for each image.",
    ),
    "grid_adv": Case(
        title="GridAdv 775",
        norm="free",
        settings=_GRID,
        passes_fn=lambda b: Passes(0, _grid_size(b)),
        fewer={"art": 4},
        rounds=3,
        bar=5.0,
        note="5 x 5 x 31 poses, the worst of them; Foolbox keeps the first that fools, stops when all images "
        "are misclassified, and resamples once per pose; here and by hand, as in Engstrom et al., rotation "
        "and translation each interpolate.",
    ),
    "grid_first": Case(
        title="GridAdv 775, the first that fools",
        norm="free",
        settings=_GRID,
        rounds=3,
        bar=5.0,
        note="The same robust accuracy in fewer passes: of each image the first pose that fools. Foolbox "
        "keeps all images in the batch until every one is misclassified; here, and by hand, they leave it.",
    ),
    "pgd_plus": Case(
        title="PGD+, 3 restarts",
        norm="free",
        settings={"pixel_eps": 0.3, "steps": 20, "step": 0.1, "restarts": 3, **_GRID},
        passes_fn=lambda b: Passes(b["restarts"] * b["steps"], _grid_size(b)),
        rounds=3,
        note="PGD-20 with 3 random starts, then the 775 poses of its images (composite T1).",
    ),
}

MODELS = {
    "mnist-srt": Model(
        about="SmallCNN, MNIST, trained by SRT",
        source="mnist-srt",
        num_images=256,
        eps={"linf": 0.3, "l2": 2.5, "l0": 30, "l0_pixels": 113, "free": 1.0},
        attacks=tuple(CASES),
    ),
    "mnist-standard": Model(
        about="SmallCNN, MNIST, undefended",
        source="mnist-standard",
        num_images=256,
        eps={"linf": 0.3},
        attacks=("autoattack",),
    ),
    "cifar10-preact": Model(
        about="PreActResNet-18 at 32x32, random weights",
        source="random",
        num_images=32,
        eps={"linf": 8 / 255, "free": 1.0},
        attacks=("fgsm", "pgd", "apgd", "rand_adv"),
        bar=1.2,
    ),
}

_SLOW_MODEL = {"rounds": 3, "seeds": 3}
_TOY = {
    "steps": 2,
    "searches": 2,
    "draws": 2,
    "shifts": 2,
    "angles": 3,
    "queries": 3,
    "num_targets": 2,
    "restarts": 2,
    "upsilon": 0.006,
    "noise_steps": 20,
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case on a model, with all that is needed to run it."""

    model: str
    case: str
    title: str
    norm: str
    eps: float
    settings: dict[str, Any]
    num_images: int
    fewer: dict[str, int]
    rounds: int
    seeds: int
    passes: Passes | None
    bar: float | None
    by_verdicts: bool

    @property
    def name(self) -> str:
        """`mnist-srt:pgd`."""
        return f"{self.model}:{self.case}"

    def count(self, library: str) -> int:
        """How many images a library attacks."""
        return min(self.num_images, self.fewer.get(library, self.num_images))


def task(model: str, case: str, *, rounds: int | None = None, toy: bool = False) -> Task:
    """A case on a model.

    Args:
        model, case: by name.
        rounds: None for the case's own.
        toy: four images and budgets of almost nothing, to see whether everything runs.
    """
    of, what = MODELS[model], CASES[case]
    settings = dict(what.settings)
    slow = _SLOW_MODEL if of.source == "random" else {}
    count = min(of.num_images, what.num_images or of.num_images)
    rounds = rounds or slow.get("rounds", what.rounds)
    seeds = min(what.seeds, slow.get("seeds", what.seeds))
    if toy:
        settings = {name: min(value, _TOY.get(name, value)) for name, value in settings.items()}
        count, rounds, seeds = min(count, 4), 1, min(seeds, 2)
    return Task(
        model=model,
        case=case,
        title=what.title,
        norm=what.norm,
        eps=of.eps[what.norm],
        settings=settings,
        num_images=count,
        fewer={library: min(number, count) for library, number in what.fewer.items()},
        rounds=rounds,
        seeds=seeds,
        passes=what.passes_fn(settings) if what.passes_fn else None,
        bar=what.bar if of.bar is None or case == "fgsm" else of.bar,
        by_verdicts=of.source == "random",
    )


def selected(patterns: list[str]) -> list[tuple[str, str]]:
    """The (model, case) that match any of the patterns `model:case`, which may hold `*`.

    >>> selected(["mnist-srt:pgd"])
    [('mnist-srt', 'pgd')]
    >>> selected(["*:fgsm"])
    [('mnist-srt', 'fgsm'), ('cifar10-preact', 'fgsm')]
    """
    everything = [(name, case) for name, model in MODELS.items() for case in model.attacks]
    if not patterns:
        return everything
    found: set[tuple[str, str]] = set()
    for pattern in patterns:
        parts = [*pattern.split(":"), "*"][:2]
        hits = [one for one in everything if all(map(fnmatch.fnmatchcase, one, parts))]
        if not hits:
            raise ValueError(
                f"Nothing matches --only {pattern}. Models: {', '.join(MODELS)}; attacks: {', '.join(CASES)}."
            )
        found.update(hits)
    return [one for one in everything if one in found]
