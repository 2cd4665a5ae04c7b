"""What the package declares: the extras that are promised, and linters that do not change by themselves."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]


def test_every_promised_extra_is_there_with_lower_bounds():
    extras = PROJECT["optional-dependencies"]
    assert {"prepare", "faces", "serve", "bench", "dev"} <= set(extras)
    assert [re.split("[>=]", one)[0] for one in extras["serve"]] == [
        "starlette",
        "uvicorn",
        "python-multipart",
        "prometheus-client",
    ]
    assert all(">=" in one for one in extras["serve"])


def test_linters_are_held_to_their_minor_version():
    dev = PROJECT["optional-dependencies"]["dev"]
    assert all(re.fullmatch(r"\w+~=\d+\.\d+\.\d+", one) for one in dev if one.startswith(("ruff", "mypy")))
