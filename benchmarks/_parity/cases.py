"""What is compared: models, radii, attacks with their budgets, and by which bars. Neither JAX nor PyTorch."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODELS = {
    "mnist-standard": "mnist1k_standard",
    "mnist-srt": "mnist1k_srt",
    "cifar10-standard": "cifar10_small_standard",
    "cifar10-srt": "cifar10_small_srt",
}
"""Each model's experiment of `jaxrobust.experiments`."""

STARTS = {"cifar10-srt": "cifar10-standard"}
"""A model that starts from another's weights, see the experiment's note."""

NUM_IMAGES = {"mnist": 200, "cifar10": 100}
EPS = {
    "mnist": {"linf": 0.3, "l2": 1.5, "l1": 10.0, "l0": 1.0, "free": 1.0},
    "cifar10": {"linf": 8 / 255, "l2": 0.5, "l1": 12.0, "l0": 1.0, "free": 1.0},
}
OURS = "ours"
PEERS = ("foolbox", "art", "torchattacks", "autoattack")
LIBRARIES = (OURS, *PEERS)
SEED = 0
"""The first seed; an attack in which chance decides runs with the next ones too."""

ACCURACY, NORM = "accuracy", "norm"
ACCURACY_SLACK, NORM_FACTOR = 0.005, 1.01


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack with its budget.

    Args:
        title: as the table calls it.
        norm: `linf`, `l2`, `l1`: inside a ball of this norm, or nearest in it; `l0`: features changed, or
            `l0_pixels`: pixels changed; `free`: anywhere in [0, 1], as turned images are.
        bars: `accuracy` (robust accuracy at eps), `norm` (mean and median minimum norm), or both.
        settings: the budget, the same for all libraries.
        per_set: settings that differ between sets of images.
        num_images: fewer images than the rest has, by set.
        targeted: lead the model to the class after the label's.
        seeds: how often the attack is run, where chance decides; robust accuracy is the mean.
        note: what a reader must know about the comparison.
    """

    title: str
    norm: str
    bars: tuple[str, ...] = (ACCURACY,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    per_set: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_images: Mapping[str, int] = field(default_factory=dict)
    targeted: bool = False
    seeds: int = 1
    note: str = ""

    def budget(self, dataset: str) -> dict[str, Any]:
        """All settings for one set."""
        return {**self.settings, **self.per_set.get(dataset, {})}

    def count(self, dataset: str) -> int:
        """How many images are attacked."""
        return self.num_images.get(dataset, NUM_IMAGES[dataset])

    def eps(self, dataset: str) -> float:
        """The radius in the norm's units."""
        return EPS[dataset]["l0" if self.norm == "l0_pixels" else self.norm]


# At the authors' rate of 0.01 two hundred steps leave a pixel of 0 or 1 where it is, in every library. Early
# abort is another rule in each, and off where it can be. Five searches from 0.01 can reach c = 100, the
# largest of the five constants that torchattacks is given.
_CW = {"searches": 5, "steps": 200, "learning_rate": 0.1, "initial_const": 1e-2, "abort_early": False}
_DDN = {"steps": 100, "gamma": 0.05, "initial_norm": 1.0}
_PGD_STEP = {"mnist": {"step": 1 / 30}, "cifar10": {"step": 0.25}}
_JSMA = "Targeted at each other class in turn; the fewest changes count."
_AUTO = "APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square, one after the other on what is left."

