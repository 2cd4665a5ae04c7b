"""The launchers parse, say how they are used, and call the command with options that it has."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from jaxrobust._cli_train import train

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ALL = sorted(path.name for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch"))
pytestmark = pytest.mark.parametrize("name", ALL)


def bash(*arguments, **environment):
    return subprocess.run(
        ["bash", *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment}
    )


def stub(folder, command):
    """An executable that prints its arguments, one a line."""
    path = folder / command
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    path.chmod(0o755)


def test_is_valid_bash_and_executable(name):
    assert bash("-n", SCRIPTS / name).returncode == 0
    assert os.access(SCRIPTS / name, os.X_OK)


def test_says_how_it_is_used(name):
    result = bash(SCRIPTS / name)
    assert result.returncode == 2 and "usage: " in result.stderr and "EXPERIMENT" in result.stderr


def test_its_options_exist(name):
    known = {option for parameter in train.params for option in parameter.opts}
    command = re.search(r"jaxrobust train .*$", (SCRIPTS / name).read_text().split("set -euo")[1], re.M)
    options = re.findall(r"--[a-z-]+", command.group())
    assert options and known.issuperset(options)


def test_passes_arguments_on_unharmed(name, tmp_path):
    for command in ("jaxrobust", "gcloud", "srun", "python"):
        stub(tmp_path, command)
    override = "objective.attack=pgd(neighbourhood=l2(eps=1.0), steps=10)"
    result = bash(
        SCRIPTS / name,
        "digits_srt",
        override,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        TPU_NAME="slice",
        ZONE="zone",
        PROJECT="project",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    if name == "train_tpu_pod.sh":
        # The remote shell undoes one level of quotes.
        (remote,) = (line for line in lines if "jaxrobust train" in line)
        echoed = bash("-c", remote.replace("jaxrobust", "printf '%s\\n'"))
        lines = echoed.stdout.splitlines()
        assert "--worker=all" in result.stdout
    assert lines[lines.index("train") + 1 : lines.index("train") + 3] == ["digits_srt", override]
    assert ("--distributed" in lines) == (name != "train_gpus.sh")
