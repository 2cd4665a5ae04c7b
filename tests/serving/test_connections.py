"""Connections that say nothing, or too much, and signals: what holds a server, and what ends it."""

import contextlib
import signal
import socket
import threading
import time

import httpx
import pytest

from jaxrobust.serving import Service, Settings, connections, create_app, server
from tests.serving.service_under_test import SMALL, digits, encode, running, served

BODY = encode(digits(1)[0])
HEAD = b"POST /v1/recognise HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def connect():
    """Opens connections to an address; closes them after the test."""
    with contextlib.ExitStack() as stack:

        def opening(address, sent=b""):
            found = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20)
            stack.enter_context(found)
            found.sendall(sent)
            return found

        yield opening


def received(client):
    """What comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while block := client.recv(65536):
            found += block
    return found


def test_a_head_that_does_not_come_in_time_ends_its_connection(connect, monkeypatch):
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.4)
    with running(Service(served(), settings=SMALL)) as address:
        silent, half = connect(address), connect(address, HEALTH[:20])
        # Drop by drop it takes no less time, also on a connection that has asked before.
        dripping = connect(address, HEALTH)
        assert dripping.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in HEALTH:
                dripping.sendall(bytes([byte]))
                time.sleep(0.1)
            pytest.fail("It was listened to.")
        assert time.monotonic() - began < 3
        assert received(silent) == received(half) == b""
        # A body may take longer than a head.
        slow = connect(address, HEAD % len(BODY) + BODY[:-1])
        time.sleep(0.8)
        slow.sendall(BODY[-1:])
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")


def test_one_address_does_not_hold_all_connections(connect, monkeypatch):
    monkeypatch.setattr(server, "_CONNECTIONS", 12)
    with running(Service(served(), settings=SMALL)) as address:
        time.sleep(0.1)
        held = [connect(address) for _ in range(20)]
        time.sleep(0.2)
        alive = 0
        for one in held:
            with contextlib.suppress(ConnectionError):
                one.sendall(HEALTH)
                alive += one.recv(65536).startswith(b"HTTP/1.1 200")
        assert 0 < alive <= 6
        for one in held:
            one.close()
        time.sleep(0.2)
        assert httpx.get(f"{address}/healthz").status_code == 200


@pytest.mark.parametrize("size", [17_000, 120_000])
def test_a_head_that_comes_at_once_is_bounded_too(connect, size):
    with running(Service(served(), settings=SMALL)) as address:
        fits = connect(address, HEALTH[:-2] + b"X: " + b"y" * 15_000 + b"\r\n\r\n")
        assert fits.recv(65536).startswith(b"HTTP/1.1 200")
        found = received(connect(address, HEALTH[:-2] + b"X: " + b"y" * size + b"\r\n\r\n"))
        assert found.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), found[:100]


def test_bodies_that_never_come_hold_no_place_in_the_queue(connect):
    service = Service(served(), settings=Settings(max_batch=1, max_queue=1))
    with running(service) as address:
        for _ in range(20):
            connect(address, HEAD % 500 + b"x")
        for _ in range(3):
            answer = httpx.post(
                f"{address}/v1/recognise", content=BODY, headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200
        assert service.admission.images == 0 and service.admission.bytes == 20


def test_a_body_that_drips_is_408_before_its_time(connect, monkeypatch):
    from jaxrobust.serving import uploads

    monkeypatch.setattr(uploads, "_GRACE_SECONDS", 0.3)
    with running(Service(served(), settings=SMALL)) as address:
        began = time.monotonic()
        slow = connect(address, HEAD % 500 + b"x")
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 10 < SMALL.read_seconds


def test_a_body_that_stands_still_is_408_however_much_has_come(connect, monkeypatch):
    from jaxrobust.serving import uploads

    monkeypatch.setattr(uploads, "_GRACE_SECONDS", 0.3)
    with running(Service(served(), settings=SMALL)) as address:
        began = time.monotonic()
        stalled = connect(address, HEAD % 2_000_000 + bytes(1_999_999))
        assert stalled.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 10 < SMALL.read_seconds


def test_a_body_that_nobody_reads_ends_its_connection(connect):
    with running(Service(served(), settings=SMALL)) as address:
        kept = connect(address, HEALTH)
        assert b"connection: close" not in kept.recv(65536).lower()
        told = HEALTH[:-2] + b"Content-Length: 10000000\r\n\r\nx"
        found = received(connect(address, told))
        assert found.startswith(b"HTTP/1.1 200") and b"connection: close" in found.lower()


def test_signals_drain_then_stop_then_give_up():
    service = Service(served(), settings=Settings(drain_seconds=60))
    one = server._Server(server.configuration(create_app(service), "127.0.0.1", 0), service)
    one.handle_exit(signal.SIGINT, None)
    assert service.draining and not one.should_exit
    one.handle_exit(signal.SIGINT, None)
    assert one.should_exit and not one.force_exit, "What was accepted is answered."
    one._timer.join(10)
    assert not one._timer.is_alive() and not one.force_exit
    one.handle_exit(signal.SIGINT, None)
    assert one.force_exit


def test_a_signal_before_the_server_listens_to_them_is_not_lost():
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    model = served()
    seen = []

    def run(self, sockets):
        signal.raise_signal(signal.SIGTERM)
        seen.append(self.should_exit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server._Server, "run", run)
        patch.setattr(server.logs, "configure", lambda level: None)
        server.serve(model, settings=SMALL, port=0)
    assert seen == [True] and signal.getsignal(signal.SIGTERM) is before
