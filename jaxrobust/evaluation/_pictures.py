"""Images as they are shown: RGB bytes, magnified differences, data URIs."""

import base64
import io

import numpy as np
from PIL import Image

from jaxrobust.evaluation._types import Report, Sample


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Float `[h, w, c]` in [0, 1] to uint8 `[h, w, 3]`; of other channel counts the first, or first three."""
    channels = image.shape[-1]
    rgb = image[..., :3] if channels >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def gain(report: Report, attack: str) -> float:
    """The magnification, at least 1, that brings the row's largest difference to the ends of the scale."""
    largest = max(float(np.max(np.abs(s.attacked[attack].image - s.clean.image))) for s in report.samples)
    return max(1.0, round(0.5 / largest, 1 if largest > 0.05 else 0)) if largest > 0 else 1.0


def difference(sample: Sample, attack: str, gain: float) -> np.ndarray:
    """The signed difference around mid grey, magnified."""
    return to_rgb(0.5 + gain * (sample.attacked[attack].image - sample.clean.image))


def png_uri(rgb: np.ndarray) -> str:
    """A data URI; pixels are kept as they are, the page scales them."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, format="PNG", optimize=True)
    return data_uri(out.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    """Bytes inlined in a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
