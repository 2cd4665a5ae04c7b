"""Image files to uint8 arrays, with Pillow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from jaxrobust import _validate

# Imported where images are decoded: arrays are trained on without Pillow.
if TYPE_CHECKING:
    from PIL import Image

_GREY = {"1", "L", "LA", "La"}
_COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION_TAG = 0x0112

Margin: TypeAlias = tuple[float, float, float, float]
"""What is cut off: (top, bottom) as fractions of the height, (left, right) of the width."""


def parse_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) in pixels from the `size` option."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"Expected a positive size in pixels, got size={size}.")
    return int(height), int(width)


def check_channels(channels: int | None) -> None:
    """Raises ValueError unless channels is None, 1 (grey) or 3 (colour)."""
    if channels not in (None, 1, 3):
        raise ValueError(f"Expected channels 1 (grey) or 3 (colour), got channels={channels}.")


def parse_margin(margin: float | Sequence[float] | None) -> Margin | None:
    """(top, bottom, left, right) as fractions of the height and the width, from the `margin` option."""
    if margin is None:
        return None
    parts = tuple(margin) if isinstance(margin, Sequence) else (margin,) * 4
    if len(parts) != 4:
        raise ValueError(f"Expected margin as one fraction or (top, bottom, left, right), got {margin}.")
    for part in parts:
        _validate.within("margin", part, 0, 1, "It is a fraction of the image's height or width.")
    top, bottom, left, right = (float(part) for part in parts)
    if top + bottom >= 1 or left + right >= 1:
        raise ValueError(f"margin={margin} leaves nothing of the image; opposite sides must sum to < 1.")
    return top, bottom, left, right


def margin_box(height: int, width: int, margin: Margin | None) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in pixels of what a margin leaves; cuts are rounded down to pixels."""
    top, bottom, left, right = margin or (0.0, 0.0, 0.0, 0.0)
    # A fraction like 0.3 of 10 pixels is 3, though the product of floats may lie below it.
    cut = [int(f * n + 1e-9) for f, n in ((top, height), (bottom, height), (left, width), (right, width))]
    return cut[0], cut[2], height - cut[1], width - cut[3]


def _to_array(
    image: "Image.Image",
    size: tuple[int, int] | None,
    channels: int | None,
    margin: Margin | None = None,
) -> np.ndarray:
    """Converts an opened image; grey files stay grey where `channels` is None. Cut first, then resized."""
    if image.mode not in _GREY | _COLOUR:
        raise ValueError(f"has pixel mode {image.mode!r}; convert it to 8 bits per channel")
    mode = _MODES[channels or (1 if image.mode in _GREY else 3)]
    image = image if image.mode == mode else image.convert(mode)
    if margin is not None:
        top, left, bottom, right = margin_box(image.height, image.width, margin)
        image = image.crop((left, top, right, bottom))
    if size is not None and image.size != (size[1], size[0]):
        from PIL import Image

        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _check_opaque(image: "Image.Image") -> None:
    """Raises ValueError for transparent pixels: their colour is arbitrary, often black under black ink."""
    if image.mode not in _GREY | _COLOUR or not image.has_transparency_data:
        return
    # Pillow has no way from premultiplied grey to RGBA but this one.
    image = image.convert("LA") if image.mode == "La" else image
    if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        raise ValueError(
            "has transparent pixels, whose colour depends on what lies behind; flatten it on a background, "
            "e.g. `magick IN.png -background white -flatten OUT.png`"
        )


def decode(
    data: bytes | Path | BinaryIO,
    where: str,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    margin: Margin | None = None,
) -> np.ndarray:
    """Decodes one encoded image to uint8 `[h, w, c]`; any failure is a ValueError naming `where`.

    Of files, opened or not, an opaque alpha channel is dropped and a transparent one refused. `margin` (top,
    bottom, left, right) is cut off before the image is resized to `size`.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(data, bytes):
            # Records keep the orientation that tensorflow-datasets gives them, and lose alpha as there.
            return _to_array(Image.open(io.BytesIO(data)), size, channels, margin)
        with Image.open(data) as image:
            _check_opaque(image)
            return _to_array(ImageOps.exif_transpose(image), size, channels, margin)
    # Pillow's plugins raise anything from SyntaxError to struct.error on damaged files.
    except Exception as error:
        raise ValueError(f"{where}: cannot be read as an image: {error}.") from error


def header(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) of an image file without decoding its pixels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in _GREY | _COLOUR:
                raise ValueError(f"has pixel mode {image.mode!r}; convert it to 8 bits per channel")
            width, height = image.size
            if image.getexif().get(_ORIENTATION_TAG, 1) >= 5:
                width, height = height, width
            return height, width, 1 if image.mode in _GREY else 3
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}.") from error


def fit(images: np.ndarray, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """uint8 `[n, h, w, c]` resized and converted to the asked-for size and channels."""
    if (size is None or images.shape[1:3] == size) and channels in (None, images.shape[3]):
        return images
    from PIL import Image

    channels = channels or images.shape[3]
    return np.stack(
        [_to_array(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), size, channels) for x in images]
    )
