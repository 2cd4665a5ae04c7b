"""What a run says about an image file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import data
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.experiments.run import Run
from jaxrobust.numerics.compile import jit


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about one image.

    Attributes:
        path: the file.
        label: the class C(x) = argmax f(x).
        distribution: f(x) by class, sums to 1.
    """

    path: str
    label: str
    distribution: dict[str, float]


def predict(run: Run, paths: Sequence[str | os.PathLike], *, resize: bool = False) -> list[Prediction]:
    """Class and distribution of image files.

    Args:
        run: from `load_run`.
        paths: image files; grey and colour are converted to what the model takes, transparent ones refused.
        resize: to what the model takes; otherwise images must be of that size.

    Raises:
        ValueError: for a run of faces, and naming the file that is missing, no image, or of another size.
    """
    if isinstance(run.experiment.data, FaceData):
        raise ValueError(
            f"{run.folder} compares faces: its classes are the people it was trained on, who are nobody's "
            f"answer. Compare two images or look for one in a gallery: jaxrobust serve {run.folder}."
        )
    height, width, channels = run.model.image_shape
    size = (height, width) if resize else None
    images = []
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"There is no image {path}.")
        image = data.decode_image(path, str(path), size, channels)
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, the model takes {width}x{height}; "
                "resize it (--resize)."
            )
        images.append(image)

    @jit
    def probabilities(params: Any, stats: Any, pixels: jax.Array) -> jax.Array:
        logits = run.model.apply(params, stats, data.to_float(pixels), train=False)[0].logits
        return jax.nn.softmax(logits, axis=-1)

    # One image at a time: any number of files compiles once.
    rows = [np.asarray(probabilities(run.params, run.stats, image[None])[0]) for image in images]
    return [
        Prediction(
            path=str(path),
            label=run.class_names[int(row.argmax())],
            distribution={name: float(p) for name, p in zip(run.class_names, row)},
        )
        for path, row in zip(paths, rows)
    ]
