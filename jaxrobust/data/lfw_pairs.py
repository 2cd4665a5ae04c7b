"""Pair lists in the format of Labeled Faces in the Wild (Huang et al., UMass Amherst TR 07-49, 2007).

Two forms. `pairs.txt` of View 2 begins with the number of folds and of pairs of each kind per fold
(`10 300`); `pairsDevTrain.txt` and `pairsDevTest.txt` of View 1 begin with the number of pairs of each kind.
Then come, fold by fold, the matched pairs (`Name 1 4`) and the mismatched ones (`Name 3 Other_Name 2`);
image n of a person is the file `Name/Name_000n.jpg`.
"""

import difflib
from pathlib import Path, PurePosixPath

import numpy as np

from jaxrobust.data.identities import Identities
from jaxrobust.data.pairs import Pairs


def _files(identities: Identities) -> dict[str, int]:
    """The image of every `person/stem`, whatever its file's extension."""
    return {str(PurePosixPath(file).with_suffix("")): i for i, file in enumerate(identities.files)}


def _fields(line: str) -> list[str]:
    """Names hold no tab; in lists that were copied by hand, tabs have become spaces."""
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _header(line: str, where: str) -> tuple[int, int]:
    """(folds, pairs of each kind in a fold)."""
    fields = _fields(line)
    if len(fields) not in (1, 2) or not all(f.isascii() and f.isdigit() and int(f) > 0 for f in fields):
        raise ValueError(
            f"{where}: {line!r} is no header of LFW's pair lists; expected two numbers (folds, pairs of each "
            "kind per fold, as in '10 300') or one (pairs of each kind, as in '500')."
        )
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 else (1, int(fields[0]))


def _image(person: str, number: str, files: dict[str, int], identities: Identities, where: str) -> int:
    """The image of a name and a number, or a ValueError that names the file that is missing."""
    if not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise ValueError(f"{where}: {number!r} is no number of an image; they are counted from 1.")
    stem = f"{person}/{person}_{int(number):04d}"
    if stem in files:
        return files[stem]
    if person not in identities.names:
        near = difflib.get_close_matches(person, identities.names, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{where}: {identities.name} has no folder {person!r}, where {stem}.jpg was expected.{guess} Add "
            "the folder, or take the pair list of this set."
        )
    raise ValueError(
        f"{where}: {identities.name} has no file {stem}.jpg (nor with another extension); add it, or name "
        f"the files as LFW does, {person}_0001.jpg, {person}_0002.jpg, ..."
    )


def _pair(line: str, genuine: bool, files: dict[str, int], people: Identities, where: str) -> tuple[int, int]:
    """The two images of one line."""
    fields = _fields(line)
    if len(fields) != (3 if genuine else 4):
        kind = "matched pair 'NAME i j'" if genuine else "mismatched pair 'NAME i OTHER j'"
        raise ValueError(f"{where}: expected a {kind} here by the header's counts, got {line!r}.")
    names = (fields[0], fields[0]) if genuine else (fields[0], fields[2])
    if not genuine and names[0] == names[1]:
        raise ValueError(f"{where}: both images of the mismatched pair {line!r} are of {names[0]}.")
    numbers = (fields[1], fields[2]) if genuine else (fields[1], fields[3])
    first, second = (_image(n, i, files, people, where) for n, i in zip(names, numbers, strict=True))
    if first == second:
        raise ValueError(f"{where}: {line!r} pairs an image with itself, which any model matches.")
    return first, second


def read_lfw_pairs(path: str | Path, identities: Identities) -> Pairs:
    """Reads a pair list of LFW, or of any `folder:` whose files are named as LFW's are.

    Args:
        path: `pairs.txt` (View 2, ten folds), or `pairsDevTrain.txt` or `pairsDevTest.txt` (one fold).
            Fields are separated by tabs or, where a line has none, by blanks.
        identities: a `folder:` with `Name/Name_0001.jpg` and so on; other extensions of image files are as
            good.

    Returns:
        The `Pairs` in the order of the file; `fold` counts from 0.

    Raises:
        ValueError: naming the line, and where an image is missing its file and the cure.
    """
    path = Path(path).expanduser()
    if not identities.files:
        raise ValueError(
            f"{identities.name} has no file names or numbers, which LFW's pair lists refer to. Load LFW's "
            "folder of images as folder:PATH."
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a list of pairs: {error}.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: it is empty; expected a header such as '10 300' and the pairs.")
    num_folds, each = _header(lines[0], f"{path}, line 1")
    num_pairs = 2 * num_folds * each
    if len(lines) - 1 != num_pairs:
        raise ValueError(
            f"{path}, line 1: {lines[0]!r} announces {num_folds} x 2 x {each} = {num_pairs:,} pairs, but "
            f"{len(lines) - 1:,} lines follow; the file is cut off, or the header is of another."
        )
    files = _files(identities)
    place = np.arange(num_pairs)
    genuine = place % (2 * each) < each
    found = [
        _pair(line, bool(same), files, identities, f"{path}, line {number}")
        for number, (line, same) in enumerate(zip(lines[1:], genuine, strict=True), start=2)
    ]
    images = np.asarray(found, np.int32).T
    return Pairs(images[0], images[1], genuine, (place // (2 * each)).astype(np.int32))
