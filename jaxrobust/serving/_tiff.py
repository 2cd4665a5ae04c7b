"""TIFF, before libtiff reads it: it takes the whole file at once and cannot be stopped, so that the work must
be bounded by the file's size."""

import struct
from typing import Any

_LENGTHS, _OFFSETS, _COMPRESSION = 279, 273, 259
_TILES = (322, 323, 324, 325)
# None, CCITT's, LZW, Deflate (both numbers), PackBits: what they make of a strip is bounded by its rows, and
# what they read by its length. A JPEG in a strip may be progressive, of thousands of scans over all of it.
_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32946, 32773)


def problem(image: Any, body: bytes) -> str | None:
    """Why an opened TIFF is not decoded; None where it may be.

    Strips must not overlap: of 5,000 that are all the same megabyte a small file makes gigabytes to read.
    """
    # Pillow passes over tags of types that it does not know, which libtiff may know, and of a doubled tag the
    # two may take different ones: so the numbers are read from the file.
    tags, numbers = image.tag_v2, _tags(body)
    if any(tag in numbers for tag in _TILES):
        return "TIFF in tiles is not read. Save the image in strips, or as PNG."
    if len(set(numbers)) < len(numbers):
        return "The TIFF has a tag twice. Save the image anew, or as PNG."
    if tags.get(_COMPRESSION, 1) not in _COMPRESSIONS:
        return "This compression of TIFF is not read. Save the image with Deflate or LZW, or as PNG."
    if tags.get(_COMPRESSION, 1) == 1:
        # Plain pixels are not libtiff's: Pillow reads them, by the clock, and needs no lengths.
        return None
    lengths, offsets = (tags.get(tag, ()) for tag in (_LENGTHS, _OFFSETS))
    if len(lengths) != len(offsets) or not lengths or min(lengths) < 1 or sum(lengths) > len(body):
        return "The TIFF's strips have no lengths, or overlap. Save the image anew, or as PNG."
    return None


def _tags(body: bytes) -> list[int]:
    """The numbers of the tags of the first page, as they stand in the file."""
    order = "<" if body[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", body, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), body, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), body, start)
    first, size = start + (8 if big else 2), 20 if big else 12
    # A count beyond the file's end is damage, which Pillow has read past: what is there is looked at.
    last = min(first + count * size, len(body) - 1)
    return [struct.unpack_from(order + "H", body, place)[0] for place in range(first, last, size)]
