"""Preparing a set with tensorflow-datasets: the one place that needs TensorFlow, and the network."""

import importlib.util
import logging
from pathlib import Path

from jaxrobust.data.prepared import find_prepared, resolve_data_dir

_LOG = logging.getLogger(__name__)
_NEEDED = ("tensorflow", "importlib_resources")


def prepare(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Downloads a set and writes it in the form that `load` reads without TensorFlow.

    Args:
        name: `name[/config][:version]` of tensorflow-datasets.
        data_dir: where to; None reads TFDS_DATA_DIR.

    Returns:
        The folder of the prepared set. One that is there already is left as it is.

    Raises:
        ValueError: for a name that tensorflow-datasets does not know, a source that needs no preparing, a
            missing extra, or a failed download.
    """
    scheme = name.partition(":")[0]
    if scheme in ("folder", "npz") or name in ("digits", "orl"):
        raise ValueError(f"{name!r} needs no preparing; it is loaded as it is.")
    folder = resolve_data_dir(data_dir)
    try:
        return find_prepared(name, folder)
    except ValueError as missing:
        _LOG.debug("%s", missing)
    absent = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if absent:
        raise ValueError(
            f"Preparing {name!r} needs {' and '.join(absent)}: pip install 'jaxrobust[prepare]' "
            "(only for preparing; the prepared folder can be copied to machines without it)."
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"tensorflow-datasets knows no set {name!r}: {error}") from error
    # The builders download, parse and write: what they raise has no common type.
    except Exception as error:
        raise ValueError(f"{name!r} could not be prepared in {folder}: {error}") from error
    return find_prepared(name, folder)
