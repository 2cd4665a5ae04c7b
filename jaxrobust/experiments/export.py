"""A defended model as a folder to release: its program, its weights, and a card that says what it is worth.

    model.stablehlo    images -> logits, read by `jax.export.deserialize` without this library
    checkpoint/        the weights as flax variables, read by `orbax.checkpoint.StandardCheckpointer`
    model_card.json    data, training, accuracy under attack, limits, and the SHA-256 of the other files
    model_card.md      the same on a page

The card is written last: a folder without one is not complete.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust.experiments import _card, _card_page, _program
from jaxrobust.experiments._files import write_text
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.experiments.judge import evaluate_run
from jaxrobust.experiments.run import Run
from jaxrobust.models import Precision
from jaxrobust.numerics.compile import jit
from jaxrobust.types import Array

PROGRAM, CHECKPOINT, CARD, PAGE = "model.stablehlo", "checkpoint", "model_card.json", "model_card.md"
# Of the largest logit: what rounding in another order of sums makes.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """An exported model, as `load_export` reads it.

    Attributes:
        folder: where it lies.
        logits_fn: `images [b, h, w, c]`, float32 in [0, 1], to logits `[b, k]`, for any b >= 1; compiled once
            for each b. With gradients unless it was exported without, so that `jaxrobust.attack` takes it.
        class_names: one per class.
        image_shape: `(h, w, c)`.
        card: `model_card.json`.
    """

    folder: Path
    logits_fn: Callable[[Array], Array]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    card: Mapping[str, Any]


def export_run(
    run: Run,
    out_dir: str | os.PathLike,
    *,
    evaluate: bool = True,
    attacks: Sequence[str] | None = None,
    num: int | None = None,
    data_dir: str | os.PathLike | None = None,
    batch_size: int = 250,
    seed: int = 0,
    report: str | os.PathLike | None = None,
    gradients: bool = True,
    force: bool = False,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Export:
    """Writes a run's weights, its program and its card into a folder.

    The program is for CPU, CUDA and TPU, holds the weights, and takes any number of images. What it computes
    is compared with the run's own model before anything is written.

    Args:
        run: from `load_run` or `train`; it need not be finished, the card says of which step it is.
        out_dir: made if absent; one with files is refused.
        evaluate: measure accuracy for the card, as `evaluate_run` does, with products in full float32, as the
            program makes them.
        attacks, num, data_dir, batch_size, seed: of that evaluation; attacks None for the experiment's own,
            num None for all test images. `data_dir` also serves to count unlabelled images.
        report: take accuracy from what an earlier `jaxrobust evaluate` wrote instead: its `report.json`, or
            the folder.
        gradients: with the gradient with respect to the images, which attacks need; it doubles the file.
        force: replace an export, or write beside other files.
        log_fn: receives a line where class names differ.

    Returns:
        The `Export`, read back.

    Raises:
        ValueError: for a run of faces, a folder that is in use, a random model, a report of another model or
            checkpoint, or as in `evaluate_run`.
    """
    folder = Path(out_dir).absolute()
    _check(run, folder, force)
    if (report is not None or not evaluate) and (attacks is not None or num is not None):
        given = "attacks" if attacks is not None else "num"
        why = "A report has its own" if report is not None else "Without evaluation there are no"
        raise ValueError(f"{why} {given}; leave {given} out, or evaluate.")
    found = None if report is None else _card.reported(run, report)
    program = _program.serialised(run.model, run.params, run.stats, gradients=gradients)
    exported = _program.read(program)
    difference = _compare(run, exported.call)
    if report is None and evaluate:
        measured = evaluate_run(
            run,
            attacks=attacks,
            num=num,
            data_dir=data_dir,
            batch_size=batch_size,
            seed=seed,
            precision=Precision.HIGHEST,
            log_fn=log_fn,
        )
        found = _card.measured(run, measured)
    facts = {**_program.facts(exported), "largest_difference_from_run": difference}
    card = _card.card(run, program=facts, evaluation=found, data_dir=data_dir)
    _write(folder, program, run, card)
    return load_export(folder)


def _check(run: Run, folder: Path, force: bool) -> None:
    """Refuses what cannot be exported, before anything is compiled."""
    if isinstance(run.experiment.data, FaceData):
        raise ValueError(
            f"{run.folder} compares faces; an export is a program images -> logits of a classifier, whose "
            "card names its classes, here the people it was trained on. Serve the run: jaxrobust serve "
            f"{run.folder}."
        )
    if run.model.random:
        raise ValueError(
            "Expected a model that draws nothing in eval mode, got one with random=True: its logits depend "
            "on keys, which a program images -> logits does not take. Export the net inside the defence, or "
            "fix its keys and say so (models.from_callable)."
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the export a folder.")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Export into another folder, or replace it (--force).")


def _compare(run: Run, logits_fn: Callable[[Array], Array]) -> float:
    """How far the program is from the run on random images, relative to the largest logit."""
    images = np.random.default_rng(0).uniform(size=(2, *run.model.image_shape)).astype(np.float32)
    with Precision.HIGHEST.context():
        difference = _program.largest_difference(jit(run.logits_fn), jit(logits_fn), jnp.asarray(images))
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"The exported program differs from the run's model by {difference:.2g}.")
    return difference


def _write(folder: Path, program: bytes, run: Run, card: dict[str, Any]) -> None:
    """The files, the card last; an export that lay there before is gone first."""
    for name in (CARD, PAGE, PROGRAM):
        (folder / name).unlink(missing_ok=True)
    if (folder / CHECKPOINT).is_dir():
        shutil.rmtree(folder / CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program)
    variables = {"params": run.params, **({"batch_stats": run.stats} if run.stats else {})}
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / CHECKPOINT, jax.tree.map(np.asarray, variables))
    # orbax marks a complete checkpoint by a file that says where it was written; that it exists is enough.
    if (mark := folder / CHECKPOINT / "commit_success.txt").is_file():
        mark.write_text("Checkpoint commit was successful.", encoding="utf-8")
    card["files"] = {name: digest for name in _names(folder) if (digest := _sha256(folder / name))}
    write_text(folder / PAGE, _card_page.page(card))
    card["files"][PAGE] = _sha256(folder / PAGE)
    write_text(folder / CARD, json.dumps(card, indent=1, allow_nan=False) + "\n")


def _names(folder: Path) -> list[str]:
    """The program, and every file of the checkpoint."""
    files = sorted(path for path in (folder / CHECKPOINT).rglob("*") if path.is_file())
    return [PROGRAM, *(path.relative_to(folder).as_posix() for path in files)]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_export(folder: str | os.PathLike) -> Export:
    """Reads an exported model, after the hashes of all its files.

    Args:
        folder: that of `export_run`.

    Raises:
        ValueError: where there is no export, a file is missing, is not what was exported, or cannot be read
            by this version of JAX.
    """
    folder = Path(folder)
    card = _read_card(folder)
    for name, digest in card["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing; the card names it. Copy the whole folder, or export again.")
        if _sha256(file) != digest:
            raise ValueError(
                f"{file} is not what was exported: its SHA-256 is not the card's. Copy the folder again, or "
                "export again."
            )
    try:
        exported = _program.read((folder / PROGRAM).read_bytes())
    except ValueError as error:
        wrote = card["versions"].get("jax", "another version")
        raise ValueError(
            f"{folder / PROGRAM} was written by JAX {wrote}: {error} {card['program'].get('readable', '')}"
        ) from error
    return Export(
        folder=folder,
        logits_fn=jit(functools.partial(_call, exported)),
        class_names=tuple(card["data"]["class_names"]),
        image_shape=tuple(card["data"]["image_shape"]),
        card=card,
    )


def _call(exported: Any, images: Array) -> Array:
    return exported.call(images)


def _read_card(folder: Path) -> dict[str, Any]:
    """The card, if it is one of ours."""
    file = folder / CARD
    if not file.is_file():
        what = f"{folder} has no {CARD}" if folder.is_dir() else f"There is no folder {folder}"
        raise ValueError(f"{what}. Give the folder that `jaxrobust export` wrote.")
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        if card["format"] != _card.FORMAT:
            raise ValueError(f"its format is {card['format']!r}")
        names, shape = card["data"]["class_names"], card["data"]["image_shape"]
        whole = bool(names) and len(shape) == 3 and {"program", "versions"} <= card.keys()
        # A card from elsewhere must not lead to files from elsewhere.
        inside = all(_is_inside(name) for name in card["files"]) and PROGRAM in card["files"]
        if not (whole and inside):
            raise ValueError("its fields are not those of a card")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no card of `jaxrobust export`: {error}.") from error
    return card


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
