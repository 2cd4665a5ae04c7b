"""A run or an export as `serving.Served`: the command's half of `jaxrobust serve`."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import data, experiments, models
from jaxrobust.experiments import _card, codec
from jaxrobust.experiments import _card_words as words
from jaxrobust.experiments.export import CARD, PROGRAM
from jaxrobust.experiments.run import RESULT_FILE
from jaxrobust.neighbourhoods import Compose, Masked
from jaxrobust.serving import Served
from jaxrobust.types import Array, Model, Neighbourhood, Outputs, PyTree

_DIGITS = 12


@dataclass(frozen=True)
class _OfRun:
    """Equal for equal models, so that another checkpoint compiles nothing."""

    model: Model

    def __call__(self, params: PyTree, stats: PyTree, images: Array) -> Outputs:
        return self.model.apply(params, stats, images, train=False)[0]


@dataclass(frozen=True, eq=False)
class _OfExport:
    """Its weights are within the program; another export compiles anew."""

    logits_fn: Callable[[Array], Array]

    def __call__(self, images: Array) -> Outputs:
        return Outputs(self.logits_fn(images))


def load(
    path: Path,
    *,
    which: str = "best",
    stability: str | None = None,
    threshold: float | None = None,
    gallery: Path | None = None,
) -> Served:
    """Reads what `jaxrobust serve` is given; called again to reload.

    Args:
        path: a run, a checkpoint, or the folder of an export.
        which: checkpoint of a run.
        stability: a neighbourhood as in an override; None for the one trained against.
        threshold: cosine, for faces; None for that of the run's verification.
        gallery: folder of people.

    Raises:
        ValueError: for what cannot be read or does not go together.
    """
    own = None if stability is None else _neighbourhood(stability)
    if (path / CARD).is_file():
        if threshold is not None or gallery is not None:
            raise ValueError(f"{path} classifies and verifies no faces; leave --threshold and --gallery out.")
        return _of_export(experiments.load_export(path), own)
    run = experiments.load_run(path, which=which)
    faces = isinstance(run.experiment.data, experiments.FaceData)
    if not faces and (threshold is not None or gallery is not None):
        raise ValueError(
            f"{run.folder} classifies {run.experiment.data.dataset} and verifies no faces; leave --threshold "
            "and --gallery out."
        )
    if run.model.random:
        raise ValueError(f"{run.folder} has a model that draws at random, which is not served.")
    around, text = _sampled(words.neighbourhoods_in(run.experiment.objective) if own is None else [own])
    tau = None
    if faces:
        tau = _threshold(run) if threshold is None else threshold
    margin = getattr(run.experiment.data, "margin", None)
    return Served(
        id=f"{run.folder.name}@{run.step}-{_digest(run)}",
        outputs_fn=jax.tree_util.Partial(_OfRun(run.model), run.params, run.stats),
        image_shape=run.model.image_shape,
        class_names=run.class_names,
        card=_card_of(run, tau),
        margin=margin,
        neighbourhood=around,
        neighbourhood_words=text,
        threshold=tau,
        gallery={} if gallery is None else _gallery(gallery, run.model.image_shape, margin),
    )


def _of_export(export: Any, own: Neighbourhood | None) -> Served:
    card = export.card
    if own is None:
        configs = [one["config"] for one in card["objective"]["neighbourhoods"]]
        found = [codec.from_json(Neighbourhood, config) for config in configs]  # type: ignore[type-abstract]
    else:
        found = [own]
    around, text = _sampled(found)
    return Served(
        id=f"{card['name']}@{card['training']['checkpoint_step']}-{card['files'][PROGRAM][:_DIGITS]}",
        outputs_fn=jax.tree_util.Partial(_OfExport(export.logits_fn)),
        image_shape=export.image_shape,
        class_names=export.class_names,
        card=card,
        neighbourhood=around,
        neighbourhood_words=text,
    )


def _neighbourhood(text: str) -> Neighbourhood:
    """A neighbourhood as it is written in an override."""
    field = "objective.attack.neighbourhood"
    # A bare name would keep the radii of the experiment that it is read with.
    if "(" not in text:
        raise ValueError(f"--stability: expected radii too, as 'linf(eps=0.1)', got {text!r}.")
    try:
        changed: Any = experiments.apply_overrides(experiments.get("digits_at"), [f"{field}={text}"])
    except ValueError as error:
        raise ValueError(f"--stability: {str(error).replace(field, 'the neighbourhood')}") from None
    found = changed.objective.attack.neighbourhood
    if _needs_region(found):
        raise ValueError(
            f"--stability: a masked neighbourhood needs a region, which no upload has, got {text!r}."
        )
    return found


def _sampled(found: Sequence[Any]) -> tuple[Any, str]:
    """One neighbourhood to draw from, and its words; None where there is none, or it needs a region."""
    if not found or any(map(_needs_region, found)):
        return None, ""
    one = found[0] if len(found) == 1 else Compose(parts=tuple(found))
    return one, words.in_words(one)


def _needs_region(one: Any) -> bool:
    return isinstance(one, Masked) or any(map(_needs_region, getattr(one, "parts", ())))


def _threshold(run: experiments.Run) -> float:
    """The cosine that the run's verification found on its validation people."""
    file = run.folder / "verification" / "verification.json"
    cure = f"Measure it: jaxrobust evaluate {run.folder} --task verification; or give it: --threshold COSINE."
    if not file.is_file():
        raise ValueError(f"{run.folder} is a face model without a threshold: there is no {file.name}. {cure}")
    fold = getattr(run.experiment.data, "fold", 0)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        measured = found["facts"]["checkpoint"]
        rows = [row for row in found["clean"]["folds"] if row["fold"] == fold]
        tau = float(rows[0]["platt"]["tau"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{file} has no threshold of fold {fold} ({error!r}). {cure}") from error
    if measured.split(",")[0] != f"step {run.step}":
        raise ValueError(f"{file} measured {measured}, not step {run.step}. {cure}")
    return tau


def _gallery(folder: Path, shape: tuple[int, int, int], margin: Any) -> dict[str, np.ndarray]:
    """Everybody's images, prepared as training's were."""
    height, width, channels = shape
    people = data.load_identities(
        f"folder:{folder}", size=(height, width), channels=channels, margin=margin, min_people=1
    )
    whose = np.asarray(people.identity)
    return {
        name: np.asarray(people.images[np.flatnonzero(whose == one)]) for one, name in enumerate(people.names)
    }


def _digest(run: experiments.Run) -> str:
    """Of the weights, so that two checkpoints of one step are told apart."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((run.params, run.stats)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:_DIGITS]


def _card_of(run: experiments.Run, threshold: float | None) -> Mapping[str, Any]:
    """What there is to say of a run that was not exported: the sections of a model card that it can fill."""
    experiment = run.experiment
    objective = experiment.objective
    try:
        evaluation = _card.reported(run, run.folder / "evaluation")
    except ValueError:
        evaluation = None
    found: dict[str, Any] = {
        "format": "jaxrobust run 1",
        "name": run.folder.name,
        "data": {
            "name": _card.public(experiment.data.dataset),
            "fingerprint": run.fingerprint or None,
            "class_names": list(run.class_names),
            "image_shape": list(run.model.image_shape),
            "value_range": [0.0, 1.0],
        },
        "objective": {
            "name": type(objective).__name__,
            "words": words.defence(objective),
            "neighbourhoods": [
                {"words": words.in_words(one), "config": codec.to_json(one)}
                for one in words.neighbourhoods_in(objective)
            ],
        },
        "training": {
            "num_steps": experiment.num_steps,
            "seed": experiment.seed,
            "checkpoint_step": run.step,
            "validation": dict(run.validation),
            "finished": (run.folder / RESULT_FILE).is_file(),
        },
        "model": {"config": codec.to_json(experiment.model), "parameters": models.num_params(run.model)},
        "threat_model": {"radii": words.radii(experiment.threat)},
        "evaluation": evaluation,
        "note": experiment.note,
    }
    found["limits"] = words.limits(found)
    if threshold is not None:
        found["verification"] = {"threshold": threshold, "similarity": "cosine of embeddings"}
        found["limits"] = [
            *found["limits"][:-1],
            "The threshold is for two images; the more people are enrolled, the more often a stranger is "
            "near one of them.",
        ]
    return _finite(found)


def _finite(value: Any) -> Any:
    """JSON has no NaN: of a run that blew up, null says so."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
