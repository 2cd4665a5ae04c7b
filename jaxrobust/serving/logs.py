"""One JSON object a line: what happened, never what an image showed, its name, its sender or a key."""

import json
import logging
import sys
import time
from typing import Any, TextIO

LOGGER = logging.getLogger("jaxrobust.serving")


class JsonFormatter(logging.Formatter):
    """A record with the fields that were passed as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            # Where it failed, without the message, which may quote what a client sent.
            kind, _, trace = record.exc_info
            found["error"] = kind.__name__ if kind else None
            found["at"] = _places(trace)
        return json.dumps(found, default=str)


def _places(trace: Any) -> list[str]:
    """`file:line function` of the last frames."""
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-8:]


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Writes a line."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=error)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends the service's and uvicorn's lines to a stream as JSON; default stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (LOGGER.name, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], False
        logger.setLevel(level.upper())
    LOGGER.handlers = [handler]
    logging.getLogger("uvicorn").handlers = [handler]
    # They quote what clients send: the form's parser, and Pillow's warnings about damaged files.
    logging.captureWarnings(True)
    for name in ("python_multipart", "py.warnings", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # `uvicorn.error` is uvicorn's general logger; its lines go up to `uvicorn`.
    logging.getLogger("uvicorn.error").propagate = True
