"""From what is typed to attacks: `PGD-40`, `cw:searches=9,steps=1000`, `pgd > grid_adv`, `table3`."""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

from jaxrobust import _validate
from jaxrobust.attacks import Sequence
from jaxrobust.evaluation import _programs
from jaxrobust.evaluation._types import EvalAttack
from jaxrobust.evaluation.suites import SUITE, SUITES, Entry
from jaxrobust.evaluation.targets import TARGETS
from jaxrobust.evaluation.threats import BALLS, ThreatModel


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.lower()).replace("plus", "+")


_ALIASES = {"clean": "none", "natural": "none", "c&w": "cw", "cwlinf": "cw_ball", "color": "colour"}
_BY_PLAIN = (
    {_plain(entry.title): name for name, entry in SUITE.items()} | {_plain(n): n for n in SUITE} | _ALIASES
)


def suite(names: Iterable[str], threat: ThreatModel) -> dict[str, EvalAttack]:
    """Attacks by name, in order, for `robust.evaluate`; see `parse`. A suite's name stands for its attacks.

    >>> list(suite(["table6", "fgsm"], ThreatModel(eps=0.3)))
    ['none', 'RandAdv', 'GridAdv', 'RandAdv.T', 'GridAdv.T', 'RandAdv.R', 'GridAdv.R', 'FGSM']
    """
    return dict(parse(name, threat) for given in names for name in _expanded(given))


def _expanded(name: str) -> tuple[str, ...]:
    known = {_plain(suite_name): one for suite_name, one in SUITES.items()}
    return known[_plain(name)].names if _plain(name) in known else (name,)


def parse(text: str, threat: ThreatModel) -> tuple[str, EvalAttack]:
    """One attack by name: `pgd`, `PGD-40`, `GridAdv.R`, `pgd:steps=100,restarts=5`, `fgsm:eps=8/255`.

    Upper and lower case, hyphens and underscores do not matter, and the printed name reads back. What is not
    given comes from `threat`.

    - `NAME.l2` and `NAME.linf` choose the ball, with the threat model's radius for it (`fab.l2`);
    - `NAME:target=least_likely` is the targeted form, towards one of `TARGETS`;
    - `A>B>C` is the composite of attacks of fixed radius, first run first.

    Args:
        text: name, optionally `-LENGTH` (PGD's steps, Square's queries), optionally `:field=value,...`.
        threat: radii and lengths.

    Returns:
        The name as a table prints it, equal for equal attacks, and the attack.

    Raises:
        ValueError: unknown name or parameter, listing the known ones; a radius that the threat model lacks; a
            composite of attacks that have no fixed radius.

    >>> parse("pgd:steps=100,restarts=5", ThreatModel(eps=0.3))[0]
    'PGD-100 (restarts=5)'
    >>> parse("GridAdv.R", ThreatModel(eps=0.3))[1].every_image
    True
    >>> parse("pgd > grid_adv:max_angle=10", ThreatModel(eps=0.3))[0]
    'PGD-40 > GridAdv (max_angle=10.0)'
    """
    parts = re.findall(r"(?:\([^)]*\)|[^>])+", text)
    if ">" in re.sub(r"\([^)]*\)", "", text):
        return _composite(text, [_single(part, threat) for part in parts])
    return _single(text, threat)


def _composite(text: str, parts: list[tuple[str, EvalAttack]]) -> tuple[str, EvalAttack]:
    if len(parts) < text.count(">") + 1:
        raise ValueError(f"Expected attacks on both sides of >, got {text!r}; e.g. pgd>grid_adv.")
    for title, entry in parts:
        if entry.attack is None or _programs.is_minimum_norm(entry.attack):
            what = "is no attack" if entry.attack is None else "looks at any distance"
            raise ValueError(f"{title} {what}: a composite is made of attacks of fixed radius.")
    targets = {entry.target_fn for _, entry in parts}
    if len(targets) > 1:
        raise ValueError(f"Expected one target for all stages of {text!r}; give each of them the same.")
    attack = Sequence(stages=tuple(entry.attack for _, entry in parts if entry.attack is not None))
    return " > ".join(title for title, _ in parts), EvalAttack(attack, target_fn=targets.pop())


def _single(text: str, threat: ThreatModel) -> tuple[str, EvalAttack]:
    # The printed form, `NAME (field=value, ...)`, reads back.
    written = re.sub(r"\s*\((.*)\)$", r":\1", text.strip())
    head, _, tail = written.partition(":")
    name, given = _known(head, text)
    entry = SUITE[name]
    changes, target = _given(entry, given + ([tail] if tail else []), threat)
    changed = _changed(threat, changes)
    attack, target_fn = entry.build_fn(changed), None
    if target is not None:
        target_fn = _validate.member("target", target, TARGETS)
        attack = _towards(attack, entry.title)
    title = _title(entry, threat, changed, target)
    return title, EvalAttack(attack, every_image=entry.every_image, target_fn=target_fn)


