"""Answers to what cannot be done: problem details by RFC 9457, `application/problem+json`."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:jaxrobust:problem:"

TITLES = {
    "bad-request": "The request cannot be read",
    "bad-parameter": "A parameter is out of its range",
    "unauthorised": "An API key is needed",
    "forbidden": "This key may not do that",
    "not-found": "There is nothing at this address",
    "method-not-allowed": "This address does not answer that method",
    "too-slow": "The body took too long to arrive",
    "conflict": "This cannot be done now",
    "too-large": "The body is too large",
    "head-too-large": "The request's head is too large",
    "unsupported-type": "This content type is not read",
    "not-an-image": "The bytes are no image that is read here",
    "too-many-pixels": "The image has too many pixels",
    "image-refused": "The image cannot be used",
    "overloaded": "The queue is full",
    "not-ready": "The model is not ready",
    "internal": "The server failed",
}
"""Every kind of problem there is, by the last part of its `type`."""


class Problem(Exception):
    """A request that is answered by a problem.

    Args:
        status: of HTTP.
        kind: of `TITLES`.
        detail: a sentence that names the value, the bound and the cure.
        headers: of the answer.
        **more: members beside those of RFC 9457.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ):
        super().__init__(detail)
        assert kind in TITLES, kind
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.more = dict(headers or {}), more

    def response(self, request_id: str) -> Response:
        """The answer; `instance` is the request's id, by which the logs know it."""
        body = {
            "type": PREFIX + self.kind,
            "title": TITLES[self.kind],
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:request:{request_id}",
            **self.more,
        }
        return Response(json.dumps(body), self.status, self.headers, MEDIA_TYPE)


def answer(request: Request, problem: Exception) -> Response:
    """An exception handler of Starlette's."""
    assert isinstance(problem, Problem)
    request.scope["problem"] = problem.kind
    return problem.response(request.scope["request_id"])


def overloaded(detail: str) -> Problem:
    """429: try again in a second."""
    return Problem(429, "overloaded", detail, headers={"Retry-After": "1"})


def not_ready(detail: str) -> Problem:
    """503: try again in some seconds."""
    return Problem(503, "not-ready", detail, headers={"Retry-After": "5"})


def parameter(name: str, detail: str) -> Problem:
    """422 for a query parameter."""
    return Problem(422, "bad-parameter", f"{name}: {detail}", parameter=name)
