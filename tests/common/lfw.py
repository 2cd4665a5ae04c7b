"""ORL written out as LFW is: `Name/Name_0001.jpg` and lists of pairs in both forms, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxrobust.data import load_identities


def name_of(person: int) -> str:
    """In LFW's way of writing names; sorted as the numbers are."""
    return f"Subject_{person:02d}"


def write_orl(root: Path, size: tuple[int, int]) -> Path:
    """The folder of images, JPEG; the pixels are nearly those of `load_identities("orl", size=size)`."""
    faces = load_identities("orl", size=size)
    for image, person, file in zip(faces.images, faces.identity, faces.files, strict=True):
        number = int(Path(file).stem)
        path = root / name_of(person) / f"{name_of(person)}_{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path, quality=95)
    (root / "Subject_00" / "README").write_text("no image")
    return root


def write_pairs(path: Path, num_folds: int = 10, each: int = 30, header: str | None = None) -> Path:
    """View 2: people are divided over the folds, `each` matched and mismatched pairs in each."""
    rng, lines = np.random.default_rng(0), [header or f"{num_folds}\t{each}"]
    for people in np.array_split(np.arange(40), num_folds):
        mates = [(p, i, p, j) for p in people for i in range(1, 11) for j in range(i + 1, 11)]
        others = [
            (p, i, q, j) for p in people for q in people if p < q for i in range(1, 11) for j in range(1, 11)
        ]
        for rows, width in ((mates, 3), (others, 4)):
            for at in rng.choice(len(rows), each, replace=False):
                p, i, q, j = rows[at]
                fields = [name_of(p), i, j] if width == 3 else [name_of(p), i, name_of(q), j]
                lines.append("\t".join(map(str, fields)))
    path.write_text("\n".join(lines) + "\n")
    return path
