"""docs/service.md as a newcomer follows it: its commands, its client, its application."""

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from jaxrobust import cli
from tests.serving.service_under_test import Command, encode

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SHELL = re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_application_runs_in_another_program():
    names: dict = {}
    exec(PYTHON[1], names)
    app, body = names["app"], encode(np.zeros((8, 8, 1), np.uint8))

    async def ask():
        lifespan = app.app.router.lifespan_context(app.app)
        async with (
            lifespan,
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client,
        ):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
            return await client.post("/v1/recognise", files={"file": body})

    assert asyncio.run(ask()).json()["distribution"] == [0.5, 0.5]


def test_every_option_that_is_named_is_there():
    known = {option for command in cli.cli.commands.values() for one in command.params for option in one.opts}
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    named = set(re.findall(r"`(--[a-z-]+)", prose))
    assert len(named) > 8 and named <= known


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link


@pytest.mark.slow
def test_a_newcomer_gets_answers(tmp_path):
    """The image, every curl line that needs no key and no faces, and the client, as they stand."""
    if shutil.which("curl") is None:
        pytest.skip("There is no curl.")
    environment = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    (image,) = [one for one in SHELL if "digit.png')\"" in one]
    shell = shlex.join([sys.executable]).join(image.split("python", 1))
    done = subprocess.run(["bash", "-c", shell], **environment)
    assert done.returncode == 0 and (tmp_path / "digit.png").is_file(), done.stderr
    train = ["train", "digits_srt", "--steps", "5", "--devices", "1", "--no-progress", "--run-dir", "run"]
    subprocess.run([sys.executable, "-m", "jaxrobust", *train], check=True, **environment)
    lines = [line for block in SHELL for line in block.splitlines() if line.startswith("curl")]
    lines = [line for line in lines if "ADMIN" not in line and "a.png" not in line]
    with Command(tmp_path / "run", "--log-level", "error") as command:
        here = command.address.removeprefix("http://")
        for line in lines:
            asked = line.replace("127.0.0.1:8000", here).replace("curl", "curl -sS --fail-with-body", 1)
            done = subprocess.run(["bash", "-c", asked], **environment)
            assert done.returncode == 0 and done.stdout.startswith("{"), (line, done.stdout, done.stderr)
        client = PYTHON[0].replace("127.0.0.1:8000", here)
        done = subprocess.run([sys.executable, "-c", client], **environment)
        assert re.fullmatch(r"\d 0\.\d+\n", done.stdout), done
    assert len(lines) >= 5
