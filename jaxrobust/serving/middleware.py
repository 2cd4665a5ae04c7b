"""Around every request: an id, headers for security, a line in the log, numbers for Prometheus."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from jaxrobust.serving.logs import log
from jaxrobust.serving.metrics import Metrics
from jaxrobust.serving.problems import Problem

HEAD_BYTES = 16 * 1024
"""Of a request's head: its address and headers."""

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_RAW = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class Shell:
    """The outermost ASGI layer. An exception that nobody expected is in the log, without its message.

    Args:
        app: what answers.
        metrics: where it is counted.
        routes: the paths there are; others are counted as one, or a client could make labels.
    """

    def __init__(self, app: Any, metrics: Metrics, routes: Collection[str]):
        self.app, self.metrics, self.routes = app, metrics, frozenset(routes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        unread = _has_body(scope)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"], scope["began"] = request_id, began

        async def receiving() -> Any:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name for name, _ in message["headers"]}
                more = [one for one in _RAW if one[0] not in there]
                # Nobody times a body that nobody reads: the connection ends with the answer.
                if unread and b"connection" not in there:
                    more.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *more]
            await send(message)

        try:
            if _size(scope) > HEAD_BYTES:
                scope["problem"] = "head-too-large"
                await _TOO_LARGE.response(request_id)(scope, receiving, sending)
            else:
                await self.app(scope, receiving, sending)
        # It has been answered by a 500 already, where it still could be.
        except Exception as error:
            log("failed", level=logging.ERROR, error=error, request=request_id)
        # The server's patience with its last requests has ended.
        except asyncio.CancelledError as error:
            log("cut off", level=logging.ERROR, error=error, request=request_id)
            self._count(scope, status, time.monotonic() - began, request_id)
            raise
        self._count(scope, status, time.monotonic() - began, request_id)

    def _count(self, scope: Any, status: int, seconds: float, request_id: str) -> None:
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        problem = scope.get("problem")
        if problem:
            self.metrics.problems.labels(problem).inc()
        log(
            "request",
            request=request_id,
            method=scope["method"] if scope["method"].isalpha() else "?",
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            **({"problem": problem} if problem else {}),
        )


_TOO_LARGE = Problem(
    431,
    "head-too-large",
    f"Address and headers are larger than {HEAD_BYTES:,} bytes. Send fewer, and the image in the body.",
    headers={"Connection": "close"},
)


def _has_body(scope: Any) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


def _size(scope: Any) -> int:
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return headers + len(scope.get("raw_path") or b"") + len(scope["query_string"])