def _known(head: str, text: str) -> tuple[str, list[str]]:
    """The entry's name, and what the head says of its ball and length, as parameters."""
    given: list[str] = []
    if match := re.fullmatch(rf"(.*)\.({'|'.join(BALLS)})", head.strip().lower()):
        head, ball = match.groups()
        own = SUITE[_BY_PLAIN[_plain(head)]].params.get("eps") if _plain(head) in _BY_PLAIN else None
        # C&W knows no other ball than l2, and may be told so.
        given += [] if own == f"@{ball}" else [f"ball={ball}"]
    plain = _plain(head)
    if plain not in _BY_PLAIN and (match := re.fullmatch(r"(.*?)(\d+)", plain)):
        plain, number = match.groups()
        length = SUITE[_BY_PLAIN[plain]].length if plain in _BY_PLAIN else None
        given.append(f"{length}={number}")
        plain = plain if length else ""
    name = _BY_PLAIN.get(plain, plain)
    if name not in SUITE or (given and given[0].startswith("ball") and "ball" not in SUITE[name].params):
        known = ", ".join(entry.title for entry in SUITE.values())
        raise ValueError(
            f"Unknown attack {text!r}. Known: {known} (PGD-40 or pgd:steps=40 sets the length, A>B is a "
            f"composite), and the suites {', '.join(SUITES)}."
        )
    return name, given


def _given(entry: Entry, texts: list[str], threat: ThreatModel) -> tuple[dict[str, Any], str | None]:
    """The fields of the threat model that are given, and the target."""
    found: dict[str, Any] = {}
    target = None
    for pair in filter(None, (part.strip() for text in texts for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if equals and name == "target":
            target = value
            continue
        if not equals or name not in entry.params:
            known = ", ".join([*_printed(entry), "target"]) if entry.params else "no parameters"
            raise ValueError(f"Unknown parameter {pair!r} of {entry.title}. It takes: {known}.")
        path = _path(entry, name, threat)
        found[path] = _value(name, value, path, threat)
    ball = found.get("ball", threat.ball)
    if ball != threat.ball and "eps" not in found and ball in BALLS:
        found["eps"] = threat.radius(ball)
    return found, target


def _printed(entry: Entry) -> list[str]:
    """The parameters' names, one for each field."""
    return list({path: name for name, path in reversed(list(entry.params.items()))}.values())[::-1]


def _path(entry: Entry, name: str, threat: ThreatModel) -> str:
    path = entry.params[name]
    return threat.radius_field(path[1:]) if path.startswith("@") else path


def _changed(threat: ThreatModel, changes: dict[str, Any]) -> ThreatModel:
    """The threat model with fields replaced, by path."""
    nested: dict[str, dict[str, Any]] = {"": {}}
    for path, value in changes.items():
        group, _, name = path.rpartition(".")
        nested.setdefault(group, {})[name] = value
    flat = nested.pop("")
    parts = {group: dataclasses.replace(getattr(threat, group), **own) for group, own in nested.items()}
    return dataclasses.replace(threat, **flat, **parts)


def _read(threat: ThreatModel, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), threat)


def _real(text: str) -> float:
    """A finite number, or the quotient of two."""
    top, slash, bottom = text.partition("/")
    number = float(top) / float(bottom) if slash else float(top)
    if not math.isfinite(number):
        raise ValueError
    return number


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _value(name: str, text: str, path: str, threat: ThreatModel) -> Any:
    """A parameter's value as its field's type; `8/255` and `5x5x31` are understood."""
    known = _read(threat, path)
    owner = type(_read(threat, path.rpartition(".")[0])) if "." in path else ThreatModel
    hint = typing.get_type_hints(owner)[path.rpartition(".")[2]]
    kinds = typing.get_args(hint) if not isinstance(hint, type) else (hint,)
    read_fn: Callable[[str], Any] = str
    if isinstance(known, tuple):
        read_fn = _counts
    elif bool in kinds:
        read_fn = _boolean
    elif int in kinds:
        read_fn = int
    elif float in kinds:
        read_fn = _real
    try:
        return read_fn(text)
    except (ValueError, ZeroDivisionError, KeyError):
        like = {int: 12, float: 0.5}[int if int in kinds else float] if known is None else known
        raise ValueError(f"Expected {name} like {like!r}, got {text!r}.") from None


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.split(r"[x×]", text))


def _towards(attack: Any, title: str) -> Any:
    """The targeted form of an attack, of all its stages or members."""
    for name in ("stages", "attacks"):
        if isinstance(getattr(attack, name, None), tuple):
            parts = tuple(_towards(part, title) for part in getattr(attack, name))
            return dataclasses.replace(attack, **{name: parts})
    if not hasattr(attack, "targeted"):
        raise ValueError(f"{title} has no targeted form. Leave target out.")
    return dataclasses.replace(attack, targeted=True)


def _title(entry: Entry, threat: ThreatModel, changed: ThreatModel, target: str | None) -> str:
    """The printed name: PGD always with its length, the others with what differs from the threat model."""
    title, shown = entry.title, []
    for name in _printed(entry):
        path = _path(entry, name, threat)
        value = _read(changed, path)
        differs = value != _read(threat, path)
        if name == entry.length and (differs or entry.shows_length):
            title = f"{title}-{value}"
        elif differs:
            shown.append(f"{name}={_text(value)}")
    shown += [] if target is None else [f"target={target}"]
    return f"{title} ({', '.join(shown)})" if shown else title


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
