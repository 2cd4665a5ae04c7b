"""From the names of a table's columns to attacks: `PGD-40`, `GridAdv.R`, `pgd:steps=100,restarts=5`.

A `ThreatModel` holds the radii and the lengths; nothing is guessed from the images. `THREATS` has those of
the published settings under their names.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jaxrobust import _validate
from jaxrobust.attacks import MIFGSM, PGD, GridSearch, RandomSearch, Sequence, fgsm
from jaxrobust.evaluation._types import CLEAN, EvalAttack
from jaxrobust.neighbourhoods import NEIGHBOURHOODS, RotationTranslation


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """The radii that a model is tried at, and how long the attacks look.

    Args:
        eps: pixel radius of `ball`, in pixels of [0, 1].
        ball: `linf` or `l2`, a name of `NEIGHBOURHOODS`.
        steps: of PGD. step_size: in radii, of PGD. restarts: of PGD.
        mi_steps, decay: of MI-FGSM, whose step is 1 / mi_steps radii.
        max_angle: degrees. max_shift: pixels; 0 leaves the motion out.
        num_random: draws of RandAdv.
        granularity: of GridAdv, values of (shift down, shift right, angle).

    >>> ThreatModel(eps=8 / 255).steps
    40
    """

    eps: float
    ball: str = "linf"
    steps: int = 40
    step_size: float = 1 / 30
    restarts: int = 1
    mi_steps: int = 10
    decay: float = 1.0
    max_angle: float = 30.0
    max_shift: float = 3.0
    num_random: int = 10
    granularity: tuple[int, int, int] = (5, 5, 31)

    def __post_init__(self):
        _validate.positive("eps", self.eps, "Use the attack 'none' for clean accuracy.")
        _validate.member("ball", self.ball, {"linf": None, "l2": None})
        if self.ball == "linf":
            _validate.within(
                "eps", self.eps, 0.0, 1.0, "Pixels are in [0, 1]; 8 levels of 255 are eps=8/255."
            )
        _validate.positive("step_size", self.step_size, "It is in radii, e.g. 1/30.")
        for name in ("steps", "restarts", "mi_steps", "num_random"):
            _validate.at_least(name, getattr(self, name), 1)
        _validate.non_negative("decay", self.decay)
        _validate.non_negative("max_angle", self.max_angle, "It is in degrees.")
        _validate.non_negative("max_shift", self.max_shift, "It is in pixels.")
        if not isinstance(self.granularity, tuple) or len(self.granularity) != 3:
            raise ValueError(
                f"Expected granularity as three numbers of values (down, right, angle), like (5, 5, 31), got "
                f"granularity={self.granularity!r}."
            )
        for count in self.granularity:
            _validate.at_least("granularity", count, 1)


THREATS = {
    # CN111401445A and arXiv 2003.06974: eps 0.3, 40 steps of 0.01; +-30 degrees, +-3 pixels, 5 x 5 x 31.
    "mnist": ThreatModel(eps=0.3, steps=40, step_size=1 / 30),
    # The source's radius 0.031 (not 8/255), with 20 steps of 0.003 as TRADES evaluates (arXiv 1901.08573).
    "cifar10": ThreatModel(eps=0.031, steps=20, step_size=0.003 / 0.031),
    # Our choice for 8x8 images; a whole pixel of eight leaves no model any accuracy.
    "digits": ThreatModel(eps=0.15, steps=40, step_size=1 / 30, max_angle=10.0, max_shift=0.5),
}


def _pixel_ball(t: ThreatModel):
    return NEIGHBOURHOODS[t.ball](eps=t.eps)


def _pgd(t: ThreatModel) -> PGD:
    return PGD(neighbourhood=_pixel_ball(t), steps=t.steps, step_size=t.step_size, restarts=t.restarts)


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


_PGD_FIELDS = ("eps", "ball", "steps", "step_size", "restarts")
_ANGLE, _SHIFT, _GRID = ("max_angle",), ("max_shift",), ("granularity",)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One name of the suite: how it is printed, what it reads of the threat model, and how it is built."""

    title: str
    fields: tuple[str, ...]
    build_fn: Callable[[ThreatModel], Any]
    every_image: bool = False


