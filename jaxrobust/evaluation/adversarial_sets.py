"""Adversarial images in a file, and what any model makes of them.

One .npz: `labels` int32 `[n]`, `index` int32 `[n]` (rows of the set they come from), `clean` float32
`[n, h, w, c]`, and per attack i `images/i` float32, `images_8bit/i` uint8 and `correct/i` bool (whether the
model it was made for has it right, or it lies outside its radius); `about` is JSON text: names, exact radii
and configurations of the attacks, seed, model, data set and its fingerprint. Floats, because image files
would round away what an attack found.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.evaluation import _engine, _tally
from jaxrobust.evaluation._tally import Outcome
from jaxrobust.evaluation._types import CLEAN, Report
from jaxrobust.models import Precision, computes_in, in_precision, with_precision
from jaxrobust.types import RADIUS_TOLERANCE, Model, PyTree

FORMAT = "jaxrobust adversarial images 1"
FILE = "adversarial.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredAttack:
    """The images of one attack.

    Attributes:
        name: as its row printed it.
        images: float32 `[n, h, w, c]`; the clean image where it was not attacked.
        images_8bit: uint8 `[n, h, w, c]`, what an image file would keep.
        correct: bool `[n]`: the model it was made for has it right, or it lies outside the radius.
        about: `radius`, `eps`, `config`, `norm`, `minimum_norm` as in the row.
    """

    name: str
    images: np.ndarray
    images_8bit: np.ndarray
    correct: np.ndarray
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdversarialSet:
    """Adversarial images with the clean ones they were made from.

    Attributes:
        clean: float32 `[n, h, w, c]`. labels: int32 `[n]`. index: int32 `[n]`, rows of the set.
        attacks: in the order of the report's rows.
        about: `model`, `dataset`, `fingerprint`, `seed`, `class_names`.
    """

    clean: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    attacks: tuple[StoredAttack, ...]
    about: Mapping[str, Any]

    def first(self, num: int) -> "AdversarialSet":
        """The first so many images."""
        attacks = tuple(
            StoredAttack(
                name=one.name,
                images=one.images[:num],
                images_8bit=one.images_8bit[:num],
                correct=one.correct[:num],
                about=one.about,
            )
            for one in self.attacks
        )
        return AdversarialSet(
            clean=self.clean[:num],
            labels=self.labels[:num],
            index=self.index[:num],
            attacks=attacks,
            about=self.about,
        )


def save_adversarial(report: Report, path: Path | str, images: Any) -> Path:
    """Writes the adversarial images of a report.

    Args:
        report: from `robust.evaluate(..., keep_images=True)`.
        path: an .npz file, or a folder, which gets `adversarial.npz`; made if need be.
        images: the clean images that were evaluated, as they were given to `evaluate`.

    Returns:
        The file.

    Raises:
        ValueError: a report without images, images of another number or shape, or another kind of file.
    """
    if not report.images:
        raise ValueError("This report has no adversarial images: evaluate with keep_images=True.")
    file = adversarial_file(path)
    n, shape = report.meta["n"], tuple(report.meta["image_shape"])
    if len(images) != n or tuple(np.shape(images[0])) != shape:
        raise ValueError(
            f"Expected the {n} images {shape} that were evaluated, got {len(images)} of "
            f"{np.shape(images[0])}."
        )
    rows = {name: report.row(name) for name in report.images}
    kept = ("radius", "eps", "config", "norm", "minimum_norm", "every_image")
    about = {
        "format": FORMAT,
        **{key: report.meta[key] for key in ("model", "dataset", "fingerprint", "seed", "class_names")},
        "attacks": [{"name": name, **{key: row[key] for key in kept}} for name, row in rows.items()],
    }
    arrays: dict[str, np.ndarray] = {
        "about": np.array(json.dumps(about)),
        "labels": np.asarray(report.flags["label"], np.int32),
        "index": np.arange(n, dtype=np.int32),
        "clean": _engine.gather(images, np.arange(n)),
    }
    for at, (name, found) in enumerate(report.images.items()):
        arrays[f"images/{at}"] = found.astype(np.float32)
        arrays[f"images_8bit/{at}"] = np.round(np.clip(found, 0, 1) * 255).astype(np.uint8)
        arrays[f"correct/{at}"] = report.flags[f"correct/{name}"]
    with file.open("wb") as out:
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return file


def load_adversarial(path: Path | str) -> AdversarialSet:
    """Reads what `save_adversarial` wrote.

    Args:
        path: the file, or the folder it lies in.

    Raises:
        ValueError: where there is no such file, or it is another kind of file or damaged.
    """
    file = _file(path)
    if not file.is_file():
        raise ValueError(
            f"There are no adversarial images at {file}. Save some: --save-adversarial FILE.npz."
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return _decoded(dict(arrays), file)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(
            f"{file} holds no adversarial images of this library, or is damaged. Write it anew: "
            "--save-adversarial FILE.npz."
        ) from error


def adversarial_file(path: Path | str) -> Path:
    """The file that `save_adversarial` writes for a path, its folder made.

    Raises:
        ValueError: for another kind of file, or a place that cannot be written.
    """
    file = _file(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"Cannot write {file}: {error.strerror}. Choose another place.") from None
    return file


def _file(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix and path.suffix != ".npz" and not path.is_dir():
        raise ValueError(f"Expected an .npz file or a folder for adversarial images, got {path}.")
    return path if path.suffix == ".npz" else path / FILE


def _decoded(arrays: Mapping[str, np.ndarray], file: Path) -> AdversarialSet:
    about = json.loads(str(arrays["about"]))
    if about.get("format") != FORMAT:
        raise ValueError(f"{file} has the format {about.get('format')!r}; expected {FORMAT!r}.")
    clean, labels = arrays["clean"], arrays["labels"]
    attacks = tuple(
        StoredAttack(
            name=one["name"],
            images=arrays[f"images/{at}"],
            images_8bit=arrays[f"images_8bit/{at}"],
            correct=arrays[f"correct/{at}"],
            about={key: value for key, value in one.items() if key != "name"},
        )
        for at, one in enumerate(about["attacks"])
    )
    for one in attacks:
        if one.images.shape != clean.shape or one.images_8bit.shape != clean.shape:
            raise ValueError(
                f"{file}: {one.name} has images {one.images.shape}, the clean ones {clean.shape}."
            )
    if labels.shape != clean.shape[:1] or arrays["index"].shape != labels.shape:
        raise ValueError(f"{file}: {len(clean)} images, but labels {labels.shape}.")
    return AdversarialSet(
        clean=clean,
        labels=labels,
        index=arrays["index"],
        attacks=attacks,
        about={key: value for key, value in about.items() if key not in ("format", "attacks")},
    )


@in_precision
def evaluate_adversarial(
    model: Model,
    params: PyTree,
    stats: PyTree,
    stored: AdversarialSet,
    *,
    batch_size: int,
    model_name: str = "model",
    precision: Precision = Precision.FLOAT32,
    num_devices: int | None = None,
) -> Report:
    """What a model makes of stored adversarial images, e.g. those made for another model (transfer).

    Distances are recomputed from the images. A row's accuracy counts an image as right if the model is right
    about the stored one; of an attack in one ball, an image outside its radius counts as the clean one. As
    every row of this kind counts each image on its attacked version, `every_image` is set.
    `source_accuracy` is that of the model the images were made for.

    Args:
        model, params, stats, batch_size, model_name, precision, num_devices: as in `robust.evaluate`.
        stored: from `load_adversarial`.

    Returns:
        A `Report` without samples, verdicts and curves.

    Raises:
        ValueError: images of another shape, labels of classes that the model has not, or another number of
            classes.
    """
    classes = stored.about["class_names"]
    if len(classes) != model.num_classes:
        raise ValueError(
            f"The stored images are of {len(classes)} classes, the model knows {model.num_classes}."
        )
    seed = int(stored.about["seed"])
    model = with_precision(model, precision)
    s = _engine.subject(
        model,
        params,
        stats,
        stored.clean,
        stored.labels,
        batch_size=batch_size,
        seed=seed,
        num_devices=num_devices,
    )
    clean = _engine.predict_set(s)
    right = clean.correct(s.labels)
    rounded = _engine.predict_rows(s, np.arange(s.n), rounded=True).correct(s.labels)
    outcomes = {
        CLEAN: Outcome(
            correct=right,
            correct_8bit=rounded,
            prediction=clean.prediction,
            distance=np.zeros(s.n, np.float32),
            attacked=0,
            nonfinite=int(np.sum(~clean.finite)),
        )
    }
    about = {CLEAN: _tally.facts(None, False)}
    for one in stored.attacks:
        about[one.name] = {**about[CLEAN], **one.about, "every_image": True}
        outcomes[one.name] = _outcome(s, one, right, rounded)
    shared = _tally.common(s, model_name, str(stored.about["dataset"]))
    shared["precision"] = computes_in(model, precision)
    rows = [_tally.row(name, out, about[name], right, shared) for name, out in outcomes.items()]
    sources = {one.name: float(one.correct.mean()) for one in stored.attacks}
    rows = [{**row, "source_accuracy": sources.get(row["attack"])} for row in rows]
    rows.append({**dict.fromkeys(rows[0]), **_tally.worst_row(outcomes, about, right, shared)})
    meta = {
        **shared,
        "fingerprint": stored.about["fingerprint"],
        "class_names": list(classes),
        "image_shape": list(model.image_shape),
        "num_classes": model.num_classes,
        "radius": {one.name: one.about["radius"] for one in stored.attacks},
        "source": stored.about["model"],
    }
    return Report(rows=tuple(rows), flags=_tally.flags(s, outcomes), meta=meta)


def _outcome(s: _engine.Subject, one: StoredAttack, right: np.ndarray, rounded: np.ndarray) -> Outcome:
    """The model's answers to one attack's images."""
    _engine.check_images(one.images, s.model.image_shape)
    seen = _engine.predict(s, one.images.astype(np.float32))
    seen_8bit = _engine.predict(s, _engine.gather(one.images_8bit, np.arange(s.n)))
    length = _lengths(s, one)
    distance = np.full(s.n, np.nan, np.float32) if length is None else length / np.float32(_eps(one))
    inside = ~(distance > 1 + RADIUS_TOLERANCE)
    correct = np.where(inside, seen.correct(s.labels), right)
    found = None
    if length is not None and one.about["minimum_norm"]:
        found = np.where(seen.correct(s.labels), np.inf, length).astype(np.float32)
    return Outcome(
        correct=correct,
        correct_8bit=np.where(inside, seen_8bit.correct(s.labels), rounded),
        prediction=seen.prediction,
        distance=distance,
        length=found,
        attacked=s.n,
        nonfinite=int(np.sum(~seen.finite)),
        low=float(one.images.min()),
        high=float(one.images.max()),
    )


def _eps(one: StoredAttack) -> float:
    return float(one.about["eps"][0]["eps"])


def _lengths(s: _engine.Subject, one: StoredAttack) -> np.ndarray | None:
    """||x' - x|| by row, in the norm of the attack's ball; None for geometry and composites."""
    norm = one.about["norm"]
    if norm is None or "eps" not in one.about["eps"][0]:
        return None
    delta = np.abs(one.images.astype(np.float64) - _engine.gather(s.images, np.arange(s.n)))
    if norm == 0:
        # Of pixels unless the ball counts features; 0 where nothing at all changed.
        changed = delta != 0 if one.about["eps"][0].get("features") else (delta != 0).any(axis=-1)
        return changed.reshape(s.n, -1).sum(axis=-1).astype(np.float32)
    return np.linalg.norm(delta.reshape(s.n, -1), float(norm), axis=-1).astype(np.float32)
