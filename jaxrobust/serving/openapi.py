"""The service's description, OpenAPI 3.1, written out: `/openapi.json`. Tests hold the service to it."""

import importlib.metadata
from typing import Any

from jaxrobust.serving._schemas import schemas
from jaxrobust.serving.parameters import MAX_ANGLE
from jaxrobust.serving.problems import MEDIA_TYPE
from jaxrobust.serving.served import Served, Settings

JSON = "application/json"
_PROBLEMS = {
    400: "The body cannot be read.",
    401: "An API key is needed.",
    403: "The key may not do that.",
    408: "The body took too long to arrive.",
    409: "This cannot be done now.",
    413: "Too many bytes or pixels.",
    415: "The content type, or the image's format, is not read.",
    422: "A parameter, the form's fields or the image cannot be used.",
    429: "The queue is full.",
    503: "The model is not ready.",
}


def document(served: Served, settings: Settings, locked: bool) -> dict[str, Any]:
    """The description of a service of this model.

    Args:
        served: its image shape, classes and whether it verifies faces are part of it.
        settings: its limits.
        locked: whether `/v1/` asks for an API key.
    """
    paths = {
        **_recognition(served, settings),
        **({} if served.threshold is None else _of_faces(served)),
        **_operation("get", "/v1/model", "model", "Its card, classes, limits.", "Model", problems=(422,)),
        **_operation(
            "post",
            "/v1/model:reload",
            "reload",
            "Load the model again from what the server was started with, and put it in the place of the one "
            "in use. No request fails meanwhile. Needs a key whose line is `KEY admin`.",
            "Reloaded",
            problems=(401, 403, 409, 422, 503),
        ),
        **_around(),
    }
    if locked:
        for path, methods in paths.items():
            if path.startswith("/v1/"):
                for operation in methods.values():
                    operation["security"] = [{"bearer": []}, {"header": []}]
                    operation["responses"]["401"] = _problem(401)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jaxrobust recognition service",
            "version": importlib.metadata.version("jaxrobust"),
            "description": f"Serves {served.id}. Images are {_size(served)}; others are resized to that.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(served),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _recognition(served: Served, settings: Settings) -> dict[str, Any]:
    asked = [*_asked(served), _flag("prepared", "The image has the model's size: it is not cut or resized.")]
    stability = [] if served.neighbourhood is None else [_stability(served, settings)]
    shown = [*asked, *stability, _flag("view", "Add the image as the model sees it, as a PNG.")]
    explained = {
        "name": "class",
        "in": "query",
        "description": "The class to explain; default the one that the model names.",
        "schema": {"type": "integer", "minimum": 0, "maximum": len(served.class_names) - 1},
    }
    return {
        **_operation(
            "post", "/v1/recognise", "recognise", "The class of an image, with the whole distribution.",
            "Recognition", parameters=shown, body=_one_image(),
        ),
        **_operation(
            "post", "/v1/recognise:batch", "recogniseBatch",
            f"The same of up to {settings.max_batch} images, in their order. One that cannot be used fails "
            "the request; the problem's `index` says which.",
            "Recognitions", parameters=shown, body=_files(settings.max_batch),
        ),
        **_operation(
            "post", "/v1/explain", "explain",
            "The same, with a map of what supports the class: the fall of its logit where a window of the "
            "image is covered by mid-grey, as a share of the largest value in the map.",
            "Explanation", parameters=[*shown, explained], body=_one_image(),
        ),
    }  # fmt: skip


def _of_faces(served: Served) -> dict[str, Any]:
    pair = {
        "type": "object",
        "required": ["first", "second"],
        "properties": {name: _binary() for name in ("first", "second")},
        "additionalProperties": False,
    }
    return {
        **_operation(
            "post", "/v1/verify", "verify",
            "Whether two faces are one person's: the cosine of their embeddings, at least the threshold.",
            "Verification", body=_form(pair),
        ),
        **_operation(
            "post", "/v1/identify", "identify",
            "Who of the gallery a face is, if anybody: the person with the nearest image, if that is near "
            "enough. 409 where nobody is enrolled.",
            "Identification", parameters=[_top(None)], body=_one_image(),
            problems=(400, 408, 409, 413, 415, 422, 429, 503),
        ),
    }  # fmt: skip


def _around() -> dict[str, Any]:
    text = {"type": "string"}
    found = {
        **_operation("get", "/healthz", "health", "Whether the process lives.", "Alive", problems=()),
        **_operation("get", "/readyz", "ready", "Whether images are taken.", "Ready", problems=(503,)),
        **_operation("get", "/openapi.json", "openapi", "This document.", "Document", problems=()),
    }
    for path, name, words, kind in (
        ("/metrics", "metrics", "Numbers for Prometheus.", "text/plain"),
        ("/", "page", "A page to try the model.", "text/html"),
        ("/page/app.js", "pageScript", "The page's script.", "text/javascript"),
        ("/page/style.css", "pageStyle", "The page's style.", "text/css"),
    ):
        one = _operation("get", path, name, words, "Document", problems=())
        one[path]["get"]["responses"]["200"]["content"] = {kind: {"schema": text}}
        found |= one
    return found


def _operation(
    method: str,
    path: str,
    name: str,
    words: str,
    schema: str,
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    problems: tuple[int, ...] = (400, 408, 413, 415, 422, 429, 503),
) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": words,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **{str(status): _problem(status) for status in problems},
        },
    }
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = {"required": True, "content": body}
    return {path: {method: found}}


def _problem(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": _PROBLEMS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (429, 503):
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        found["headers"] = {"Retry-After": seconds}
    return found


def _binary() -> dict[str, Any]:
    return {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": schema}}


def _one_image() -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": _binary()},
        "additionalProperties": False,
    }
    raw = {"schema": _binary()}
    kinds = ("png", "jpeg", "webp", "bmp", "gif", "tiff", "x-portable-anymap")
    return {**_form(form), "application/octet-stream": raw, **{f"image/{kind}": raw for kind in kinds}}


def _files(most: int) -> dict[str, Any]:
    files = {"type": "array", "items": _binary(), "minItems": 1, "maxItems": most}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": files},
        "additionalProperties": False,
    }
    return _form(form)


def _asked(served: Served) -> list[dict[str, Any]]:
    height, width, _ = served.image_shape
    return [
        _number("angle", "Turn the image about its centre first; degrees, counter-clockwise.", MAX_ANGLE),
        _number("down", "Then shift it down; pixels of the model's image.", height),
        _number("right", "And to the right; pixels of the model's image.", width),
        _top(len(served.class_names)),
    ]


def _number(name: str, words: str, most: float) -> dict[str, Any]:
    schema = {"type": "number", "minimum": -most, "maximum": most, "default": 0}
    return {"name": name, "in": "query", "description": words, "schema": schema}


def _top(most: int | None) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5}
    # This document is read without a key: how many are enrolled stays out of it.
    words = "How many to name, the likeliest first" + ("." if most is None else f"; there are {most}.")
    return {"name": "top", "in": "query", "description": words, "schema": schema}


def _flag(name: str, words: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": ["1", "true", "0", "false"], "default": "0"}
    return {"name": name, "in": "query", "description": words, "schema": schema}


def _stability(served: Served, settings: Settings) -> dict[str, Any]:
    words = (
        f"How often the class changes under {settings.stability_samples} random draws of a neighbourhood of "
        f"the image: {served.neighbourhood_words}. Draws at random are no attack."
    )
    return _flag("stability", words)


def _size(served: Served) -> str:
    height, width, channels = served.image_shape
    return f"{'grey' if channels == 1 else 'colour'}, {width}x{height} pixels (width x height)"
