"""Processes at once: what each is given, and that all end together."""

import os
import signal
import time

import pytest

from jaxrobust.experiments import workers


def _echo(task, log_fn=None):
    if task == "wrong":
        raise ValueError("no such task")
    if task == "sleep":
        time.sleep(60)
    if log_fn is not None:
        log_fn(task)
    return task, os.environ.get("CUDA_VISIBLE_DEVICES"), tuple(sorted(os.sched_getaffinity(0)))


def test_processes_take_devices_and_cores_and_end_with_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found, failed, began = {}, [], time.monotonic()
    with pytest.raises(ValueError, match="no such task"):
        workers.on_devices(
            ["a", "sleep", "wrong"],
            _echo,
            2,
            done_fn=found.__setitem__,
            failed_fn=lambda *args: failed.append(args),
        )
    ours = sorted(os.sched_getaffinity(0))
    assert found == {"a": ("a", "4", tuple(ours[::2] if len(ours) > 1 else ours))}
    assert failed == [("wrong", "no such task")]
    assert time.monotonic() - began < 50


def test_cores_are_shared_without_overlap(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 3, 5, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: taken.append(list(cores)))
    for place in range(2):
        workers.take_cores(place, 2)
    assert taken == [[0, 3, 7], [2, 5]]
    # More processes than cores: all share all.
    workers.take_cores(0, 6)
    assert len(taken) == 2


def test_one_at_a_time_is_done_here_in_order_and_says_its_lines():
    said, done = [], []
    options = {"log_fn": said.append, "name_fn": str.upper}
    workers.each(["b", "a"], _echo, 1, done_fn=lambda task, _: done.append(task), **options)
    assert said == done == ["b", "a"]


def test_of_several_at_once_a_failure_is_said_with_its_name():
    said = []
    options = {"log_fn": said.append, "name_fn": str.upper}
    with pytest.raises(ValueError, match="no such task"):
        workers.each(["wrong"], _echo, 2, done_fn=lambda task, _: None, **options)
    assert said == ["WRONG: no such task"]


def test_more_jobs_than_accelerators_are_refused():
    workers.check_jobs(8, "cpu", 1)
    workers.check_jobs(2, "gpu", 2)
    with pytest.raises(ValueError, match="jobs <= 2, as many as there are gpu devices, got jobs=3"):
        workers.check_jobs(3, "gpu", 2)


@pytest.mark.slow
def test_a_signal_ends_the_processes_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        workers.on_devices(["a", "sleep"], _echo, 2, done_fn=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
