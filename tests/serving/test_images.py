"""Uploaded bytes: the pixels are those of `predict`, and what cannot be used is refused by a clear 4xx."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.serving import Settings
from jaxrobust.serving.images import data_url, decode
from jaxrobust.serving.problems import Problem
from tests.serving.service_under_test import encode

SHAPE = (8, 6, 3)
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(tag: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return saved(Image.fromarray(COLOUR), "JPEG", exif=exif)


def mpo() -> bytes:
    views = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    return saved(views[0], "MPO", save_all=True, append_images=views[1:])


USED = {
    "PNG": encode(COLOUR),
    "grey PNG": encode(GREY),
    "JPEG": encode(COLOUR, "JPEG"),
    "progressive JPEG": encode(COLOUR, "JPEG", progressive=True),
    "WebP": encode(COLOUR, "WEBP"),
    "BMP": encode(COLOUR, "BMP"),
    "one GIF frame": encode(COLOUR, "GIF"),
    "TIFF": encode(COLOUR, "TIFF"),
    "LZW in a TIFF": encode(COLOUR, "TIFF", compression="tiff_lzw"),
    "Deflate in a TIFF": encode(COLOUR, "TIFF", compression="tiff_adobe_deflate"),
    "PackBits in a TIFF": encode(COLOUR, "TIFF", compression="packbits"),
    "PGM": encode(GREY, "PPM"),
    "CMYK JPEG": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "palette": saved(Image.fromarray(COLOUR).quantize(16), "PNG"),
    "one bit": saved(Image.fromarray(GREY).convert("1"), "PNG"),
    "opaque alpha": saved(Image.fromarray(COLOUR).convert("RGBA"), "PNG"),
    "of a phone, lying": oriented(6),
    "of a phone, with two views": mpo(),
}


@pytest.mark.parametrize("shape", [SHAPE, (8, 6, 1), (20, 30, 3)], ids=["colour", "grey", "its own size"])
@pytest.mark.parametrize("kind", USED)
def test_pixels_are_those_of_predict(kind, shape, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(USED[kind])
    expected = data.decode_image(file, "it", shape[:2], shape[2])
    found = decode(USED[kind], shape, Settings())
    assert found.dtype == np.uint8 and found.shape == shape
    np.testing.assert_array_equal(found, expected)


def test_16_bits_of_colour_are_their_upper_bytes():
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0))
    deep = np.stack([COLOUR, RNG.integers(0, 256, COLOUR.shape, dtype=np.uint8)], axis=-1).reshape(20, -1)
    lines = zlib.compress(b"".join(b"\0" + line.tobytes() for line in deep))
    body = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(body, (20, 30, 3), Settings()), COLOUR)


def test_a_lying_photo_is_turned():
    lying, turned = (decode(oriented(tag), (30, 20, 3), Settings(), margin=None) for tag in (1, 6))
    assert np.abs(lying.astype(int) - turned).mean() > 10
    standing = decode(oriented(6), (30, 20, 3), Settings(), prepared=True)
    assert standing.shape == (30, 20, 3)


def png_that_turns_late(width: int, height: int) -> bytes:
    """An eXIf without an orientation before the pixels, and an orientation behind them."""
    exif = Image.Exif()
    exif[0x010E] = "x"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    early = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    pixels = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height)))
    late = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    return b"\x89PNG\r\n\x1a\n" + head + early + pixels + late + chunk(b"IEND", b"")


def test_an_image_that_is_turned_by_what_follows_its_pixels_has_the_models_shape_or_is_refused():
    with pytest.raises(Problem, match="The image is 20x30; with prepared=true it must be 30x20") as refused:
        decode(png_that_turns_late(30, 20), (20, 30, 1), Settings(), prepared=True)
    assert refused.value.status == 422
    assert decode(png_that_turns_late(20, 30), (20, 30, 1), Settings(), prepared=True).shape == (20, 30, 1)
    assert decode(png_that_turns_late(30, 20), (20, 30, 1), Settings()).shape == (20, 30, 1)


def tiled(side: int) -> bytes:
    """A TIFF of 16x16 pixels in one deflated tile of `side` x `side`."""
    packer = zlib.compressobj(1)
    tile = b"".join([packer.compress(bytes(side)) for _ in range(side)]) + packer.flush()
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    tags += [(324, 14 + 12 * (len(tags) + 2)), (325, len(tile))]
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + struct.pack("<I", 0) + tile


def stripped(
    rows: int, data: bytes, compression: int = 32773, *, doubled: bool = False, hidden: bool = False
) -> bytes:
    """A TIFF of one column, whose strips of one row are all the same bytes."""
    tags = [(256, 1, 1), (257, 1, rows), (258, 1, 8), (259, 1, compression), (262, 1, 1)]
    lists = 8 + 2 + 12 * (9 + doubled + hidden) + 4
    tags += [(273, rows, lists), (277, 1, 1), (278, 1, 1), (279, rows, lists + 4 * rows)]
    # Said of one strip first: libtiff may believe it.
    tags += [(279, rows, lists + 4 * rows)] * doubled
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    # Of a type that Pillow passes over and libtiff reads.
    entries += struct.pack("<HHII", 324, 17, rows, lists) * hidden
    tags += [()] * hidden
    starts = struct.pack("<I", lists + 8 * rows) * rows
    lengths = struct.pack("<I", len(data)) * rows
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + starts + lengths + data


def test_the_margin_is_cut_off_first():
    found = decode(encode(COLOUR), (10, 10, 3), Settings(), margin=(0.25, 0.25, 1 / 3, 1 / 3))
    np.testing.assert_array_equal(found, COLOUR[5:15, 10:20])
    same = decode(encode(COLOUR), (10, 16, 3), Settings(), margin=0.25)
    np.testing.assert_array_equal(same, COLOUR[5:15, 7:23])
    prepared = decode(encode(COLOUR), (20, 30, 3), Settings(), margin=0.25, prepared=True)
    np.testing.assert_array_equal(prepared, COLOUR)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and would unpack to, so many pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    lines = zlib.compress(bytes(min(width * height, 10**6)))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


FRAMES = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
CLEAR = Image.fromarray(np.dstack([COLOUR, np.full((20, 30), 128, np.uint8)]))
DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)
REFUSED = {
    "nothing": (b"", 415, "empty"),
    "text": (b"not an image at all", 415, "JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM are read"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "are read"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", 415, "are read"),
    "only a head": (encode(COLOUR)[:20], 415, "damaged"),
    "truncated PNG": (encode(COLOUR)[:-300], 422, "truncated"),
    "truncated JPEG": (encode(COLOUR, "JPEG")[:-300], 422, "truncated"),
    "animated GIF": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), 422, "several frames"),
    "animated PNG": (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), 422, "several frames"),
    "animated WebP": (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), 422, "several"),
    "pages of TIFF": (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), 422, "several"),
    "transparent": (saved(CLEAR, "PNG"), 422, "transparent pixels"),
    "transparent palette": (saved(Image.fromarray(COLOUR).quantize(4), "PNG", transparency=0), 422, "transp"),
    "16 bits of grey": (saved(DEEP, "PNG"), 422, "8 bits per channel"),
    "tiles of TIFF": (tiled(16), 422, "in strips"),
    "one strip many times": (stripped(5_000, b"\x80" * 100_000 + b"\0\x07"), 422, "overlap"),
    "strips without lengths": (stripped(2, b""), 422, "no lengths"),
    "tiles that Pillow does not see": (stripped(2, b"\0\x07", hidden=True), 422, "in strips"),
    "a tag twice": (stripped(2, b"\0\x07", doubled=True), 422, "twice"),
    "a JPEG in a TIFF": (saved(Image.fromarray(COLOUR), "TIFF", compression="jpeg"), 422, "compression"),
    "floats": (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), 422, "8 bits per channel"),
    "bomb": (bomb(50_000, 50_000), 413, "more than 25,000,000 pixels"),
    "thin bomb": (bomb(2**31 - 1, 1), 413, "Scale it down"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_reason(kind):
    body, status, words = REFUSED[kind]
    with pytest.raises(Problem) as refused:
        decode(body, SHAPE, Settings())
    assert refused.value.status == status and words in refused.value.detail
    assert len(refused.value.detail) < 500 and refused.value.detail.isprintable()


def test_pixels_are_bounded_by_the_setting():
    decode(encode(COLOUR), SHAPE, Settings(max_pixels=600))
    with pytest.raises(Problem, match="30x20, more than 599 pixels") as refused:
        decode(encode(COLOUR), SHAPE, Settings(max_pixels=599))
    assert refused.value.status == 413


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_decoding_ends_at_its_deadline(kind):
    body = encode(COLOUR, kind)
    with pytest.raises(Problem, match="Decoding took over 1e-09 s") as refused:
        decode(body, SHAPE, Settings(decode_seconds=1e-9))
    assert refused.value.status == 422


def test_a_prepared_image_of_another_size_is_refused():
    with pytest.raises(Problem, match="The image is 30x20; with prepared=true it must be 6x8"):
        decode(encode(COLOUR), SHAPE, Settings(), prepared=True)


def test_a_view_is_the_pixels_again():
    import base64

    url = data_url(COLOUR)
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), COLOUR)
    assert data_url(GREY[..., None]).startswith("data:image/png;base64,")
