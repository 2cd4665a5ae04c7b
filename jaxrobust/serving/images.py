"""Uploaded bytes to the model's pixels: nothing is trusted, and what comes out is what `predict` sees."""

import io
import time
from typing import Any

import numpy as np

from jaxrobust import data
from jaxrobust.data import _decode
from jaxrobust.serving import _tiff
from jaxrobust.serving.problems import Problem
from jaxrobust.serving.served import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is read, by its content: a name or content type says nothing. A phone's MPO is a JPEG with views."""
# Bytes handed to a decoder at once: between two of them the clock is looked at. A progressive JPEG has scans
# of some 40 bytes that each walk over all its pixels.
_BLOCK, _PILLOWS_BLOCK = 4096, 65536


class _Late(Exception):
    """Decoding has taken its time."""


class _Watched(io.BytesIO):
    """Bytes that can be read until a deadline, in smaller blocks where `slowly`."""

    deadline = float("inf")
    slowly = False

    def read(self, size: int | None = -1) -> bytes:
        if time.monotonic() > self.deadline:
            raise _Late
        # Of this size are the decoding loop's reads, which take less as well; no part of a JPEG's header is.
        return super().read(_BLOCK if self.slowly and size == _PILLOWS_BLOCK else size)


def decode(
    body: bytes,
    image_shape: tuple[int, int, int],
    settings: Settings,
    *,
    margin: Any = None,
    prepared: bool = False,
) -> np.ndarray:
    """uint8 `[h, w, c]` of the model's shape: turned by EXIF, cut, converted, resized as `data` does it.

    An opaque alpha channel is dropped, CMYK and palettes are converted to RGB.

    Args:
        body: one encoded image.
        image_shape: `(h, w, c)` of the model.
        settings: its limits on pixels and time. Time is looked at between blocks; WebP and TIFF are one, of
            which the limits on pixels and bytes bound the work, see `_tiff`: TIFF is read in strips alone (a
            tile may be of any size, whatever size the image has) that do not overlap.
        margin: what is cut off first, see `data.load_identities`.
        prepared: the image has the model's height and width already: it is neither cut nor resized.

    Raises:
        Problem: 413 for too many pixels, 415 for what is no image that is read here, 422 for one that cannot
            be used: damaged, transparent, animated, in tiles, more than 8 bits of grey, too slow to decode,
            or, if prepared, of another size.
    """
    from PIL import Image

    height, width, channels = image_shape
    file = _Watched(body)
    file.deadline = time.monotonic() + settings.decode_seconds
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check(image, body, settings, (width, height) if prepared else None)
            file.slowly = image.format in ("JPEG", "MPO")
    except Problem:
        raise
    except _Late:
        raise _refused(_slow(settings)) from None
    # Pillow's own limits; the lower one is a warning, which a program may have made an error.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many("The image has", settings) from None
    except Exception:
        found = "This is no image, or its header is damaged." if body else "The file is empty."
        raise Problem(415, "not-an-image", f"{found} {', '.join(FORMATS)} are read.") from None
    try:
        file.seek(0)
        size = None if prepared else (height, width)
        cut = None if prepared else _decode.parse_margin(margin)
        pixels = data.decode_image(file, "The image", size, channels, cut)
    except ValueError as error:
        late = isinstance(error.__cause__, _Late)
        raise _refused(_slow(settings) if late else _sentence(error)) from None
    # The last word: what stands behind the pixels may turn an image whose header looked right.
    if pixels.shape != tuple(image_shape):
        raise _other_size(pixels.shape[1], pixels.shape[0], (width, height))
    return pixels


def _check(image: Any, body: bytes, settings: Settings, prepared: tuple[int, int] | None) -> None:
    """What the header tells, before pixels are decoded."""
    width, height = image.size
    if width * height > settings.max_pixels:
        raise _too_many(f"The image is {width}x{height},", settings)
    if width < 1 or height < 1:
        raise _refused("The image has no pixels.")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise _refused("The file has several frames or pages, and which is meant is not known. Send one.")
    if image.format == "TIFF" and (found := _tiff.problem(image, body)):
        raise _refused(found)
    # Lying or standing: how it is turned is known for certain once all of it is read.
    if prepared is not None and prepared not in ((width, height), (height, width)):
        raise _other_size(width, height, prepared)


def _other_size(width: int, height: int, prepared: tuple[int, int]) -> Problem:
    return _refused(
        f"The image is {width}x{height}; with prepared=true it must be {prepared[0]}x{prepared[1]}, as the "
        "model takes it. Leave prepared out, and it is resized."
    )


def _too_many(what: str, settings: Settings) -> Problem:
    limit = f"{settings.max_pixels:,}"
    return Problem(413, "too-many-pixels", f"{what} more than {limit} pixels, the limit. Scale it down.")


def _refused(detail: str) -> Problem:
    return Problem(422, "image-refused", detail)


def _slow(settings: Settings) -> str:
    return f"Decoding took over {settings.decode_seconds:g} s. Save the image anew, as plain PNG or JPEG."


def _sentence(error: ValueError) -> str:
    """What was wrong, on one short line: parsers quote the file, which may be anything."""
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:300]


def data_url(pixels: np.ndarray) -> str:
    """A PNG of uint8 `[h, w, c]` as a `data:` address."""
    import base64

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
