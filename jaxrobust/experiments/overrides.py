"""Changes to an experiment by path: `objective.attack.steps=10`, `objective=rt`, `model.depth=28`.

A value is read by the type of the field it goes to: a number (`0.3`, `8/255`), true/false/none, a tuple
`(16, 16)`, the name of a registered component or function, or a component with its fields,
`pgd(neighbourhood=linf(eps=8/255), steps=10)`. A component's bare name keeps the fields that the old and the
new component share. A teacher follows the experiment's `data` and `seed`; `objective=rst` brings a standard
one, which `teacher.num_steps=...` changes, and another objective sends it away.
"""

import ast
import dataclasses
import math
import operator
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from flax import linen as nn

from jaxrobust.evaluation import split_names
from jaxrobust.experiments import _components, codec
from jaxrobust.experiments.experiment import Experiment, needs_pseudo_labels, standard_teacher
from jaxrobust.types import Objective

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SCALARS = {bool, int, float, type(None)}
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


def apply_overrides(experiment: Experiment, overrides: Iterable[str]) -> Experiment:
    """Applies `PATH=VALUE` strings in order.

    Args:
        experiment: the experiment to change.
        overrides: e.g. `["objective.lam=0.2", "num_steps=100"]`.

    Returns:
        A new experiment.

    Raises:
        ValueError: for a path that does not exist (the fields there are listed), a value of the wrong type,
            or a value that the component itself refuses.
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"Expected PATH=VALUE, got {text!r}; e.g. objective.lam=0.2.")
        experiment = _set(experiment, path.strip().split("."), value.strip(), done=())
    return experiment


def _set(node: Any, path: list[str], text: str, done: tuple[str, ...]) -> Any:
    """`node` with the field at `path` changed; `done` is the path walked so far, for messages."""
    name, rest = path[0], path[1:]
    if isinstance(node, tuple) and name.isdigit() and int(name) < len(node):
        child = node[int(name)]
        where = ".".join((*done, name))
        new = (
            _set(child, rest, text, (*done, name))
            if rest
            else _value(text, Any, child, where, _components.kind_of(child))
        )
        return (*node[: int(name)], new, *node[int(name) + 1 :])
    where = ".".join(done) or "experiment"
    if not _components.is_component(node):
        raise ValueError(f"{where} is {node!r} and has no fields; cannot set {'.'.join((*done, *path))}.")
    cls: Any = type(node)
    known = _components.field_names(cls)
    if name not in known:
        raise ValueError(f"{where} has no field {name!r}. {cls.__name__} has: {', '.join(known)}.")
    child = getattr(node, name)
    hint = _components.hints(cls).get(name, Any)
    here = (*done, name)
    kind = _components.field_kind(cls, name)
    new = _set(child, rest, text, here) if rest else _value(text, hint, child, ".".join(here), kind)
    related = _for_teacher(node, name, new) if isinstance(node, Experiment) else {}
    return _rebuild(node, {name: new, **related}, ".".join(here))


def _for_teacher(experiment: Experiment, name: str, new: Any) -> dict[str, Any]:
    """What a change means for the teacher: it has the run's data, seed and classes, and is there where it is
    needed."""
    teacher = experiment.teacher
    if name in ("data", "seed") and teacher is not None:
        return {"teacher": dataclasses.replace(teacher, **{name: new})}
    if name == "model" and teacher is not None and isinstance(new, nn.Module):
        model: Any = teacher.model
        classes = getattr(new, "num_classes", model.num_classes)
        return {"teacher": dataclasses.replace(teacher, model=model.clone(num_classes=classes))}
    if name == "objective" and isinstance(new, Objective):
        if not needs_pseudo_labels(new):
            return {"teacher": None}
        return {"teacher": teacher or standard_teacher(experiment)}
    return {}


def _rebuild(node: Any, changes: dict[str, Any], path: str) -> Any:
    """A copy of a component with some fields changed, built anew so that its checks run."""
    values = {name: getattr(node, name) for name in _components.field_names(type(node))}
    return _components.make(type(node), {**values, **changes}, path)


def _value(text: str, hint: Any, current: Any, path: str, kind: str | None) -> Any:
    """Reads an override's right-hand side for the field at `path`."""
    options = codec.alternatives(hint)
    if text.lower() in ("none", "null") and (type(None) in options or hint is Any):
        return None
    enum_type = codec.enum_in(hint)
    if enum_type is not None:
        return codec.to_enum(text, enum_type, path)
    if str in options:
        return text.strip("'\"")
    if _is_list_of_names(options) and not text.startswith(("(", "[", "'", '"')):
        return tuple(split_names(text))
    if kind is not None and text.isidentifier():
        return _named(text, kind, current, path)
    if text.isidentifier() and text.lower() not in _CONSTANTS and set(options) <= _SCALARS:
        raise ValueError(f"{path} takes {_listed(options)}, got {text!r}.")
    return _coerce(_evaluate(text, path, kind), options, current, path)


def _is_list_of_names(options: tuple[Any, ...]) -> bool:
    """Whether the field is the list of the evaluation's attacks, `tuple[str, ...]`."""
    return any(get_origin(o) is tuple and get_args(o)[0] is str for o in options)


def _named(name: str, kind: str | None, current: Any, path: str) -> Any:
    """A registered function, or a component that keeps the fields shared with the current one."""
    found = _find(name, kind, path)
    if not isinstance(found, type):
        return found
    kept = {}
    if _components.is_component(current):
        shared = set(_components.field_names(found)) & set(_components.field_names(type(current)))
        kept = {field: getattr(current, field) for field in shared}
    lacking = [field for field in _components.required(found) if field not in kept]
    if lacking:
        example = ", ".join(f"{field}=..." for field in lacking)
        raise ValueError(f"{path}: {name} also needs {', '.join(lacking)}; write {path}={name}({example}).")
    return _components.make(found, kept, path)


