"""Workers at the end of a pipe, and the rounds in which they take turns."""

import doctest
from pathlib import Path

import pytest

from benchmarks._speed import rounds
from benchmarks._speed.protocol import Worker, WorkerFailed

ROOT = Path(__file__).resolve().parents[2]
ECHO = """
import os, sys, time
from benchmarks._speed.protocol import serve

class Session:
    def __init__(self):
        self.total = 0
    def add(self, number):
        print("a library that prints")
        os.write(1, b"in C too")
        self.total += number
        return {"total": self.total}
    def fail(self):
        raise ValueError("too bad")
    def leave(self):
        sys.exit(3)
    def sleep(self):
        time.sleep(60)
    def variable(self, name):
        return os.environ.get(name)

serve(Session())
"""


@pytest.fixture
def echo(tmp_path):
    """Starts a worker that adds up; all are closed in the end."""
    (tmp_path / "echo_worker.py").write_text(ECHO)
    started = []

    def start(**options):
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", **options.pop("environment", {})}
        worker = Worker("echo_worker", log=tmp_path / "echo.log", environment=environment, **options)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.close()


def test_a_worker_keeps_its_state_and_what_it_prints_is_no_answer(echo, tmp_path):
    worker = echo()
    assert worker.ask("add", number=2) == {"total": 2} and worker.ask("add", number=3) == {"total": 5}
    worker.close()
    assert "a library that prints" in (tmp_path / "echo.log").read_text()


def test_an_error_is_told_and_the_worker_goes_on(echo):
    worker = echo()
    with pytest.raises(WorkerFailed, match="ValueError: too bad"):
        worker.ask("fail")
    assert worker.ask("add", number=1) == {"total": 1}


def test_a_worker_that_ends_or_takes_too_long_is_a_failure(echo):
    with pytest.raises(WorkerFailed, match="status 3"):
        echo().ask("leave")
    slow = echo(limit=0.5)
    with pytest.raises(WorkerFailed, match=r"longer than 0\.5 s"):
        slow.ask("sleep")
    with pytest.raises(WorkerFailed):
        slow.ask("add", number=1)


def test_compilations_of_earlier_runs_are_not_used(echo, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    assert echo().ask("variable", name="JAX_ENABLE_COMPILATION_CACHE") == "false"
    assert echo(environment={"SPECIAL": "1"}).ask("variable", name="SPECIAL") == "1"


class Fake:
    """A worker that notes its turns, and fails at one of them if told."""

    def __init__(self, name, log, fails_at=None):
        self.name, self.log, self.fails_at, self.closed = name, log, fails_at, False

    def ask(self, number):
        if number == self.fails_at:
            raise WorkerFailed("gone")
        self.log.append((number, self.name))
        return {"seconds": 1.0}

    def close(self):
        self.closed = True


def test_everybody_has_one_turn_in_every_round():
    log = []
    workers = {name: Fake(name, log) for name in "abc"}
    answers = rounds.take_turns(workers, lambda name, worker, number: worker.ask(number), 4, pause=0)
    assert [len(each) for each in answers.values()] == [4, 4, 4]
    for number in range(4):
        assert sorted(log[3 * number : 3 * number + 3]) == [(number, name) for name in "abc"]
    orders = {tuple(name for _, name in log[3 * number : 3 * number + 3]) for number in range(4)}
    assert len(orders) > 1


def test_who_fails_has_no_further_turn_and_stops_nobody():
    log, failed = [], {}
    broken = Fake("b", log, fails_at=1)
    workers = {"a": Fake("a", log), "b": broken}
    answers = rounds.take_turns(
        workers, lambda name, worker, number: worker.ask(number), 3, pause=0, failed=failed
    )
    assert failed == {"b": "gone"} and broken.closed
    assert set(workers) == set(answers) == {"a"} and len(answers["a"]) == 3


def test_examples():
    assert doctest.testmod(rounds).failed == 0
