"""Every registered component and function of the library by name: what a configuration file may hold."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxrobust import _validate
from jaxrobust.attacks import ATTACKS, GRADIENTS, STARTS
from jaxrobust.models import MODELS
from jaxrobust.neighbourhoods import NEIGHBOURHOODS
from jaxrobust.numerics.losses import LOSSES
from jaxrobust.objectives import OBJECTIVES, TARGETS
from jaxrobust.training import SCHEDULES

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "attack": ATTACKS,
    "neighbourhood": NEIGHBOURHOODS,
    "objective": OBJECTIVES,
    "model": MODELS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "gradient": GRADIENTS,
    "start": STARTS,
    "target": TARGETS,
}


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
    owner = type(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return next((kind for kind, table in REGISTRIES.items() if owner in table.values()), None)


def find(name: str, kind: str | None = None) -> Any:
    """Looks a name up, within one registry if `kind` says which; an unknown name lists the known ones."""
    if kind is not None:
        table = REGISTRIES[kind]
        return _validate.member(kind, name.removeprefix(f"{kind}."), table)
    return _validate.member("component", name, by_name())


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
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'experiment'}: {error}") from error
