"""Rows share passes, none is lost or mixed up, and what is in the house is counted."""

import asyncio
import threading

import pytest

from jaxrobust.serving import batching
from jaxrobust.serving.batching import Admission, Batcher, Ticket
from jaxrobust.serving.problems import Problem


class Device:
    """Doubles numbers, and remembers what came together; waits while it is held."""

    def __init__(self):
        self.calls = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, name, rows):
        self.calls.append((name, list(rows)))
        assert self.open.wait(10)
        if "bad" in rows:
            raise ValueError("bad row")
        return [2 * row for row in rows]


def run(work, *, most=None, max_wait=0.0):
    """Runs `work(batcher, device)` in an event loop; closes the batcher after it."""
    device = Device()

    async def main():
        batcher = Batcher(device, most or {"a": 4}, max_wait)
        try:
            return await work(batcher, device)
        finally:
            device.open.set()
            await batcher.close()

    return asyncio.run(asyncio.wait_for(main(), 30)), device


def test_rows_that_come_while_the_device_is_busy_share_the_next_pass():
    async def work(batcher, device):
        device.open.clear()
        first = batcher.submit("a", 0)
        while not device.calls:
            await asyncio.sleep(0.001)
        rest = [batcher.submit("a", i) for i in range(1, 8)]
        device.open.set()
        return await asyncio.gather(first, *rest)

    answers, device = run(work)
    assert answers == [2 * i for i in range(8)]
    assert [rows for _, rows in device.calls] == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_row_waits_for_others_and_no_longer_than_it_must():
    async def work(batcher, device):
        loop = asyncio.get_running_loop()
        began = loop.time()
        alone = await batcher.submit("a", 1)
        waited = loop.time() - began
        batcher._max_wait = 30.0
        began = loop.time()
        together = await asyncio.gather(*(batcher.submit("a", i) for i in range(4)))
        return alone, waited, together, loop.time() - began

    (alone, waited, together, full), device = run(work, max_wait=0.3)
    assert alone == 2 and together == [0, 2, 4, 6]
    assert 0.29 <= waited < 3
    assert full < 10, "A full batch need not wait."
    assert [len(rows) for _, rows in device.calls] == [1, 4]


def test_programs_have_queues_of_their_own_and_take_turns():
    async def work(batcher, device):
        device.open.clear()
        busy = batcher.submit("a", 0)
        while not device.calls:
            await asyncio.sleep(0.001)
        rest = [batcher.submit("b", 1), batcher.submit("a", 2), batcher.submit("b", 3)]
        device.open.set()
        return await asyncio.gather(busy, *rest)

    answers, device = run(work, most={"a": 4, "b": 1})
    assert answers == [0, 2, 4, 6]
    assert device.calls == [("a", [0]), ("b", [1]), ("a", [2]), ("b", [3])]


def test_a_quick_program_waits_for_one_pass_of_a_slow_one_and_not_for_all():
    async def work(batcher, device):
        device.open.clear()
        slow = [batcher.submit("slow", i) for i in range(6)]
        while not device.calls:
            await asyncio.sleep(0.001)
        quick = batcher.submit("quick", 9)
        device.open.set()
        return await asyncio.gather(quick, *slow)

    answers, device = run(work, most={"quick": 4, "slow": 1})
    assert answers == [18, 0, 2, 4, 6, 8, 10]
    assert [name for name, _ in device.calls][:3] == ["slow", "quick", "slow"]


def test_a_row_that_waited_too_long_is_429_and_not_computed(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.2)

    async def work(batcher, device):
        device.open.clear()
        first = batcher.submit("a", 0)
        while not device.calls:
            await asyncio.sleep(0.001)
        late = batcher.submit("a", 1)
        await asyncio.sleep(0.3)
        fresh = batcher.submit("a", 2)
        device.open.set()
        return await asyncio.gather(first, late, fresh, return_exceptions=True)

    (first, late, fresh), device = run(work)
    assert first == 0 and fresh == 4 and late.status == 429
    assert device.calls == [("a", [0]), ("a", [2])]


def test_an_error_reaches_the_row_that_has_it_and_nobody_else():
    async def work(batcher, device):
        bad = await asyncio.gather(batcher.submit("a", "bad"), batcher.submit("a", 1), return_exceptions=True)
        return bad, await batcher.submit("a", 2)

    ((error, beside), after), device = run(work, max_wait=0.05)
    assert str(error) == "bad row" and beside == 2 and after == 4
    assert device.calls == [("a", ["bad", 1]), ("a", ["bad"]), ("a", [1]), ("a", [2])]


def test_a_caller_that_went_away_does_not_disturb_the_others():
    async def work(batcher, device):
        device.open.clear()
        gone, stays = batcher.submit("a", 1), batcher.submit("a", 2)
        gone.cancel()
        device.open.set()
        return await stays

    assert run(work, max_wait=0.05)[0] == 4


def test_closing_answers_what_is_queued_and_takes_no_more():
    async def work(batcher, device):
        device.open.clear()
        waiting = [batcher.submit("a", i) for i in range(6)]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="closed"):
            batcher.submit("a", 9)
        device.open.set()
        await closing
        return await asyncio.gather(*waiting)

    assert run(work, max_wait=60.0)[0] == [0, 2, 4, 6, 8, 10]


def test_beyond_the_limits_the_answer_is_429_and_tickets_give_back():
    admission = Admission(max_images=3, max_bytes=100)
    with Ticket(admission) as ticket:
        assert admission.images == 0, "Who has not sent an image holds none."
        ticket.images(2)
        ticket.bytes(60)
        assert (admission.images, admission.bytes) == (2, 60)
        with pytest.raises(Problem) as refused, Ticket(admission) as other:
            other.bytes(41)
        assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
        assert (admission.images, admission.bytes) == (2, 60), "What was refused holds nothing."
        with Ticket(admission) as last:
            last.images(1)
            with pytest.raises(Problem, match="3 images wait"), Ticket(admission):
                pass
        ticket.decoded()
        assert (admission.images, admission.bytes) == (2, 0)
    assert (admission.images, admission.bytes) == (0, 0)


def test_one_address_holds_half_of_the_bytes():
    admission = Admission(max_images=3, max_bytes=100)
    with Ticket(admission, "a") as ticket, Ticket(admission, "b") as other:
        ticket.bytes(50)
        with pytest.raises(Problem, match="of one address 50"):
            ticket.bytes(1)
        other.bytes(50)
        ticket.decoded()
        ticket.bytes(50)
    assert admission.bytes == 0
