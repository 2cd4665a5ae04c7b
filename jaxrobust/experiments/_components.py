"""Every registered component and function of the library by name: what a configuration file may hold."""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxrobust import _validate
from jaxrobust.attacks import ATTACKS, DESIGNATIONS, FORWARD_DERIVATIVES, GRADIENTS, STARTS
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.inversion import DISTANCES, OPTIMIZERS, PROTECTIONS
from jaxrobust.models import DECODERS, MODELS
from jaxrobust.neighbourhoods import NEIGHBOURHOODS
from jaxrobust.numerics.losses import LOSSES
from jaxrobust.numerics.margins import MARGIN_LOSSES
from jaxrobust.objectives import OBJECTIVES, REGULARISERS, TARGETS
from jaxrobust.training import SCHEDULES
from jaxrobust.types import Attack, Neighbourhood, Objective

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "attack": ATTACKS,
    "neighbourhood": NEIGHBOURHOODS,
    "objective": OBJECTIVES,
    "model": MODELS,
    "schedule": SCHEDULES,
    "data": {"faces": FaceData},
    "loss": {**LOSSES, **MARGIN_LOSSES},
    "gradient": GRADIENTS,
    "start": STARTS,
    "target": TARGETS,
    "regulariser": REGULARISERS,
    "designation": DESIGNATIONS,
    "forward_derivative": FORWARD_DERIVATIVES,
    "decoder": DECODERS,
    "protection": PROTECTIONS,
    "distance": DISTANCES,
    "image_optimizer": OPTIMIZERS,
}

_PROTOCOLS = {Attack: "attack", Neighbourhood: "neighbourhood", Objective: "objective", nn.Module: "model"}


@functools.cache
def by_name() -> dict[str, Any]:
    """All components and functions; a name shared by two registries is told apart as `registry.name`."""
    owners: dict[str, list[str]] = {}
    for registry, table in REGISTRIES.items():
        for name in table:
            owners.setdefault(name, []).append(registry)
    found = {}
    for name, registries in owners.items():
        for registry in registries:
            found[name if len(registries) == 1 else f"{registry}.{name}"] = REGISTRIES[registry][name]
    return found


def name_of(value: Any) -> str | None:
    """The name under which a class or function is registered, None if it is not."""
    return next((name for name, member in by_name().items() if member is value), None)


def kind_of(value: Any) -> str | None:
    """The registry that a component's class, or a function, belongs to."""
    owner = _owner(value)
    return next(
        (kind for kind, table in REGISTRIES.items() if any(owner is member for member in table.values())),
        None,
    )


def find(name: str, kind: str | None = None) -> Any:
    """Looks a name up, within one registry if `kind` says which; an unknown name lists the known ones."""
    if kind is not None:
        table = REGISTRIES[kind]
        return _validate.member(kind, _registered(name.removeprefix(f"{kind}."), table), table)
    return _validate.member("component", _registered(name, by_name()), by_name())


def _registered(name: str, table: Mapping[str, Any]) -> str:
    """The registered name for one that Python code or a printed component has: `near_start`, `NearStart`."""
    if name in table:
        return name
    written: dict[str, str] = {}
    for registered, member in table.items():
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.__name__).lower()
        written |= {member.__name__: registered, snake: registered}
    return written.get(name, name)


@functools.cache
def field_kind(cls: Any, name: str) -> str | None:
    """The registry that a field's value, or each item of its tuple, comes from; None for other fields."""
    if (kind := hint_kind(hints(cls).get(name))) is not None:
        return kind
    # The types of functions do not tell a loss from another function; the default does.
    default = next((f.default for f in dataclasses.fields(cls) if f.name == name), None)
    return None if isinstance(default, (bool, int, float, str, tuple)) else kind_of(default)


def hint_kind(hint: Any) -> str | None:
    """The registry that a declared type stands for, within unions and tuples too."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple):
        return next((kind for arg in typing.get_args(hint) if (kind := hint_kind(arg))), None)
    # A decoder is a module too, and no model that classifies.
    own = next((kind for kind, table in REGISTRIES.items() if any(hint is m for m in table.values())), None)
    if own is not None:
        return own
    parents = getattr(hint, "__mro__", ())
    return next((kind for protocol, kind in _PROTOCOLS.items() if protocol in parents), None)


def check_kind(name: str, value: Any, kind: str | None) -> None:
    """Raises ValueError where a field gets a scalar, or a component of another registry than its own."""
    if kind is None or value is None:
        return
    for item in value if isinstance(value, tuple) else (value,):
        found = kind_of(item)
        # What is registered nowhere is the user's own, and is not ours to judge.
        if found == kind or (found is None and not isinstance(item, (bool, int, float, str, type))):
            continue
        what = repr(item) if found is None else f"the {found} {name_of(_owner(item))!r}"
        known = _validate.listing(REGISTRIES[kind])
        raise ValueError(f"{name} takes {_article(kind)} ({known}), got {what}.")


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _owner(value: Any) -> Any:
    """A component's class, or the function itself: what stands in a registry."""
    return type(value) if is_component(value) else value


def is_component(value: Any) -> bool:
    """Whether the value is a configured dataclass or module, not a class and not a plain function."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def field_names(cls: type) -> list[str]:
    """The fields a user may set: flax's own `parent` and `name` are not among them."""
    hidden = ("parent", "name") if issubclass(cls, nn.Module) else ()
    return [f.name for f in dataclasses.fields(cls) if f.init and f.name not in hidden]


def required(cls: type) -> list[str]:
    """The fields without a default."""
    missing = dataclasses.MISSING
    fields = {f.name: f for f in dataclasses.fields(cls)}
    return [
        name
        for name in field_names(cls)
        if fields[name].default is missing and fields[name].default_factory is missing
    ]


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """The types of a class's fields, as far as they can be resolved."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}


def make(cls: Callable[..., Any], values: Mapping[str, Any], path: str) -> Any:
    """Constructs a component; an error says where in the configuration it stands."""
    assert isinstance(cls, type)
    known = field_names(cls)
    for name in values:
        if name not in known:
            raise ValueError(
                f"{path or 'experiment'} has no field {name!r}. {cls.__name__} has: {', '.join(known)}."
            )
    lacking = [name for name in required(cls) if name not in values]
    if lacking:
        raise ValueError(f"{path or 'experiment'}: {cls.__name__} also needs {', '.join(lacking)}.")
    try:
        for name, value in values.items():
            check_kind(name, value, field_kind(cls, name))
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'experiment'}: {error}") from error