_MI_FIELDS = ("eps", "ball", "mi_steps", "decay")
_COMPOSITE = _PGD_FIELDS + _ANGLE + _SHIFT + _GRID
_RAND = ("num_random",)

SUITE: dict[str, _Entry] = {
    "none": _Entry(title=CLEAN, fields=(), build_fn=lambda t: None),
    "fgsm": _Entry(title="FGSM", fields=("eps", "ball"), build_fn=lambda t: fgsm(_pixel_ball(t))),
    "pgd": _Entry(title="PGD", fields=_PGD_FIELDS, build_fn=_pgd),
    "mi_fgsm": _Entry(
        title="MI-FGSM",
        fields=_MI_FIELDS,
        build_fn=lambda t: MIFGSM(neighbourhood=_pixel_ball(t), steps=t.mi_steps, decay=t.decay),
    ),
    "rand_adv": _Entry(title="RandAdv", fields=_ANGLE + _SHIFT + _RAND, build_fn=_random, every_image=True),
    "rand_adv.r": _Entry(
        title="RandAdv.R",
        fields=_ANGLE + _RAND,
        build_fn=lambda t: _random(t, translate=False),
        every_image=True,
    ),
    "rand_adv.t": _Entry(
        title="RandAdv.T",
        fields=_SHIFT + _RAND,
        build_fn=lambda t: _random(t, rotate=False),
        every_image=True,
    ),
    "grid_adv": _Entry(title="GridAdv", fields=_ANGLE + _SHIFT + _GRID, build_fn=_grid, every_image=True),
    "grid_adv.r": _Entry(
        title="GridAdv.R",
        fields=_ANGLE + _GRID,
        build_fn=lambda t: _grid(t, translate=False),
        every_image=True,
    ),
    "grid_adv.t": _Entry(
        title="GridAdv.T",
        fields=_SHIFT + _GRID,
        build_fn=lambda t: _grid(t, rotate=False),
        every_image=True,
    ),
    # Composite T1 of the source: pixels first, then geometry; and T2: geometry first.
    "pgd_plus": _Entry(
        title="PGD+", fields=_COMPOSITE, build_fn=lambda t: Sequence(stages=(_pgd(t), _grid(t)))
    ),
    "grid_adv_plus": _Entry(
        title="GridAdv+", fields=_COMPOSITE, build_fn=lambda t: Sequence(stages=(_grid(t), _pgd(t)))
    ),
}
_LENGTHS = {"pgd": "steps", "mi_fgsm": "mi_steps"}


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.lower()).replace("plus", "+")


_BY_PLAIN = {_plain(name): name for name in SUITE} | {"clean": "none", "natural": "none"}


def _real(text: str) -> float:
    """A finite number, or the quotient of two."""
    top, slash, bottom = text.partition("/")
    number = float(top) / float(bottom) if slash else float(top)
    if not math.isfinite(number):
        raise ValueError
    return number


def _value(field: str, text: str, known: Any) -> Any:
    """A parameter's value as its field's type; `8/255` and `5x5x31` are understood."""
    try:
        if isinstance(known, tuple):
            return tuple(int(part) for part in re.split(r"[x×]", text))
        if isinstance(known, int):
            return int(text)
        return _real(text) if isinstance(known, float) else text
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"Expected {field} like {known!r}, got {text!r}.") from None


def _overrides(entry: _Entry, text: str, threat: ThreatModel, aliases: dict[str, str]) -> dict[str, Any]:
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        field, equals, value = (part.strip() for part in pair.partition("="))
        field = aliases.get(field, field)
        if not equals or field not in entry.fields:
            known = ", ".join(entry.fields) or "no parameters"
            raise ValueError(f"Unknown parameter {pair!r} of {entry.title}. It takes: {known}.")
        found[field] = _value(field, value, getattr(threat, field))
    return found