CASES: dict[str, Case] = {
    "fgsm": Case(title="FGSM", norm="linf"),
    "fgm_l2": Case(title="FGM l2", norm="l2"),
    "pgd": Case(title="PGD-40", norm="linf", settings={"steps": 40}, per_set=_PGD_STEP, seeds=5),
    "pgd_targeted": Case(
        title="PGD-40 targeted",
        norm="linf",
        settings={"steps": 40},
        per_set=_PGD_STEP,
        targeted=True,
        seeds=5,
    ),
    "pgd_l2": Case(title="PGD-40 l2", norm="l2", settings={"steps": 40, "step": 0.1}, seeds=5),
    "pgd_l1": Case(
        title="PGD-40 l1",
        norm="l1",
        settings={"steps": 40, "step": 0.1, "sparsity": 0.99},
        note="From the clean image; sparse steps in Foolbox and here, dense ones in ART.",
    ),
    "mi_fgsm": Case(title="MI-FGSM", norm="linf", settings={"steps": 10, "decay": 1.0}),
    "noise_linf": Case(
        title="uniform noise, 100 draws",
        norm="linf",
        settings={"draws": 100},
        seeds=5,
        note="The worst of 100 draws per image; chance decides between equals.",
    ),
    "noise_l2": Case(
        title="Gaussian noise l2, 100 draws",
        norm="l2",
        settings={"draws": 100},
        seeds=5,
        note="The worst of 100 draws per image, clipped to the box.",
    ),
    "cw": Case(
        title="C&W l2, 5 x 200",
        norm="l2",
        bars=(NORM,),
        settings=_CW,
        note="torchattacks has no search for c and gets five constants, the nearest counts; ART adds a "
        "line search, up to 10 forward passes a step.",
    ),
    "cw_constants": Case(
        title="C&W l2, 5 constants x 200",
        norm="l2",
        bars=(NORM,),
        settings={
            "constants": (1e-2, 1e-1, 1.0, 1e1, 1e2),
            **{name: _CW[name] for name in ("steps", "learning_rate", "abort_early")},
        },
        note="No search: each constant in turn, the nearest counts.",
    ),
    "cw_slow": Case(
        title="C&W l2, 5 x 200, rate 0.01",
        norm="l2",
        bars=(NORM,),
        settings={**_CW, "learning_rate": 0.01, "abort_early": True},
        note="The authors' rate and each library's early abort, in a fiftieth of the authors' steps: no "
        "library moves black or white pixels.",
    ),
    "cw_targeted": Case(
        title="C&W l2 targeted, 5 x 200", norm="l2", bars=(NORM,), settings=_CW, targeted=True
    ),
    "ddn": Case(
        title="DDN-100",
        norm="l2",
        bars=(NORM,),
        settings=_DDN,
        note="Without rounding to 256 levels, which Foolbox leaves out.",
    ),
    "ddn_targeted": Case(title="DDN-100 targeted", norm="l2", bars=(NORM,), settings=_DDN, targeted=True),
    "fab_l2": Case(title="FAB-100 l2", norm="l2", bars=(NORM, ACCURACY), settings={"steps": 100}),
    "fab_linf": Case(title="FAB-100", norm="linf", bars=(NORM, ACCURACY), settings={"steps": 100}),
    "fab_t_linf": Case(
        title="FAB-T-100",
        norm="linf",
        settings={"steps": 100, "num_targets": 9},
        note="The peers stop at the first target inside eps, so that norms are not compared.",
    ),
    "apgd_ce": Case(title="APGD-CE-50", norm="linf", settings={"steps": 50}, seeds=5),
    "apgd_ce_l2": Case(title="APGD-CE-50 l2", norm="l2", settings={"steps": 50}, seeds=5),
    "apgd_dlr": Case(title="APGD-DLR-50", norm="linf", settings={"steps": 50}, seeds=5),
    "apgd_dlr_l2": Case(title="APGD-DLR-50 l2", norm="l2", settings={"steps": 50}, seeds=5),
    "apgd_t": Case(title="APGD-T-50", norm="linf", settings={"steps": 50, "num_targets": 9}),
    "apgd_t_l2": Case(title="APGD-T-50 l2", norm="l2", settings={"steps": 50, "num_targets": 9}),
    "square": Case(title="Square, 1,000 queries", norm="linf", settings={"queries": 1000}, seeds=3),
    "square_l2": Case(title="Square l2, 1,000 queries", norm="l2", settings={"queries": 1000}, seeds=3),
    "autoattack": Case(
        title="AutoAttack, reduced",
        norm="linf",
        settings={"steps": 50, "queries": 1000, "num_targets": 9},
        note=_AUTO,
    ),
    "autoattack_l2": Case(
        title="AutoAttack l2, reduced",
        norm="l2",
        settings={"steps": 50, "queries": 1000, "num_targets": 9},
        note=_AUTO,
    ),
    "jsma": Case(
        title="JSMA",
        norm="l0_pixels",
        bars=(NORM,),
        settings={"theta": 1.0, "upsilon": 0.145},
        num_images={"cifar10": 20},
        note=_JSMA,
    ),
    "pointwise": Case(
        title="Point-wise",
        norm="l0",
        bars=(NORM,),
        settings={"starts": 10, "bisections": 10},
        note="Foolbox: one start, by 1,000 steps of salt and pepper, then passes with bisections of every "
        "feature until nothing changes; here several starts, and bisections on the best.",
    ),
    "spatial_grid": Case(
        title="GridAdv 5 x 5 x 31",
        norm="free",
        settings={"shift": 3, "angle": 30, "shifts": 5, "angles": 31},
        note="The libraries resample differently (order of the motions, interpolation): the grids are alike, "
        "the images are not.",
    ),
    "spatial_random": Case(
        title="RandAdv, 100 draws",
        norm="free",
        settings={"shift": 3, "angle": 30, "draws": 100},
        seeds=5,
        note="Foolbox draws one set of transforms for all images, this library one for each.",
    ),
}


def designated(case: Case, labels: Any, num_classes: int = 10) -> Any:
    """What an attack is given beside the images: labels, or the classes that it is to lead to."""
    return (labels + 1) % num_classes if case.targeted else labels


def dataset_of(model: str) -> str:
    """`mnist-srt` -> `mnist`."""
    return model.split("-")[0]


LEFT_OUT = {
    "art": (
        {(model, case) for model in MODELS if model != "cifar10-srt" for case in ("cw", "cw_targeted")},
        "its line search takes half an hour and more a case, and on cifar10-srt it fooled 5 of 100 images",
    ),
}
"""By library, what runs only where it is named (`--only 'mnist-srt:cw:art'`), and why."""


def is_left_out(model: str, case: str, library: str) -> bool:
    """Whether it is in `LEFT_OUT`."""
    return library in LEFT_OUT and (model, case) in LEFT_OUT[library][0]


def selected(patterns: list[str]) -> list[tuple[str, str, str]]:
    """The (model, case, library) that match any of the patterns `model:case:library`.

    A part may hold `*` and may be left out at the end. No pattern: all but what is `LEFT_OUT`.

    >>> selected(["mnist-srt:cw:foolbox"])
    [('mnist-srt', 'cw', 'foolbox')]
    >>> len(selected(["*:fgsm:ours"])) == len(MODELS)
    True
    >>> ("mnist-srt", "cw", "art") in selected([])
    False
    """
    everything = [(m, c, lib) for m in MODELS for c in CASES for lib in LIBRARIES]
    if not patterns:
        return [task for task in everything if not is_left_out(*task)]
    found: set[tuple[str, str, str]] = set()
    for pattern in patterns:
        parts = [*pattern.split(":"), "*", "*"][:3]
        hits = [task for task in everything if all(map(fnmatch.fnmatchcase, task, parts))]
        if not hits:
            raise ValueError(
                f"Nothing matches --only {pattern}. Models: {', '.join(MODELS)}; "
                f"attacks: {', '.join(CASES)}; libraries: {', '.join(LIBRARIES)}."
            )
        found.update(hits)
    return [task for task in everything if task in found]
