"""What a set holds, in a form that can be printed or written as JSON."""

from typing import Any

import numpy as np

from jaxrobust.data._sets import Dataset, LazyImages


def info(dataset: Dataset) -> dict[str, Any]:
    """Describes a loaded set.

    Args:
        dataset: from `load`.

    Returns:
        JSON-able values by name: `name`, `fingerprint`, `image_shape` `[h, w, c]`, `num_classes`,
        `class_names`, `num_train`, `num_test`, `train_per_class`, `test_per_class` (in the order of the
        classes), `bytes` (of the decoded images) and `resident` (whether they are in memory or read on
        demand).

    Example:
        >>> from jaxrobust.data import load
        >>> info(load("digits"))["num_train"]
        1438
    """
    parts = {"train": dataset.train, "test": dataset.test}
    counts = {part: np.bincount(data.labels, minlength=dataset.num_classes) for part, data in parts.items()}
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "num_train": len(dataset.train.images),
        "num_test": len(dataset.test.images),
        "train_per_class": [int(n) for n in counts["train"]],
        "test_per_class": [int(n) for n in counts["test"]],
        "bytes": int(sum(data.images.nbytes for data in parts.values())),
        "resident": not any(isinstance(data.images, LazyImages) for data in parts.values()),
    }
