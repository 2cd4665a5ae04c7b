"""Bodies of requests: read within limits of bytes and time, as raw images or as a form with files."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from jaxrobust.serving.batching import Ticket
from jaxrobust.serving.problems import Problem
from jaxrobust.serving.served import Settings

FORM = "multipart/form-data"
_RAW = ("application/octet-stream", "image/")
# What is read and thrown away of a body that is refused, so that its sender can read the answer.
_DISCARD_BYTES, _DISCARD_SECONDS = 2**24, 30.0
# A body may take its first seconds for nothing; from there on it must have come at this many bytes a second,
# and it may not pause for longer than the grace: who has sent nearly all would hold the room for the longest.
_GRACE_SECONDS, _LEAST_RATE = 5.0, 8192


class _Pace:
    """By when more of a body must have come, in the event loop's time; `seconds` is the longest for all."""

    def __init__(self, seconds: float):
        self._most = seconds
        self._began = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return asyncio.get_running_loop().time() - self._began

    def deadline(self, total: int) -> float:
        """Of the next piece, where `total` bytes have come."""
        return self._began + min(self._most, _GRACE_SECONDS + min(total / _LEAST_RATE, self.seconds))


class _Parser(MultiPartParser):
    """In memory alone: the body is bounded, and images are not written to disk."""

    spool_max_size = 2**31


def media_type(headers: Headers) -> str:
    """The content type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def one(request: Request, ticket: Ticket, settings: Settings) -> list[bytes]:
    """The image of a request, alone in a list: its raw body, or the form's only file, the field `file`."""
    kind = media_type(request.headers)
    if kind == FORM:
        return await named(request, ticket, settings, ("file",))
    if kind.startswith(_RAW):
        return [await _body(request, ticket, settings)]
    raise Problem(
        415,
        "unsupported-type",
        f"Expected {FORM} with the field `file`, image/* or application/octet-stream, got {_shown(kind)}.",
    )


async def named(request: Request, ticket: Ticket, settings: Settings, names: tuple[str, ...]) -> list[bytes]:
    """The files of a form's fields, each of which must be there once."""
    found = await _form(request, ticket, settings, len(names))
    if sorted(name for name, _ in found) != sorted(names):
        wanted = " and ".join(f"`{name}`" for name in names)
        raise Problem(422, "bad-request", f"Expected the form to have {wanted}, one file each, and no more.")
    return [dict(found)[name] for name in names]


async def several(request: Request, ticket: Ticket, settings: Settings) -> list[bytes]:
    """The files of a form, all in the field `file`, at most `max_batch`."""
    found = await _form(request, ticket, settings, settings.max_batch)
    if not found or any(name != "file" for name, _ in found):
        raise Problem(422, "bad-request", "Expected the form to have files in the field `file`, and no more.")
    return [body for _, body in found]


async def discard(request: Request) -> None:
    """Reads on, within bounds, what nobody wants."""
    # Who asks before sending (curl, above a megabyte) has not sent anything.
    if "expect" in request.headers:
        return
    pace, total = _Pace(_DISCARD_SECONDS), 0
    try:
        async with asyncio.timeout_at(pace.deadline(0)) as limit:
            async for chunk in request.stream():
                total += len(chunk)
                limit.reschedule(pace.deadline(total))
                if total > _DISCARD_BYTES:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):
        # RuntimeError: the body was read to its end already.
        return


async def _form(request: Request, ticket: Ticket, settings: Settings, most: int) -> list[tuple[str, bytes]]:
    """The files of a form by field, in their order."""
    kind = media_type(request.headers)
    if kind != FORM:
        raise Problem(415, "unsupported-type", f"Expected {FORM}, got {_shown(kind)}.")
    body = await _body(request, ticket, settings)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _Parser(
            request.headers, stream(), max_files=most, max_fields=4, max_part_size=4096
        ).parse()
    except MultiPartException as error:
        raise Problem(400, "bad-request", f"The form cannot be read: {_sentence(error.message)}") from None
    # The parser raises others on some damaged heads.
    except (ValueError, KeyError, IndexError, UnicodeError):
        raise Problem(400, "bad-request", "The form cannot be read: its parts are damaged.") from None
    try:
        return [(name, await _bytes(value)) for name, value in form.multi_items()]
    finally:
        await form.close()


async def _body(request: Request, ticket: Ticket, settings: Settings) -> bytes:
    """All of it, counted as it comes."""
    announced = request.headers.get("content-length", "0")
    # The server has refused what is no number; leading zeros and the like are counted as they come.
    if announced.isdecimal() and int(announced) > settings.max_bytes:
        raise _too_large(settings)
    chunks, total = [], 0
    pace = _Pace(settings.read_seconds)
    try:
        async with asyncio.timeout_at(pace.deadline(0)) as limit:
            async for chunk in request.stream():
                total += len(chunk)
                limit.reschedule(pace.deadline(total))
                if total > settings.max_bytes:
                    raise _too_large(settings)
                ticket.bytes(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            408,
            "too-slow",
            f"{total:,} bytes came in {pace.seconds:.3g} s. Send fewer, or over a faster line.",
        ) from None
    except ClientDisconnect:
        raise Problem(400, "bad-request", "The client went away while it sent the body.") from None
    return b"".join(chunks)


async def _bytes(value: UploadFile | str) -> bytes:
    if not isinstance(value, UploadFile):
        raise Problem(422, "bad-request", "Expected files: a part needs a filename, as curl -F file=@x.png.")
    return await value.read()


def _too_large(settings: Settings) -> Problem:
    # The connection is closed: the rest of the body is not waited for.
    return Problem(
        413,
        "too-large",
        f"The body is larger than {settings.max_bytes:,} bytes. Send a smaller image, or fewer.",
        headers={"Connection": "close"},
    )


def _shown(kind: str) -> str:
    """A client's word, on one short line."""
    return repr(kind[:60]) if kind else "no content type"


def _sentence(text: str) -> str:
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())[:200]
