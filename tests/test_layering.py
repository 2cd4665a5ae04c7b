"""A file imports from lower floors only, and members of a room do not know each other."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxrobust"

FLOORS = {
    "types": 0,
    "_validate": 0,
    "numerics": 1,
    "neighbourhoods": 2,
    "attacks": 2,
    "saliency": 2,
    "inversion": 2,
    "models": 2,
    "data": 2,
    "objectives": 2,
    "training": 3,
    "evaluation": 3,
    "audits": 4,
    "experiments": 4,
    "serving": 4,
    "cli": 5,
    "__main__": 6,
    "__init__": 6,
}
# What combines its kind imports its siblings; in the other rooms every member stands alone.
COMBINERS = {"__init__", "compose", "sequence", "masked", "autoattack", "frontend"}
ROOMS_OF_PEERS = {"neighbourhoods", "attacks", "objectives", "saliency"}


def room_of(module: str) -> str:
    """`jaxrobust.attacks.pgd` -> `attacks`; every `_cli_*.py` belongs to the command."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else "__init__"
    return "cli" if room.startswith("_cli") else room


def imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The modules of ours that a source imports, wherever the statement stands."""
    found = []
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*start, base]) if base else ".".join(start)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name == "jaxrobust" or name.startswith("jaxrobust.")]


def breaches(module: str, source: str, is_package: bool = False) -> list[str]:
    """Sentences that say which import of `module` is not allowed, and why."""
    room = room_of(module)
    if room not in FLOORS:
        return [f"{module} is in no room of the house: add {room!r} to FLOORS and to docs/design.md"]
    if room == "__init__":
        return []
    found = []
    for target in imports(source, module, is_package):
        other = room_of(target)
        if other == room:
            found += _peer_breach(module, target)
        elif other not in FLOORS:
            # `from jaxrobust import something` that is no room is an attribute of the package itself.
            found.append(f"{module} imports {target} through the package, not from its room")
        elif FLOORS[other] >= FLOORS[room] and not (FLOORS[room] == 0 and FLOORS[other] == 0):
            found.append(
                f"{module} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[other]}): only lower floors"
            )
    return found


def _peer_breach(module: str, target: str) -> list[str]:
    """In a room of peers, members import each other only through shared `_underscore` modules."""
    parts, others = module.split("."), target.split(".")
    if len(parts) < 3 or parts[1] not in ROOMS_OF_PEERS or parts[2] in COMBINERS:
        return []
    # What is imported from the room itself is a sibling too: its `__init__` imports every member.
    if len(others) > 2 and (others[2] == parts[2] or others[2].startswith("_")):
        return []
    return [f"{module} imports its sibling {target}: pass it as a value, or share a _module"]


def modules() -> list[tuple[str, Path]]:
    """Every module of the package by dotted name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value).rpartition("/")[2])
def test_imports_only_lower_floors(module, path):
    found = breaches(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("jaxrobust.attacks.pgd", "from jaxrobust.neighbourhoods import LInf", False),
        ("jaxrobust.attacks.pgd", "def f():\n    import jaxrobust.neighbourhoods.lp", False),
        ("jaxrobust.attacks.pgd", "from ..neighbourhoods import lp", False),
        ("jaxrobust.attacks.pgd", "from jaxrobust.attacks.mi_fgsm import MIFGSM", False),
        ("jaxrobust.attacks.pgd", "from .mi_fgsm import MIFGSM", False),
        ("jaxrobust.attacks.pgd", "from jaxrobust.attacks._starts import uniform_start", True),
        ("jaxrobust.attacks.sequence", "from jaxrobust.attacks.pgd import PGD", True),
        ("jaxrobust.numerics.losses", "from jaxrobust.training import loop", False),
        ("jaxrobust.types", "from jaxrobust.numerics import losses", False),
        ("jaxrobust.training.loop", "from jaxrobust.evaluation import evaluate", False),
        ("jaxrobust.training.loop", "from jaxrobust.data import feed", True),
        ("jaxrobust.experiments.run", "from jaxrobust.training import fit", True),
        ("jaxrobust.experiments.run", "from jaxrobust import cli", False),
        ("jaxrobust.experiments.run", "from jaxrobust import attack", False),
        ("jaxrobust._cli_train", "from jaxrobust.experiments import run", True),
        ("jaxrobust.cupboard.spare", "import numpy", False),
    ],
)
def test_a_made_up_breach_is_found(module, source, allowed):
    assert bool(breaches(module, source)) is not allowed


def test_importing_a_room_starts_no_backend():
    """A backend that is there already is one that `jax.distributed.initialize` comes too late for."""
    rooms = [name for name in FLOORS if name[0] != "_" and (PACKAGE / name / "__init__.py").is_file()]
    assert "experiments" in rooms and "saliency" in rooms
    imports = "; ".join(f"import jaxrobust.{room}" for room in rooms)
    program = f"{imports}; from jax._src import xla_bridge as b; print(sorted(b._backends))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
