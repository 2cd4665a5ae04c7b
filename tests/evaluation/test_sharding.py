"""An evaluation over several devices, and over two processes, is that of one device, image for image."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.attacks import RandomSearch
from jaxrobust.evaluation import EvalAttack, _engine, _masking, _sharding, evaluate
from jaxrobust.evaluation._view import look
from jaxrobust.neighbourhoods import LInf
from tests.evaluation.sharded_program import measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def one_device():
    return measure(1)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_four_devices_give_what_one_gives(one_device):
    assert 0 < one_device["row ensemble correct"] < one_device["row none correct"] < 53
    assert_equal(measure(4), one_device)


def test_two_processes_give_what_one_gives(tmp_path, one_device):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.evaluation.sharded_program", str(tmp_path)],
            cwd=ROOT,
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(*outputs, sep="\n")
    assert [process.returncode for process in processes] == [0, 0]
    for index in range(2):
        with np.load(tmp_path / f"{index}.npz") as found:
            assert_equal(dict(found), one_device)


def run(linear, rows, **options):
    attacks = {"a": EvalAttack(RandomSearch(neighbourhood=LInf(eps=0.05), num=2), every_image=True)}
    return evaluate(
        linear.model, linear.params, {}, linear.images[rows], linear.labels[rows], attacks,
        seed=0, trust_checks=False, keep_images=True, **options,
    )  # fmt: skip


def test_fewer_images_than_devices_and_a_batch_that_they_do_not_divide(linear):
    few, whole = (run(linear, slice(0, n), batch_size=6, num_devices=4) for n in (3, 53))
    assert few.row("a")["attacked"] == 3
    # 6 rows become 8, so that each device has two.
    assert whole.meta["batch_size"] == 8
    np.testing.assert_allclose(few.images["a"], whole.images["a"][:3], atol=1e-7)
    np.testing.assert_array_equal(few.flags["correct/a"], whole.flags["correct/a"][:3])


def test_the_checks_look_at_the_same_images_on_any_number_of_devices(linear):
    """25 and 64 of them, which three devices do not divide."""
    images, labels = np.resize(linear.images, (70, *linear.images.shape[1:])), np.resize(linear.labels, 70)
    for size, rows, few in ((25, 25, 25), (70, 70, 64)):
        one, three = (
            look(
                _engine.subject(
                    linear.model, linear.params, {}, images, labels,
                    batch_size=size, seed=0, num_devices=num_devices,
                ),
                {},
            )
            for num_devices in (1, 3)
        )  # fmt: skip
        assert len(one.rows) == rows and len(_masking._subset(one).rows) == few
        np.testing.assert_array_equal(one.rows, three.rows)
        np.testing.assert_array_equal(_masking._subset(one).rows, _masking._subset(three).rows)
        assert len(_masking._subset(three).clean.logits) == few


def test_a_model_that_couples_the_rows_of_a_device_is_refused_where_each_has_one(linear, make_model):
    def normalised(params, x):
        z = x.reshape(len(x), -1) @ params["w"]
        return (z - z.mean())[:, None] * np.array([-1.0, 1.0], np.float32)

    with pytest.raises(ValueError, match="depend on its batch"):
        run(linear._replace(model=make_model(normalised)), slice(None), batch_size=4, num_devices=4)


@pytest.mark.parametrize("num", [0, 5])
def test_devices_that_are_not_there_are_refused(linear, num):
    with pytest.raises(ValueError, match=f"num_devices={num}"):
        run(linear, slice(None), batch_size=4, num_devices=num)


@pytest.mark.parametrize(("rows", "expected"), [(13, [4, 4, 4, 1]), (3, [1, 1, 1, 0]), (0, [0] * 4)])
def test_processes_share_the_rows_in_order(monkeypatch, rows, expected):
    monkeypatch.setattr(_sharding.jax, "process_count", lambda: 4)
    assert _sharding.shares(rows) == expected
    taken = []
    for process in range(4):
        monkeypatch.setattr(_sharding.jax, "process_index", lambda process=process: process)
        taken += list(range(rows)[_sharding.share(rows)])
    assert taken == list(range(rows))


def test_rows_are_gathered_piece_by_piece(monkeypatch):
    """Three processes with 11, 11 and 4 rows; the last has fewer pieces."""
    rng = np.random.default_rng(0)
    counts, sent = [11, 11, 4], []
    trees = [{"a": rng.normal(size=(n, 3)).astype(np.float32), "b": np.arange(n) > 1} for n in counts]
    monkeypatch.setattr(_sharding, "PIECE_BYTES", 400)

    def allgather(raw):
        """What the others send at the same time: the same rows of theirs, as bytes."""
        start = sum(step for _, step in sent)
        step = min(5, 11 - start)
        theirs = [[tree[name][start : start + step].tobytes() for name in "ab"] for tree in trees]
        assert raw.tobytes().startswith(b"".join(theirs[0]))
        sent.append((raw.size, step))
        return np.stack([np.frombuffer(b"".join(one).ljust(raw.size, b"0"), np.uint8) for one in theirs])

    monkeypatch.setattr(_sharding.multihost_utils, "process_allgather", allgather)
    found = _sharding.gathered(trees[0], counts)
    for name in "ab":
        np.testing.assert_array_equal(found[name], np.concatenate([tree[name] for tree in trees]))
    assert [step for _, step in sent] == [5, 5, 1] and all(3 * size <= 400 for size, _ in sent)
