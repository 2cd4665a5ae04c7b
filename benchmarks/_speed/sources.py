"""Digests of the code that decides a measurement, so that one is made again when the code has changed."""

import ast
import inspect
from types import ModuleType
from typing import Any

from benchmarks._parity.worker import entry_digest, modules_of, source_digest

_MODELS = {"SmallCNN": "small_cnn", "PreActResNet18": "preact_resnet"}


def of_entry(side: ModuleType, case: str) -> str:
    """Of a case's entry in a side's `ATTACKS`, and of what the side imports from the benchmarks."""
    text = inspect.getsource(side)
    if "ATTACKS = {" not in text:  # it has another side's, and counts as a whole
        return source_digest({side.__name__}, "benchmarks")
    helpers = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks"):
            helpers |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return f"{entry_digest(text, case)}-{source_digest(helpers, 'benchmarks')}"


def of_attack(attack: Any, module: str, *, evaluated: bool) -> str:
    """Of the library's code that an attack on a model runs through."""
    entrance = "jaxrobust.evaluation.robust" if evaluated else "jaxrobust.attacks.frontend"
    return source_digest(modules_of(attack) | {entrance, *of_model(module)})


def of_model(module: str) -> set[str]:
    """The modules that a net's code is in, by the name of its class."""
    return {"jaxrobust.models._build", f"jaxrobust.models.{_MODELS[module]}"}
