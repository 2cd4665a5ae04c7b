"""Configurations to JSON and back.

A registered component is `{"kind": NAME, field: value, ...}`, a registered function `{"fn": NAME}`, a plain
configuration (`DataConfig`, `OptimizerConfig`) a dictionary of its fields, a tuple a list, an enum its value.
`from_json(to_json(x)) == x` for every configuration.
"""

import dataclasses
import enum
import json
import math
import types
import typing
from typing import Any, TypeVar

from jaxrobust.experiments import _components
from jaxrobust.experiments.experiment import Experiment

T = TypeVar("T")
JUDGED = ("attacks", "note", "threat")
"""Fields of an experiment that no weight depends on."""


def to_json(value: Any) -> Any:
    """Encodes a configuration as what `json.dumps` takes.

    Raises:
        ValueError: for what no configuration may hold: arrays, unregistered functions, non-finite numbers.

    >>> from jaxrobust.neighbourhoods import LInf
    >>> to_json(LInf(eps=0.3))
    {'kind': 'linf', 'eps': 0.3}
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"A configuration holds finite numbers only, got {value}.")
        return value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if _components.is_component(value):
        names = [name for name in _components.field_names(type(value)) if not _is_late(value, name)]
        fields = {name: to_json(getattr(value, name)) for name in names}
        kind = _components.name_of(type(value))
        return {"kind": kind, **fields} if kind else fields
    name = _components.name_of(value)
    if name is not None:
        return {"fn": name}
    raise ValueError(
        f"{value!r} cannot be saved in a configuration: register it (components in their room's table, "
        "functions among its losses, starts, gradients or targets)."
    )


def _is_late(value: Any, name: str) -> bool:
    """Whether the field came later (`types.LATER`) and has its default, as all had before it came."""
    field = next(field for field in dataclasses.fields(value) if field.name == name)
    if "later" not in field.metadata:
        return False
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return getattr(value, name) == default


def training_json(experiment: Experiment) -> dict[str, Any]:
    """What decides the trained weights: all but how the run is judged, and its note."""
    found = {name: value for name, value in to_json(experiment).items() if name not in JUDGED}
    if experiment.teacher is not None:
        found["teacher"] = training_json(experiment.teacher)
    return found


def from_json(cls: type[T], value: Any, path: str = "") -> T:
    """Decodes what `to_json` made of a `cls`.

    Raises:
        ValueError: for unknown kinds and fields, with the path to them and the names there are.

    >>> from jaxrobust.types import Neighbourhood
    >>> from_json(Neighbourhood, {"kind": "linf", "eps": 0.3})
    LInf(eps=0.3)
    """
    found = _decode(value, cls, path)
    try:
        _components.check_kind(path or "configuration", found, _components.hint_kind(cls))
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from None
    return found


def dumps(experiment: Experiment) -> str:
    """The experiment as indented JSON text."""
    return json.dumps(to_json(experiment), indent=2) + "\n"


def loads(text: str) -> Experiment:
    """The experiment of `dumps`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"The configuration is not valid JSON: {error}.") from error
    return from_json(Experiment, value)


def _decode(value: Any, hint: Any, path: str) -> Any:
    """The value of one node; `hint` is the declared type of the field that holds it."""
    if isinstance(value, dict):
        return _decode_dict(value, hint, path)
    if isinstance(value, list):
        items = item_hints(hint, len(value))
        return tuple(_decode(item, items[i], f"{path}[{i}]") for i, item in enumerate(value))
    enum_type = enum_in(hint)
    if enum_type is not None and value is not None:
        return to_enum(value, enum_type, path)
    return value


def _decode_dict(value: dict, hint: Any, path: str) -> Any:
    if "fn" in value:
        return _components.find(value["fn"])
    if "kind" in value:
        cls = _components.find(value["kind"])
    else:
        cls = dataclass_in(hint)
        if cls is None:
            raise ValueError(f"{path or 'experiment'}: expected a 'kind' or 'fn' in {value!r}.")
    types_of = _components.hints(cls)
    fields = {
        name: _decode(item, types_of.get(name, Any), f"{path}.{name}".lstrip("."))
        for name, item in value.items()
        if name != "kind"
    }
    return _components.make(cls, fields, path)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def item_hints(hint: Any, count: int) -> list[Any]:
    """The declared types of a tuple's items, `Any` where there is none."""
    for option in alternatives(hint):
        if typing.get_origin(option) is tuple:
            args = typing.get_args(option)
            if len(args) == 2 and args[1] is Ellipsis:
                return [args[0]] * count
            if len(args) == count:
                return list(args)
    return [Any] * count


def enum_in(hint: Any) -> type[enum.Enum] | None:
    """The enum that a field holds, if it holds one."""
    return next((o for o in alternatives(hint) if isinstance(o, type) and issubclass(o, enum.Enum)), None)


def dataclass_in(hint: Any) -> type | None:
    """The plain configuration that a field holds, if it holds one."""
    return next((o for o in alternatives(hint) if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def to_enum(value: Any, enum_type: type[enum.Enum], path: str) -> enum.Enum:
    """The member with this value (or name); an unknown one lists the known ones."""
    for member in enum_type:
        if value == member or value == member.value or str(value).lower() == member.name.lower():
            return member
    known = ", ".join(str(member.value) for member in enum_type)
    raise ValueError(f"{path}: unknown value {value!r}. Known: {known}.")