def parse(text: str, threat: ThreatModel) -> tuple[str, EvalAttack]:
    """One attack by name: `pgd`, `PGD-40`, `GridAdv.R`, `pgd:steps=100,restarts=5`, `fgsm:eps=8/255`.

    Upper and lower case, hyphens and underscores do not matter, and the printed name reads back. What is not
    given comes from `threat`.

    Args:
        text: name, optionally `-STEPS` (PGD, MI-FGSM), optionally `:field=value,...`.
        threat: radii and lengths.

    Returns:
        The name as a table prints it, equal for equal attacks, and the attack.

    Raises:
        ValueError: unknown name or parameter, listing the known ones.

    >>> parse("pgd:steps=100,restarts=5", ThreatModel(eps=0.3))[0]
    'PGD-100 (restarts=5)'
    >>> parse("GridAdv.R", ThreatModel(eps=0.3))[1].every_image
    True
    """
    # The printed form, `NAME (field=value, ...)`, reads back.
    written = re.sub(r"\s*\((.*)\)$", r":\1", text.strip())
    head, _, tail = written.partition(":")
    plain, length = _plain(head), None
    if plain not in _BY_PLAIN and (match := re.fullmatch(r"(.*?)(\d+)", plain)):
        plain, length = match[1], int(match[2])
    name = _BY_PLAIN.get(plain, plain)
    if name not in SUITE or (length is not None and name not in _LENGTHS):
        known = ", ".join(entry.title for entry in SUITE.values())
        raise ValueError(f"Unknown attack {text!r}. Known: {known} (PGD-40 or pgd:steps=40 sets the length).")
    entry = SUITE[name]
    aliases = {"steps": _LENGTHS.get(name, "steps"), "num": "num_random"}
    given: dict[str, Any] = {} if length is None else {_LENGTHS[name]: length}
    given |= _overrides(entry, tail, threat, aliases)
    changed = dataclasses.replace(threat, **given)
    return _title(name, threat, changed), EvalAttack(entry.build_fn(changed), every_image=entry.every_image)


def _title(name: str, threat: ThreatModel, changed: ThreatModel) -> str:
    """The printed name: PGD always with its length, the others with what differs from the threat model."""
    entry, shown = SUITE[name], _LENGTHS.get(name)
    title = entry.title
    if shown and (name == "pgd" or getattr(changed, shown) != getattr(threat, shown)):
        title = f"{title}-{getattr(changed, shown)}"
    others = [field for field in entry.fields if field != shown]
    different = [field for field in others if getattr(changed, field) != getattr(threat, field)]
    listed = ", ".join(f"{field}={_text(getattr(changed, field))}" for field in different)
    return f"{title} ({listed})" if listed else title


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def split_names(text: str) -> list[str]:
    """A list of attacks as it is typed: commas part the attacks, but not the parameters of one.

    Raises:
        ValueError: where there is no name in it.

    >>> split_names("none, pgd:steps=100,restarts=5, PGD-40 (restarts=5, eps=0.1),GridAdv.R")
    ['none', 'pgd:steps=100,restarts=5', 'PGD-40 (restarts=5, eps=0.1)', 'GridAdv.R']
    """
    found: list[str] = []
    for part in re.findall(r"(?:\([^)]*\)|[^,])+", text):
        # `restarts=5` belongs to the attack before it.
        if found and re.match(r"\s*\w+\s*=", part):
            found[-1] += f",{part.strip()}"
        elif part.strip():
            found.append(part.strip())
    if not found:
        raise ValueError("Expected at least one name, separated by commas; see `jaxrobust list attacks`.")
    return found


def suite(names: Iterable[str], threat: ThreatModel) -> dict[str, EvalAttack]:
    """Attacks by name, in order, for `robust.evaluate`; see `parse`.

    >>> list(suite(["none", "fgsm", "pgd", "RandAdv"], ThreatModel(eps=0.3)))
    ['none', 'FGSM', 'PGD-40', 'RandAdv']
    """
    return dict(parse(name, threat) for name in names)
