"""The attacks that `--attacks` takes by name, and the suites of them that stand for several.

An entry says how an attack is printed, which parameters it takes of the threat model, and how it is built;
`names.parse` reads what is typed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxrobust import attacks
from jaxrobust.attacks import PGD, GridSearch, RandomSearch, Sequence
from jaxrobust.attacks.autoattack import autoattack
from jaxrobust.evaluation._types import CLEAN
from jaxrobust.evaluation.threats import ThreatModel
from jaxrobust.neighbourhoods import NEIGHBOURHOODS, ColourShift, Compose, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Ball


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack by name.

    Args:
        title: as tables print it.
        about: what it is, in a line.
        params: what may be written after the name, and the field of the threat model that it sets; `@l2` is
            the field that has the radius of that ball. Where two set one field, the first is printed.
        build_fn: makes the attack; None for the clean image.
        every_image: as in `EvalAttack`.
        length: the parameter that a number after the name sets, as in `PGD-100`.
        shows_length: whether that number is printed even where it is the threat model's own.
    """

    title: str
    about: str
    build_fn: Callable[[ThreatModel], Any]
    params: Mapping[str, str] = field(default_factory=dict)
    every_image: bool = False
    length: str | None = None
    shows_length: bool = False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Several attacks under one name, which expands in place."""

    about: str
    names: tuple[str, ...]


def _ball(t: ThreatModel) -> Ball:
    return NEIGHBOURHOODS[t.ball](eps=t.eps)


def _l2(t: ThreatModel) -> Ball:
    return NEIGHBOURHOODS["l2"](eps=t.radius("l2"))


def _l0(t: ThreatModel) -> Ball:
    return NEIGHBOURHOODS["l0"](eps=t.radius("l0"))


def _pgd(t: ThreatModel, **options: Any) -> PGD:
    return PGD(neighbourhood=_ball(t), steps=t.steps, step_size=t.step_size, restarts=t.restarts, **options)


def _motion(t: ThreatModel, *, rotate: bool = True, translate: bool = True) -> RotationTranslation:
    angle, shift = t.max_angle if rotate else 0.0, t.max_shift if translate else 0.0
    return RotationTranslation(max_angle=angle, max_shift=shift)


def _grid(t: ThreatModel, **which: bool) -> GridSearch:
    # A limit of 0 needs a granularity of 1 as well: linspace(-30, 30, 1) is -30.
    motion, (down, right, angles) = _motion(t, **which), t.granularity
    shifts = (down, right) if motion.max_shift else (1, 1)
    return GridSearch(neighbourhood=motion, granularity=(*shifts, angles if motion.max_angle else 1))


def _random(t: ThreatModel, **which: bool) -> RandomSearch:
    return RandomSearch(neighbourhood=_motion(t, **which), num=t.num_random)


def _colour(t: ThreatModel) -> GridSearch | PGD:
    """A grid over whole-image shifts; per pixel, which has too many, ascent."""
    c = t.colours
    shift = ColourShift(**vars(c))
    if c.per_pixel:
        return PGD(neighbourhood=shift, steps=t.lengths.colour_steps, step_size=0.25)
    return GridSearch(neighbourhood=shift, granularity=t.lengths.colour_granularity)


def _joint(t: ThreatModel) -> attacks.JointSearch:
    return attacks.JointSearch(
        neighbourhood=Compose(parts=(_ball(t), _motion(t))),
        granularity=t.lengths.joint_granularity,
        steps=t.lengths.joint_steps,
    )


def _cw(t: ThreatModel) -> attacks.CarliniWagner:
    k = t.lengths
    return attacks.CarliniWagner(
        neighbourhood=_l2(t),
        searches=k.cw_searches,
        steps=k.cw_steps,
        learning_rate=k.cw_learning_rate,
        initial_const=k.cw_initial_const,
    )


def _apgd(t: ThreatModel, **options: Any) -> attacks.APGD:
    k = t.lengths
    return attacks.APGD(neighbourhood=_ball(t), steps=k.apgd_steps, restarts=k.apgd_restarts, **options)


def _fab(t: ThreatModel, **options: Any) -> attacks.FAB:
    k = t.lengths
    return attacks.FAB(neighbourhood=_ball(t), steps=k.fab_steps, restarts=k.fab_restarts, **options)


def _autoattack(t: ThreatModel) -> attacks.Ensemble:
    k = t.lengths
    return autoattack(_ball(t), steps=k.aa_steps, queries=k.aa_queries, num_targets=k.targets)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_BALL = _same("eps", "ball")
_PGD = _BALL | _same("steps", "step_size", "restarts")
_MOVES, _GRID = _same("max_angle", "max_shift"), _same("granularity")
_NUM = {"num_random": "num_random", "num": "num_random"}
_APGD = _BALL | {"steps": "lengths.apgd_steps", "restarts": "lengths.apgd_restarts"}
_FAB = _BALL | {"steps": "lengths.fab_steps", "restarts": "lengths.fab_restarts"}
_TARGETS = {"targets": "lengths.targets"}
_COLOUR = {f: f"colours.{f}" for f in ("hue", "saturation", "brightness", "contrast", "grey", "per_pixel")}


def _poses(kind: str, title: str, about: str, build_fn: Callable, params: dict[str, str]) -> dict[str, Entry]:
    """The full form of an attack over poses, and those of rotation and of translation alone."""
    angle, shift = _same("max_angle"), _same("max_shift")
    return {
        kind: Entry(title=title, about=about, params=_MOVES | params, build_fn=build_fn, every_image=True),
        f"{kind}.r": Entry(
            title=f"{title}.R",
            about=f"{title} without translations.",
            params=angle | params,
            build_fn=lambda t: build_fn(t, translate=False),
            every_image=True,
        ),
        f"{kind}.t": Entry(
            title=f"{title}.T",
            about=f"{title} without rotations.",
            params=shift | params,
            build_fn=lambda t: build_fn(t, rotate=False),
            every_image=True,
        ),
    }


SUITE: dict[str, Entry] = {
    "none": Entry(title=CLEAN, about="The clean images.", build_fn=lambda t: None),
    "fgsm": Entry(
        title="FGSM",
        about="One step of the whole radius.",
        params=_BALL,
        build_fn=lambda t: attacks.fgsm(_ball(t)),
    ),
    "pgd": Entry(
        title="PGD",
        about="Projected gradient ascent on the cross-entropy.",
        params=_PGD,
        build_fn=_pgd,
        length="steps",
        shows_length=True,
    ),
    "mi_fgsm": Entry(
        title="MI-FGSM",
        about="Iterated FGSM with momentum.",
        params=_BALL | {"steps": "mi_steps", "mi_steps": "mi_steps", "decay": "decay"},
        build_fn=lambda t: attacks.MIFGSM(neighbourhood=_ball(t), steps=t.mi_steps, decay=t.decay),
        length="steps",
    ),
    "cw_ball": Entry(
        title="C&W-ball",
        about="The margin loss of C&W, ascended by PGD inside the threat's ball.",
        params=_PGD,
        build_fn=lambda t: _pgd(t, loss_fn=losses.margin),
        length="steps",
    ),
    "apgd_ce": Entry(
        title="APGD-CE",
        about="Auto-PGD on the cross-entropy.",
        params=_APGD,
        build_fn=_apgd,
        length="steps",
    ),
    "apgd_dlr": Entry(
        title="APGD-DLR",
        about="Auto-PGD on the difference-of-logits ratio.",
        params=_APGD,
        build_fn=lambda t: _apgd(t, loss_fn=losses.dlr),
        length="steps",
    ),
    "apgd_t": Entry(
        title="APGD-T",
        about="Auto-PGD towards each of the likeliest other classes.",
        params=_APGD | _TARGETS,
        build_fn=lambda t: _apgd(t, num_targets=t.lengths.targets),
        length="steps",
    ),
    "square": Entry(
        title="Square",
        about="Random search with squares, no gradients.",
        params=_BALL | {"queries": "lengths.queries"},
        build_fn=lambda t: attacks.Square(neighbourhood=_ball(t), queries=t.lengths.queries),
        length="queries",
    ),
    "autoattack": Entry(
        title="AutoAttack",
        about="APGD-CE, APGD-T, FAB-T and Square, each on what is left.",
        params=_BALL | {"steps": "lengths.aa_steps", "queries": "lengths.aa_queries"} | _TARGETS,
        build_fn=_autoattack,
    ),
    "cw": Entry(
        title="C&W",
        about="The nearest image in l2, by penalised descent.",
        params={
            "eps": "@l2",
            "searches": "lengths.cw_searches",
            "steps": "lengths.cw_steps",
            "learning_rate": "lengths.cw_learning_rate",
            "initial_const": "lengths.cw_initial_const",
        },
        build_fn=_cw,
    ),
    "ddn": Entry(
        title="DDN",
        about="The nearest image in l2, direction and norm apart.",
        params={"eps": "@l2", "steps": "lengths.ddn_steps"},
        build_fn=lambda t: attacks.DDN(neighbourhood=_l2(t), steps=t.lengths.ddn_steps),
        length="steps",
    ),
    "fab": Entry(
        title="FAB",
        about="The nearest image in the threat's norm, along decision boundaries.",
        params=_FAB,
        build_fn=_fab,
        length="steps",
    ),
    "fab_t": Entry(
        title="FAB-T",
        about="FAB towards each of the likeliest other classes.",
        params=_FAB | _TARGETS,
        build_fn=lambda t: _fab(t, num_targets=t.lengths.targets),
        length="steps",
    ),
    "jsma": Entry(
        title="JSMA",
        about="Few changed pixels, in pairs by saliency.",
        params={"eps": "@l0", "upsilon": "lengths.upsilon"},
        build_fn=lambda t: attacks.JSMA(neighbourhood=_l0(t), upsilon=t.lengths.upsilon),
    ),
    "pointwise": Entry(
        title="Point-wise",
        about="Few changed pixels, from salt and pepper back, no gradients.",
        params={"eps": "@l0", "starts": "lengths.starts", "bisections": "lengths.bisections"},
        build_fn=lambda t: attacks.PointWise(
            neighbourhood=_l0(t), starts=t.lengths.starts, bisections=t.lengths.bisections
        ),
    ),
    **_poses("rand_adv", "RandAdv", "The worst of some random poses.", _random, _NUM),
    **_poses("grid_adv", "GridAdv", "The worst of a grid of poses.", _grid, _GRID),
    "colour": Entry(
        title="Colour",
        about="The worst colour shift: of a grid, or per pixel by ascent.",
        params=_COLOUR | {"granularity": "lengths.colour_granularity", "steps": "lengths.colour_steps"},
        build_fn=_colour,
    ),
    # Composite T1 of the source: pixels first, then geometry; and T2: geometry first.
    "pgd_plus": Entry(
        title="PGD+",
        about="PGD, then GridAdv on its images.",
        params=_PGD | _MOVES | _GRID,
        build_fn=lambda t: Sequence(stages=(_pgd(t), _grid(t))),
    ),
    "grid_adv_plus": Entry(
        title="GridAdv+",
        about="GridAdv, then PGD on its images.",
        params=_PGD | _MOVES | _GRID,
        build_fn=lambda t: Sequence(stages=(_grid(t), _pgd(t))),
    ),
    "joint": Entry(
        title="Joint",
        about="Pixels and pose together: PGD through the warp at every pose of a grid.",
        params=_BALL | _MOVES | {"granularity": "lengths.joint_granularity", "steps": "lengths.joint_steps"},
        build_fn=_joint,
    ),
}

SUITES: dict[str, Suite] = {
    "table3": Suite(
        about="Attacks on pixels: Table 3 of arXiv 2003.06974, C&W in both of its readings.",
        names=("none", "fgsm", "pgd", "mi_fgsm", "jsma", "cw_ball", "cw", "pointwise", "ddn"),
    ),
    "table6": Suite(
        about="Attacks by rotation and translation: Table 6 of arXiv 2003.06974.",
        names=("none", "rand_adv", "grid_adv", "rand_adv.t", "grid_adv.t", "rand_adv.r", "grid_adv.r"),
    ),
    "autoattack": Suite(
        about="AutoAttack 'standard' (arXiv 2003.01690), with what each member broke.",
        names=("none", "autoattack"),
    ),
    "composite": Suite(
        about="Several changes, one after the other, in the order of the name.",
        names=(
            "none",
            "pgd",
            "grid_adv",
            "pgd_plus",
            "grid_adv_plus",
            "colour",
            "pgd>colour",
            "colour>pgd",
            "pgd>grid_adv>colour",
        ),
    ),
}
