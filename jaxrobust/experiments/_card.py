"""The model card of a run as JSON values: what it is, how it was trained, what was measured and what not.

Folders' paths stay out of it: a set at a path goes by its last name. What was not recorded is null.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrobust import data, models
from jaxrobust.evaluation import WORST, Report
from jaxrobust.evaluation import versions as evaluation_versions
from jaxrobust.experiments import _card_words as words
from jaxrobust.experiments import codec
from jaxrobust.experiments.run import CONFIG_FILE, RESULT_FILE, Run, load_data

FORMAT = "jaxrobust model card 1"
REPORT_FILE = "report.json"
# https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees
READABLE = (
    "jax.export promises that the program is read by a jaxlib released up to 6 months after jaxlib {jaxlib}, "
    "which wrote it, or up to 3 weeks before; later ones may read it, without a promise. The weights in "
    "checkpoint/ outlast it."
)
_ROW = (
    "attack", "radius", "accuracy", "accuracy_low", "accuracy_high", "accuracy_8bit", "correct", "n",
    "every_image", "minimum_norm", "norm", "norm_median", "targeted_success", "broken_by", "over", "eps",
    "config",
)  # fmt: skip


def card(
    run: Run,
    *,
    program: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    data_dir: str | os.PathLike | None,
) -> dict[str, Any]:
    """The card without the hashes of its files.

    Args:
        run: what is released.
        program: from `_program.facts`.
        evaluation: from `measured` or `reported`; None where nothing was measured.
        data_dir: where the run's data may lie, to count its unlabelled images.
    """
    experiment = run.experiment
    found = {
        "format": FORMAT,
        "name": run.folder.name,
        "exported": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": {
            "name": public(experiment.data.dataset),
            "fingerprint": run.fingerprint or None,
            "class_names": list(run.class_names),
            "image_shape": list(run.model.image_shape),
            "value_range": [0.0, 1.0],
        },
        "split": _split(run, data_dir),
        "objective": _objective(run),
        "training": _training(run),
        "model": {"config": codec.to_json(experiment.model), "parameters": models.num_params(run.model)},
        "program": {**program, "readable": READABLE.format(jaxlib=versions()["jaxlib"])},
        "threat_model": {
            "radii": words.radii(experiment.threat),
            "config": codec.to_json(experiment.threat),
        },
        "evaluation": evaluation,
        "note": experiment.note,
        "versions": versions(),
        "provenance": _provenance(run),
        "experiment": _public(codec.to_json(experiment)),
    }
    return {**found, "intended_use": words.intended_use(found), "limits": words.limits(found)}


def public(name: str) -> str:
    """The name of a set without the path to it.

    >>> public("npz:/home/me/faces.npz"), public("mnist")
    ('npz:faces.npz', 'mnist')
    """
    scheme, colon, path = name.partition(":")
    return f"{scheme}:{Path(path).name}" if colon and scheme in data.SCHEMES else name


def versions() -> dict[str, str]:
    """Of what exports; what trained is not recorded."""
    more = {name: importlib.metadata.version(name) for name in ("optax", "orbax-checkpoint")}
    return {**evaluation_versions(), **more}


def measured(run: Run, report: Report) -> dict[str, Any]:
    """The section `evaluation` of a report."""
    verdicts = [dataclasses.asdict(verdict) for verdict in report.verdicts]
    found = _evaluation(run, report.meta, report.rows, verdicts, report.certificate)
    # `evaluate_run` refuses a set that is no longer what the run was trained on.
    return {**found, "own_data": True}


def reported(run: Run, path: str | os.PathLike) -> dict[str, Any]:
    """The section `evaluation` of what `jaxrobust evaluate` wrote.

    Args:
        run: the run that the report must be of, at the checkpoint that is exported.
        path: a `report.json`, or its folder.

    Raises:
        ValueError: for a file that is no report, or one of another model, checkpoint or of stored images.
    """
    path = Path(path)
    file = path / REPORT_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"There is no report {file}. Write one: jaxrobust evaluate {run.folder}.")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        step = stored["facts"].get("checkpoint")
        found = {one["meta"]["model"]: one for one in stored["models"]}
        named = ", ".join(map(repr, found))
        one = found.get(run.folder.name)
        parts = () if one is None else (one["meta"], one["rows"], one["verdicts"], one.get("certificate"))
        [row["accuracy_low"] for row in (parts[1] if parts else ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no report: `jaxrobust evaluate` writes one as {REPORT_FILE} ({error!r})."
        ) from error
    again = f"Evaluate this one: jaxrobust evaluate {run.folder}."
    if not parts:
        raise ValueError(f"{file} reports on {named}, not on {run.folder.name!r}. {again}")
    if step != f"step {run.step}":
        raise ValueError(f"{file} measured {step or 'no named checkpoint'}, not step {run.step}. {again}")
    if parts[0].get("source"):
        raise ValueError(f"{file} measured stored images of {parts[0]['source']!r}, no attacks. {again}")
    if [parts[0]["image_shape"], parts[0]["num_classes"]] != [
        list(run.model.image_shape),
        run.model.num_classes,
    ]:
        raise ValueError(f"{file} reports on a model of other images or classes. {again}")
    return _evaluation(run, *parts)


def _evaluation(run: Run, meta: Any, rows: Any, verdicts: Any, certificate: Any) -> dict[str, Any]:
    shown = [_finite({name: row.get(name) for name in _ROW}) for row in rows]
    fingerprint = meta.get("fingerprint") or None
    return {
        "dataset": public(str(meta["dataset"])),
        "fingerprint": fingerprint,
        "own_data": fingerprint == run.fingerprint if fingerprint and run.fingerprint else None,
        "n": int(meta["n"]),
        "interval": "Wilson, 95%",
        "attacks": [row for row in shown if row["attack"] != WORST],
        # Of no attack but the clean image there is no worst.
        "worst": next((row for row in shown if row["attack"] == WORST and len(row["over"] or ()) > 1), None),
        "trust": [_finite(dict(verdict)) for verdict in verdicts],
        "certificate": certificate,
        "seed": meta["seed"],
        "precision": meta.get("precision"),
        "hardware": meta["hardware"],
        "versions": meta["versions"],
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _split(run: Run, data_dir: str | os.PathLike | None) -> dict[str, Any]:
    """Who was labelled; the rest of a set that is not at hand is not counted."""
    config, experiment = run.experiment.image_data, run.experiment
    unlabelled = config.num_unlabelled
    if unlabelled is None:
        try:
            found = load_data(experiment, data_dir)
        except (ValueError, OSError):
            found = None
        if found is not None and run.fingerprint in ("", found.fingerprint):
            unlabelled = len(found.train.labels) - config.num_labelled - config.num_validation
    per_step = None
    if unlabelled is not None:
        sizes = experiment.batch_sizes(config.num_labelled, unlabelled)
        per_step = {"labelled": sizes.labelled, "unlabelled": sizes.unlabelled}
    return {
        "labelled": config.num_labelled,
        "unlabelled": unlabelled,
        "validation": config.num_validation,
        "images_per_step": per_step,
        "selection": config.selection,
        "seed": config.seed,
    }


def _objective(run: Run) -> dict[str, Any]:
    objective = run.experiment.objective
    return {
        "name": type(objective).__name__,
        "words": words.defence(objective),
        "neighbourhoods": [
            {"words": words.in_words(one), "config": codec.to_json(one)}
            for one in words.neighbourhoods_in(objective)
        ],
        "config": codec.to_json(objective),
    }


def _training(run: Run) -> dict[str, Any]:
    experiment = run.experiment
    config = _read(run.folder / CONFIG_FILE)
    # The weights it started from, its precision, micro-batches: what the run's folder says besides.
    common = ("experiment", "image_shape", "class_names", "fingerprint")
    return {
        "optimizer": codec.to_json(experiment.optimizer),
        "num_steps": experiment.num_steps,
        "batch_size": experiment.batch_size,
        "batches": experiment.batches.value,
        "teacher": None if experiment.teacher is None else words.taught(experiment.teacher),
        "weights": f"average, decay {experiment.ema_decay:g}" if experiment.ema_decay else "as trained",
        "seed": experiment.seed,
        "checkpoint_step": run.step,
        "validation": dict(run.validation),
        "finished": (run.folder / RESULT_FILE).is_file(),
        "seconds": _read(run.folder / RESULT_FILE).get("seconds"),
        "further": _public({name: value for name, value in config.items() if name not in common}),
    }


def _provenance(run: Run) -> dict[str, Any]:
    """By what the run can be known again, without its folder."""
    text = json.dumps(codec.to_json(run.experiment), sort_keys=True)
    return {
        "run": run.folder.name,
        "experiment_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "exported_on": jax.default_backend(),
    }


def _public(config: Any) -> Any:
    """A configuration whose sets go by their public names, at any depth."""
    if isinstance(config, dict):
        return {
            name: public(value) if name == "dataset" and isinstance(value, str) else _public(value)
            for name, value in config.items()
        }
    return [_public(item) for item in config] if isinstance(config, list) else config


def _read(file: Path) -> dict[str, Any]:
    """A JSON file of the run's folder; what is absent or cut short says nothing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
