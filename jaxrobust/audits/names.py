"""From what is typed to maps, regions, perturbations, protections: `rise:num=1000`, `quantised:bits=4`."""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import _validate
from jaxrobust.audits.perturbations import REGION_ATTACKS, REPLACEMENTS, Fill, Perturbation, confined
from jaxrobust.evaluation import ThreatModel, parse
from jaxrobust.inversion import PROTECTIONS, Protection
from jaxrobust.inversion.features import LOGITS
from jaxrobust.saliency import REDUCTIONS, REGIONS, SALIENCY_MAPS, Region, SaliencyMap

_SHORT = {"mean": Fill(), "grey": Fill(level=0.5), "gray": Fill(level=0.5)}


def parse_map(text: str) -> tuple[str, SaliencyMap, str | None]:
    """A saliency map by name: `occlusion:window=8,stride=4`, `grad_cam@conv3`, `gradient`.

    Returns:
        The name as it was typed, the map, and the layer after `@` (None: the model's last).

    Raises:
        ValueError: for an unknown name or parameter, listing the known ones; a layer for a map without.

    >>> parse_map("rise:num=100")[1]
    RISE(num=100, cells=7, keep=0.5, seed=0)
    >>> parse_map("grad_cam@conv3")
    ('grad_cam@conv3', GradCAM(rectify=False), 'conv3')
    """
    head, _, tail = (part.strip() for part in text.partition(":"))
    name, _, layer = head.partition("@")
    kind = _validate.member("saliency map", name, SALIENCY_MAPS)
    if layer and name != "grad_cam":
        raise ValueError(f"{name} has no layer, got {text!r}; @LAYER goes with grad_cam.")
    return text.strip(), _configured(kind, tail, text), layer or None


def parse_regions(text: str, fractions: Sequence[float], height: int, width: int) -> dict[str, Region]:
    """A kind of region at several shares of the image: `top_fraction`, `largest_component`, `best_box`.

    The side of a box is the root of its share of the pixels, rounded. `threshold:level=0.1` has no share.

    Raises:
        ValueError: for an unknown kind or parameter, or shares out of range.

    >>> list(parse_regions("top_fraction:sigma=0", (0.05, 0.1), 28, 28))
    ['top 5%', 'top 10%']
    >>> list(parse_regions("best_box", (0.1,), 28, 28))
    ['box 9x9']
    """
    head, _, tail = (part.strip() for part in text.partition(":"))
    kind: Any = _validate.member("region", head, REGIONS)
    fields = {f.name for f in dataclasses.fields(kind)}
    if head == "threshold":
        return {text.strip(): _configured(kind, tail, text)}
    found: dict[str, Region] = {}
    for q in sorted(set(fractions)):
        if not 0 < q < 1:
            raise ValueError(f"Expected fractions in (0, 1), got {q:g}. 0.1 is a tenth of the image.")
        if "side" in fields:
            side = max(1, round(math.sqrt(q * height * width)))
            found[f"box {side}x{side}"] = _configured(kind, tail, text, side=side)
        else:
            title = {"top_fraction": "top"}.get(head, head.replace("_", " "))
            found[f"{title} {100 * q:g}%"] = _configured(kind, tail, text, fraction=q)
    if not found:
        raise ValueError("Expected at least one fraction of the image, got none. Try 0.1.")
    return found


def parse_perturbation(text: str, threat: ThreatModel) -> tuple[str, Perturbation]:
    """`mean`, `grey`, `blur:sigma=4`, `noise`, `region_pgd:steps=40`, `patch`, or any attack.

    `region_pgd` has the radius of `threat` unless one is given. An attack's name is read as
    `evaluation.parse` does, with the radii of `threat`, and confined to the region.

    Returns:
        The name that stands for it in tables, and the perturbation.

    Raises:
        ValueError: for an unknown name or parameter, or an attack towards a class.

    >>> parse_perturbation("blur:sigma=2", ThreatModel(eps=0.3))
    ('blur:sigma=2', Blur(sigma=2.0))
    >>> parse_perturbation("mi_fgsm", ThreatModel(eps=0.3))[1].neighbourhood
    Masked(neighbourhood=LInf(eps=0.3))
    """
    head, _, tail = (part.strip() for part in text.partition(":"))
    if head in _SHORT and not tail:
        return head, _SHORT[head]
    if head in REPLACEMENTS:
        return text.strip(), _configured(REPLACEMENTS[head], tail, text)
    if head in REGION_ATTACKS:
        attack_fn: Any = REGION_ATTACKS[head]
        given = _parameters(tail, text, typing.get_type_hints(attack_fn))
        if head == "region_pgd" and threat.ball == "linf" and threat.eps is not None:
            given = {"eps": threat.eps, **given}
        attack = attack_fn(**given)
        radius = "" if head == "patch" else f"eps={_fraction(attack.neighbourhood.eps)},"
        return f"{head}:{radius}steps={attack.steps}", attack
    try:
        title, entry = parse(text, threat)
    except ValueError as error:
        known = ", ".join([*_SHORT, *REPLACEMENTS, *REGION_ATTACKS])
        raise ValueError(f"{error} A perturbation may also be one of {known}.") from None
    if entry.attack is None:
        raise ValueError(f"{title} perturbs nothing. Leave it out.")
    if entry.target_fn is not None:
        raise ValueError(f"{title} leads to a class, and any other will do here. Leave target= out.")
    return title, confined(entry.attack)


