"""The ASGI application: what every address answers."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jaxrobust.serving import faces, metrics, openapi, parameters, uploads
from jaxrobust.serving.batching import Ticket
from jaxrobust.serving.keys import Keys
from jaxrobust.serving.middleware import Shell
from jaxrobust.serving.problems import Problem, answer, not_ready
from jaxrobust.serving.service import Service

PAGE = {
    "/": ("index.html", "text/html"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}
Handler = Callable[[Request, Ticket], Awaitable[dict[str, Any]]]


def create_app(service: Service, keys: Keys | None = None) -> Any:
    """The service over HTTP, as an ASGI application; its lifespan starts and stops the service.

    Args:
        service: not started.
        keys: that `/v1/` asks for; None or none at all leaves it open, but for `/v1/model:reload`, which is
            then closed.
    """
    endpoints = _Endpoints(service, keys or Keys())
    routes = endpoints.routes()

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Problem: _refused, HTTPException: _unknown, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return Shell(app, service.metrics, {route.path for route in routes})


class _Endpoints:
    """One method an address."""

    def __init__(self, service: Service, keys: Keys):
        self.service, self.keys = service, keys

    def routes(self) -> list[Route]:
        """Every address; those of faces only where the model verifies."""
        # In the order in which they are looked through: what is asked most comes first.
        found = [
            Route("/v1/recognise", self.images(self.recognise), methods=["POST"]),
            *(Route(path, _static(*file), methods=["GET"]) for path, file in PAGE.items()),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/v1/model", self.model, methods=["GET"]),
            Route("/v1/model:reload", self.reload, methods=["POST"]),
            Route("/v1/recognise:batch", self.images(self.batch), methods=["POST"]),
            Route("/v1/explain", self.images(self.explain), methods=["POST"]),
        ]
        if self.service.first.threshold is not None:
            found += [
                Route("/v1/verify", self.images(self.verify), methods=["POST"]),
                Route("/v1/identify", self.images(self.identify), methods=["POST"]),
            ]
        return found

    def images(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A handler of images, which are taken where the model is ready and the house is not full."""

        async def endpoint(request: Request) -> Response:
            self.authorise(request)
            # While it drains, images are taken still: only `/readyz` turns them away.
            if self.service.loaded is None:
                raise not_ready("The model is being compiled. Try again in some seconds.")
            address = request.client.host if request.client else ""
            with Ticket(self.service.admission, address) as ticket:
                found = await handler(request, ticket)
            milliseconds = 1000 * (time.monotonic() - request.scope["began"])
            return _json({**found, "milliseconds": round(milliseconds, 3)})

        return endpoint

    def authorise(self, request: Request, *, admin: bool = False) -> None:
        """Raises 401 for no or a wrong key, 403 for one that may not."""
        if not self.keys:
            if admin:
                detail = "Without --api-key-file nobody may load the model again. Start the server with one."
                raise Problem(403, "forbidden", detail)
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not self.keys.allows(key):
            raise Problem(
                401, "unauthorised", "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if admin and not self.keys.allows(key, admin=True):
            detail = "Its line in the key file must be `KEY admin`."
            raise Problem(403, "forbidden", detail)

    async def decoded(
        self,
        reading: Awaitable[list[bytes]],
        ticket: Ticket,
        *,
        prepared: bool = False,
        indexed: bool = False,
    ) -> list[np.ndarray]:
        """The pixels of bodies, which end here; the ticket holds so many images from now on.

        Args:
            reading: the bodies, to be awaited.
            ticket: of the request.
            prepared: the images have the model's size.
            indexed: a problem says which image it is about.
        """
        bodies = await reading
        ticket.images(len(bodies))
        work = [self.service.decode(body, prepared=prepared) for body in bodies]
        found = await _all(work, indexed=indexed)
        ticket.decoded()
        return found

    async def recognise(self, request: Request, ticket: Ticket) -> dict[str, Any]:
        asked, _ = parameters.asked(request, self.service.served.image_shape)
        reading = uploads.one(request, ticket, self.service.settings)
        (pixels,) = await self.decoded(reading, ticket, prepared=asked.prepared)
        return await self.service.recognise(pixels, asked)

    async def explain(self, request: Request, ticket: Ticket) -> dict[str, Any]:
        asked, rest = parameters.asked(request, self.service.served.image_shape, "class")
        reading = uploads.one(request, ticket, self.service.settings)
        (pixels,) = await self.decoded(reading, ticket, prepared=asked.prepared)
        return await self.service.explain(pixels, asked, rest.get("class"))

    async def batch(self, request: Request, ticket: Ticket) -> dict[str, Any]:
        asked, _ = parameters.asked(request, self.service.served.image_shape)
        reading = uploads.several(request, ticket, self.service.settings)
        images = await self.decoded(reading, ticket, prepared=asked.prepared, indexed=True)
        return {"results": await _all([self.service.recognise(pixels, asked) for pixels in images])}

    async def verify(self, request: Request, ticket: Ticket) -> dict[str, Any]:
        parameters.read(request, {})
        reading = uploads.named(request, ticket, self.service.settings, ("first", "second"))
        first, second = await self.decoded(reading, ticket, indexed=True)
        return await faces.verify(self.service, first, second)

    async def identify(self, request: Request, ticket: Ticket) -> dict[str, Any]:
        top = parameters.top(request)
        (face,) = await self.decoded(uploads.one(request, ticket, self.service.settings), ticket)
        return await faces.identify(self.service, face, top)

    async def model(self, request: Request) -> Response:
        self.authorise(request)
        parameters.read(request, {})
        served = self.service.served
        height, width, channels = served.image_shape
        return _json(
            {
                "model": served.id,
                "class_names": list(served.class_names),
                "image": {"height": height, "width": width, "channels": channels},
                "tasks": ["recognise", *(["verify", "identify"] if served.threshold is not None else [])],
                "threshold": served.threshold,
                "enrolled": sorted(served.gallery),
                "stability": None
                if served.neighbourhood is None
                else {
                    "neighbourhood": served.neighbourhood_words,
                    "samples": self.service.settings.stability_samples,
                },
                "limits": {
                    "bytes": self.service.settings.max_bytes,
                    "pixels": self.service.settings.max_pixels,
                    "batch": self.service.settings.max_batch,
                },
                "card": dict(served.card),
            }
        )

    async def reload(self, request: Request) -> Response:
        self.authorise(request, admin=True)
        parameters.read(request, {})
        return _json(await self.service.reload())

    async def health(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        if not self.service.is_ready:
            why = "The server is about to stop." if self.service.draining else "The model is being compiled."
            raise not_ready(why)
        return _json({"status": "ready", "model": self.service.served.id})

    async def metrics(self, request: Request) -> Response:
        return Response(self.service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return _json(openapi.document(self.service.served, self.service.settings, bool(self.keys)))


async def _all(work: Sequence[Coroutine[Any, Any, Any]], *, indexed: bool = False) -> list[Any]:
    """Every result, once all are there; else the error of one, and none of the others is left running."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # What waits ends here; what is being decoded takes its seconds.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    failed = {index: task.exception() for index, task in enumerate(tasks) if not task.cancelled()}
    for index, error in failed.items():
        if isinstance(error, Problem) and indexed:
            error.more["index"] = index
        if error is not None:
            raise error
    return [task.result() for task in tasks]


def _static(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    text = resources.files("jaxrobust.serving").joinpath("page", name).read_text(encoding="utf-8")

    async def endpoint(request: Request) -> Response:
        # Asked for anew each time: a page of another version would not fit the answers.
        return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return endpoint


def _json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """A problem; what is left of the body is read away, so that its sender hears of it."""
    await uploads.discard(request)
    return answer(request, error)


async def _failed(request: Request, error: Exception) -> Response:
    """What nobody expected; Starlette raises it again, and `Shell` writes it into the log."""
    return answer(request, Problem(500, "internal", "The server's log has more, under this request's id."))


async def _unknown(request: Request, error: Exception) -> Response:
    """Starlette's own answers as problems."""
    assert isinstance(error, HTTPException)
    await uploads.discard(request)
    headers = error.headers
    if error.status_code == 405:
        return answer(request, Problem(405, "method-not-allowed", "See /openapi.json.", headers=headers))
    if error.status_code == 404:
        return answer(request, Problem(404, "not-found", "See /openapi.json for what there is."))
    return answer(request, Problem(error.status_code, "bad-request", str(error.detail), headers=headers))