def _find(name: str, kind: str | None, path: str) -> Any:
    """A registered class or function; an unknown name is answered with the field and the names there are."""
    try:
        return _components.find(name, kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _evaluate(text: str, path: str, kind: str | None) -> Any:
    """Reads numbers, tuples, names of registered things and calls that build components."""
    try:
        tree = ast.parse(text, mode="eval").body
    # A text with a null byte, or nested too deeply, is no better than one with a mistake.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{path}: cannot read the value {text!r}.") from None
    return _node(tree, path, text, kind)


def _node(node: ast.expr, path: str, text: str, kind: str | None = None) -> Any:
    """The value of a parsed expression; names in it are those of the registry `kind`, where it is known."""
    match node:
        case ast.Constant(value=value) if isinstance(value, (bool, int, float, str, type(None))):
            return value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_node(item, path, text, kind) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_node(operand, path, text), path, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            numbers = [_number(_node(side, path, text), path, text) for side in (left, right)]
            try:
                return _OPERATORS[type(op)](*numbers)
            except ArithmeticError as error:
                raise ValueError(f"{path}: {text!r} has no value: {error}.") from None
        case ast.Name(id=name):
            if name.lower() in _CONSTANTS:
                return _CONSTANTS[name.lower()]
            return _named(name, kind, None, path)
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords) if all(k.arg for k in keywords):
            cls = _find(name, kind, path)
            if not isinstance(cls, type):
                raise ValueError(f"{path}: {name} is a function and takes no fields here.")
            values = {str(k.arg): _field(cls, str(k.arg), k.value, path, text) for k in keywords}
            return _components.make(cls, values, path)
    raise ValueError(f"{path}: cannot read the value {text!r}; fields are given as name=value.")


def _field(cls: type, name: str, node: ast.expr, path: str, text: str) -> Any:
    """One field of a component that is being built, coerced to its declared type."""
    hint = _components.hints(cls).get(name, Any)
    where = f"{path}.{name}"
    enum_type = codec.enum_in(hint)
    if enum_type is not None and isinstance(node, ast.Name):
        return codec.to_enum(node.id, enum_type, where)
    kind = _components.field_kind(cls, name)
    return _coerce(_node(node, where, text, kind), codec.alternatives(hint), None, where)


def _number(value: Any, path: str, text: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{path}: expected numbers in {text!r}.")
    return value


def _coerce(value: Any, options: tuple[Any, ...], current: Any, path: str) -> Any:
    """Checks a value against the scalar types a field declares (or its present value has)."""
    scalars = [o for o in options if o in (bool, int, float, str)]
    if not scalars and type(current) in (bool, int, float, str):
        scalars = [type(current)]
    if value is None and (type(None) in options or not scalars):
        return None
    if dataclasses.is_dataclass(value) or callable(value):
        if scalars and len(scalars) == len([o for o in options if o is not type(None)]):
            raise ValueError(f"{path} takes {_listed(options)}, got {value!r}.")
        return value
    if isinstance(value, tuple):
        return _coerce_tuple(value, options, current, path)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} takes a finite number, got {value}.")
    if not scalars:
        if options == (Any,):
            return value
        if any(get_origin(o) is tuple for o in options):
            raise ValueError(f"{path} takes {_listed(options)}, got {value!r}.")
        raise ValueError(f"{path} takes a registered component, not {value!r}.")
    if bool in scalars and isinstance(value, bool):
        return value
    if (
        int in scalars
        and not isinstance(value, bool)
        and isinstance(value, (int, float))
        and value == int(value)
    ):
        return int(value)
    if float in scalars and not isinstance(value, bool) and isinstance(value, (int, float)):
        return _to_float(value, path)
    if str in scalars and isinstance(value, str):
        return value
    raise ValueError(f"{path} takes {_listed(options if options != (Any,) else scalars)}, got {value!r}.")


def _to_float(value: float, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{path} takes a finite number, got one of {len(str(value))} digits.") from None


def _coerce_tuple(value: tuple, options: tuple[Any, ...], current: Any, path: str) -> tuple:
    """Coerces the items of a tuple; a field that takes no tuple refuses it."""
    takes = any(getattr(o, "__origin__", o) is tuple for o in options) or isinstance(current, tuple)
    if not takes and options != (Any,):
        raise ValueError(f"{path} takes no tuple, got {value!r}.")
    merged = next((o for o in options if getattr(o, "__origin__", None) is tuple), Any)
    items = codec.item_hints(merged, len(value))
    return tuple(_coerce(v, codec.alternatives(items[i]), None, f"{path}[{i}]") for i, v in enumerate(value))


def _listed(options: Iterable[Any]) -> str:
    """What a field takes, in words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", type(None): "none"}
    words = [names.get(o) or _tuple_in_words(o) for o in options if o in names or get_origin(o) is tuple]
    return " or ".join(words) or "a registered component"


def _tuple_in_words(hint: Any) -> str:
    """`2 integers with commas` for `tuple[int, int]`."""
    items = get_args(hint)
    plural = {int: "integers", float: "numbers", str: "names"}.get(items[0], "components")
    return f"{plural} separated by commas" if Ellipsis in items else f"{len(items)} {plural} with commas"