def parse_protections(text: str) -> tuple[str, tuple[Protection, ...]]:
    """Protections of features, one after the other with `+`: `truncated:keep=32+quantised:bits=4`.

    Returns:
        The name as it was typed, and the protections.

    Raises:
        ValueError: for an unknown name or parameter, listing the known ones.

    >>> parse_protections("noisy:ratio=0.5")
    ('noisy:ratio=0.5', (Noisy(ratio=0.5),))
    """
    found = []
    for part in text.split("+"):
        head, _, tail = (piece.strip() for piece in part.partition(":"))
        found.append(_configured(_validate.member("protection", head, PROTECTIONS), tail, part.strip()))
    return text.strip(), tuple(found)


def default_mitigations(layer: str, shape: tuple[int, ...]) -> dict[str, tuple[Protection, ...]]:
    """What is tried where nothing else is asked for: fewer, coarser and noisier numbers.

    Of an image's features, whose `shape` is `(d,)` for a vector. Logits are cut to the largest instead of the
    first; the numbers of a map `(h, w, c)` have no order to cut.

    >>> ", ".join(default_mitigations("logits", (10,)))
    'top_k:keep=3, top_k:keep=2, quantised:bits=4, quantised:bits=1, noisy:ratio=0.5, noisy:ratio=1'
    >>> ", ".join(default_mitigations("conv4", (4, 4, 32)))
    'quantised:bits=4, quantised:bits=1, noisy:ratio=0.5, noisy:ratio=1'
    """
    kept = "top_k" if layer == LOGITS else "truncated"
    size = shape[0] if len(shape) == 1 else 0
    sizes = (3, 2) if layer == LOGITS else (size // 2, size // 8)
    names = [f"{kept}:keep={keep}" for keep in dict.fromkeys(sizes) if 0 < keep < size]
    names += ["quantised:bits=4", "quantised:bits=1", "noisy:ratio=0.5", "noisy:ratio=1"]
    return dict(parse_protections(name) for name in names)


def _configured(kind: Any, tail: str, text: str, **fixed: Any) -> Any:
    """The dataclass with the fields that are given; a missing one is said."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.name not in fixed}
    given = _parameters(tail, text, fields)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in {**fixed, **given}
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{text!r} needs {missing[0]}: {text}:{missing[0]}=NUMBER.")
    return kind(**fixed, **given)


def _parameters(tail: str, text: str, hints: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: hint for name, hint in hints.items() if name != "return"}
    found = {}
    for part in filter(None, (part.strip() for part in tail.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in known:
            raise ValueError(
                f"Unknown parameter {part!r} of {text!r}. It takes: {', '.join(known) or 'none'}."
            )
        found[name] = _value(name, value, known[name])
    return found


def _fraction(eps: float) -> str:
    """`8/255` where it is so many levels, else the number."""
    levels = round(255 * eps)
    return f"{levels}/255" if 0 < levels < 255 and abs(255 * eps - levels) < 1e-6 else f"{eps:g}"


def _value(name: str, value: str, hint: Any) -> Any:
    """A number, or the quotient of two, a truth value, or the name of a reduction."""
    kinds = typing.get_args(hint) or (hint,)
    if value in REDUCTIONS and name == "reduce_fn":
        return REDUCTIONS[value]
    if bool in kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    top, slash, bottom = value.partition("/")
    try:
        number = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    whole = int in kinds and float not in kinds
    if not math.isfinite(number) or (whole and number != int(number)) or bool in kinds or name == "reduce_fn":
        like = "a whole number" if whole else "a number like 0.1 or 8/255"
        like = "true or false" if bool in kinds else like
        like = f"one of {', '.join(REDUCTIONS)}" if name == "reduce_fn" else like
        raise ValueError(f"Expected {name} as {like}, got {value!r}.")
    return int(number) if whole else number
