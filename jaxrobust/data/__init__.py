"""Data: every source as uint8 arrays, the semi-supervised split, and the feeds that compose batches.

`load` takes a name (`digits`, `orl`, or one of tensorflow-datasets), `folder:PATH` or `npz:PATH`;
`load_identities` reads sets of people for verification, which are divided by people and not by images.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrobust.data._decode import decode as decode_image
from jaxrobust.data._sets import Dataset, Images, ImageSet, LazyImages
from jaxrobust.data.augment import Augment
from jaxrobust.data.composition import BatchSizes, compose_batch
from jaxrobust.data.digits import load_digits
from jaxrobust.data.export import export_npz
from jaxrobust.data.feed import Cursor, Feed, ResidentFeed, to_float
from jaxrobust.data.folder import load_folder
from jaxrobust.data.identities import (
    Identities,
    IdentityFold,
    identity_folds,
    join_identities,
    load_identities,
)
from jaxrobust.data.info import info
from jaxrobust.data.lfw_pairs import read_lfw_pairs
from jaxrobust.data.npz import load_npz
from jaxrobust.data.orl import load_orl
from jaxrobust.data.pairs import Pairs, fold_pairs, join_pairs, make_pairs
from jaxrobust.data.prepare import prepare
from jaxrobust.data.prepared import load_prepared
from jaxrobust.data.shuffle import shuffled_index
from jaxrobust.data.split import SELECTIONS, Split, split
from jaxrobust.data.stream import StreamFeed, make_feed

DATASETS: Mapping[str, Callable[..., Dataset]] = {"digits": load_digits, "orl": load_orl}
"""The embedded sets; any other name is one of tensorflow-datasets."""

SCHEMES: Mapping[str, Callable[..., Dataset]] = {"folder": load_folder, "npz": load_npz}
"""Sets at a path: `folder:PATH`, `npz:PATH`."""


def load(name: str, *, data_dir: str | Path | None = None, seed: int = 0, **options: Any) -> Dataset:
    """Loads a data set from wherever its name says.

    Args:
        name: `digits` or `orl` (embedded), `folder:PATH`, `npz:PATH`, or a prepared set of
            tensorflow-datasets as `name[/config][:version]`.
        data_dir: the folder of tensorflow-datasets; None reads TFDS_DATA_DIR. Other sources do not look at
            it.
        seed: draws the test images of sets that come without a test split; keep it fixed over the runs to
            compare.
        **options: `size` (pixels, or (height, width)) and `channels` (1 or 3) for every source;
            `test_fraction` for those without a test split; `max_resident_bytes` for those that can be read on
            demand.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: for a set that is not there or not sound, naming the file or the command that prepares it.

    Example:
        >>> digits = load("digits")
        >>> digits.train.images.shape[1:], digits.num_classes
        ((8, 8, 1), 10)
    """
    scheme, colon, path = name.partition(":")
    load_fn: Callable[..., Dataset]
    arguments: tuple[str, ...]
    given: dict[str, Any]
    if name in DATASETS:
        load_fn, arguments, given = DATASETS[name], (), {"seed": seed}
    elif colon and scheme in SCHEMES:
        if not path:
            raise ValueError(f"Expected a path after {name!r}, as in {scheme}:PATH.")
        load_fn, arguments, given = SCHEMES[scheme], (path,), {"seed": seed}
    else:
        load_fn, arguments, given = load_prepared, (name,), {"seed": seed, "data_dir": data_dir}
    known: Mapping[str, inspect.Parameter] = inspect.signature(load_fn).parameters
    for option in options:
        if option not in known:
            able = sorted(k for k, p in known.items() if p.kind is p.KEYWORD_ONLY and k not in given)
            raise ValueError(f"{name!r} takes no option {option!r}. It takes: {', '.join(able)}.")
    return load_fn(*arguments, **({k: v for k, v in given.items() if k in known} | options))


__all__ = [
    "DATASETS",
    "SCHEMES",
    "SELECTIONS",
    "Augment",
    "BatchSizes",
    "Cursor",
    "Dataset",
    "Feed",
    "Identities",
    "IdentityFold",
    "ImageSet",
    "Images",
    "LazyImages",
    "Pairs",
    "ResidentFeed",
    "Split",
    "StreamFeed",
    "compose_batch",
    "decode_image",
    "export_npz",
    "fold_pairs",
    "identity_folds",
    "info",
    "join_identities",
    "join_pairs",
    "load",
    "load_identities",
    "make_feed",
    "make_pairs",
    "prepare",
    "read_lfw_pairs",
    "shuffled_index",
    "split",
    "to_float",
]
