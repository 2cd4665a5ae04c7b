"""The service behind uvicorn, until SIGTERM or Ctrl-C: what was accepted is answered first."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from jaxrobust.serving import logs
from jaxrobust.serving.app import create_app
from jaxrobust.serving.connections import Connection
from jaxrobust.serving.keys import Keys
from jaxrobust.serving.middleware import HEAD_BYTES
from jaxrobust.serving.served import LoadFn, Served, Settings
from jaxrobust.serving.service import Service

# Connections beyond theirs get a bare 503.
_CONNECTIONS = 1024
_STOP_SECONDS = 60


def serve(
    served: Served,
    load_fn: LoadFn | None = None,
    *,
    settings: Settings | None = None,
    keys: Keys | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    log_level: str = "info",
    started_fn: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves until the process is told to stop, then answers what was accepted and returns.

    Args:
        served: the model.
        load_fn: reads it again for `/v1/model:reload`.
        settings: limits.
        keys: API keys; None for an open service.
        host, port: where to listen; port 0 takes a free one.
        log_level: `debug`, `info`, `warning` or `error`.
        started_fn: receives the address once the port is open; the model is compiled after that.

    Raises:
        ValueError, RuntimeError: where the model cannot be made ready.
        OSError: where the port is taken.
        KeyboardInterrupt: where a further Ctrl-C ended it before all was answered.
    """
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    service = Service(served, load_fn, settings, failed)
    config = configuration(create_app(service, keys), host, port)
    # Bound here, so that a port that is taken is an error of the call.
    socket = _bound(config)
    logs.configure(log_level)
    server = _Server(config, service)
    address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}"
    started_fn(address)
    in_main = threading.current_thread() is threading.main_thread()

    def told(*_: Any) -> None:
        server.should_exit = True

    # For signals before uvicorn listens to them; it raises them again once it has stopped, which would end
    # the process here.
    before = {one: signal.signal(one, told) for one in _SIGNALS} if in_main else {}
    try:
        server.run(sockets=[socket])
    finally:
        socket.close()
        for one, handler in before.items():
            signal.signal(one, handler)
    if failures:
        raise failures[0]
    if server.force_exit:
        raise KeyboardInterrupt


def configuration(app: Any, host: str, port: int) -> uvicorn.Config:
    """uvicorn's, with limits of its own; h11, since the faster parser bounds no head.

    A head that is incomplete beyond its limit gets 400 by h11, one that came at once 431 by `Shell`.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Connection,
        ws="none",
        proxy_headers=False,
        lifespan="on",
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=_CONNECTIONS,
        # A client that does not read its answer must not keep the process.
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _bound(config: uvicorn.Config):
    import socket

    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    found = socket.socket(family=family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((config.host, config.port))
    except OSError as error:
        found.close()
        error.filename = f"{config.host}:{config.port}"
        raise
    # Connections that come before the server is up wait.
    found.listen(config.backlog)
    return found


class _Server(uvicorn.Server):
    """Says no at `/readyz` for a while before it stops to accept."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        self._timer: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal begins to drain, the next one to stop; one more Ctrl-C gives up what is not answered."""
        seconds = self._service.settings.drain_seconds
        if self.should_exit or not seconds:
            super().handle_exit(sig, frame)
        elif self._timer is None:
            self._service.draining = True
            self._timer = threading.Timer(seconds, self._stop)
            self._timer.daemon = True
            self._timer.start()
        else:
            self._timer.cancel()
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True
