"""The command line on two processes over loopback that share no folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.experiments import judge

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--steps=2",
    "--no-progress",
    "batch_size=16",
    "data.num_validation=20",
    "validate_every=0",
)


def train_on_two(
    folders: tuple[Path, Path], *options: str, name: str = "digits_standard"
) -> list[tuple[int, str]]:
    """Exit code and output of both processes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    line = [sys.executable, "-m", "jaxrobust", "train", name, "--distributed", *TINY, *options]
    processes = [
        subprocess.Popen(
            [*line, "--run-dir", str(folder)],
            cwd=ROOT,
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, folder in enumerate(folders)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(*outputs, sep="\n")
    return [(process.returncode, output) for process, output in zip(processes, outputs)]


@pytest.mark.slow
def test_two_processes_without_a_shared_folder_finish_and_may_be_started_again(tmp_path):
    folders = (tmp_path / "first", tmp_path / "second")
    (code, said), (other_code, other_said) = train_on_two(folders)
    assert (code, other_code) == (0, 0)
    assert "Finished 2 steps" in said and "Finished" not in other_said
    assert json.loads((folders[0] / "result.json").read_text())["steps"] == 2
    assert not folders[1].exists()

    (code, said), (other_code, _) = train_on_two(folders)
    assert (code, other_code) == (0, 0)
    assert "resuming at step 2" in said and "Kept checkpoint: step 2" in said


@pytest.mark.slow
def test_the_first_process_refuses_for_both(tmp_path):
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    answers = train_on_two((tmp_path / "first", tmp_path / "second"), "--no-resume")
    assert [code for code, _ in answers] == [1, 1]
    assert "holds a run already" in answers[0][1]


@pytest.mark.slow
def test_the_first_process_teaches_both(tmp_path):
    """The second has no file of the teacher, and both see the same pseudo-labels, also when started again."""
    folders = (tmp_path / "first", tmp_path / "second")
    options = ("teacher.num_steps=2", "teacher.batch_size=16", "teacher.validate_every=0")
    options += ("labelled_per_step=2", "objective.attack.steps=1")
    for _ in range(2):
        answers = train_on_two(folders, *options, name="digits_rst")
        assert [code for code, _ in answers] == [0, 0]
        assert (folders[0] / "pseudo_labels.npz").is_file() and not folders[1].exists()


def test_a_place_that_process_0_cannot_write_is_refused_on_all(tmp_path, monkeypatch):
    """Each process hears of it; what the others could write does not count."""
    refused = []

    def agreed(flag):
        refused.append(bool(flag))
        return np.array(True)

    monkeypatch.setattr(judge, "agree", agreed)
    for process, path, message in (
        (0, tmp_path / "a.png", "Expected an .npz"),
        (1, tmp_path, "Process 0 can"),
    ):
        monkeypatch.setattr(judge.jax, "process_index", lambda process=process: process)
        with pytest.raises(ValueError, match=message):
            judge._check_place(path)
    assert refused == [True, False] and not list(tmp_path.iterdir())
