"""Experiments: configurations as values, runs that resume, and what stands behind each table."""

import functools
from collections.abc import Callable

from jaxrobust.experiments import digits_demo, face_table, srt_mnist, tables
from jaxrobust.experiments.codec import dumps, from_json, loads, to_json
from jaxrobust.experiments.experiment import BatchForm, DataConfig, Experiment, standard_teacher
from jaxrobust.experiments.export import Export, export_run, load_export
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.experiments.face_report import write_face_report
from jaxrobust.experiments.functions import embedding_fn, logits_fn
from jaxrobust.experiments.judge import evaluate_run, evaluate_stored, test_set
from jaxrobust.experiments.judge_faces import (
    FaceReport,
    asked,
    embed_fn,
    evaluate_faces,
    mean_image,
    training_mean,
)
from jaxrobust.experiments.overrides import apply_overrides
from jaxrobust.experiments.predict import Prediction, predict
from jaxrobust.experiments.registry import EXPERIMENTS, FAMILIES, get, summary
from jaxrobust.experiments.run import Run, is_finished, load_run, train
from jaxrobust.experiments.run_seeds import train_seeds

REPRODUCTIONS: dict[str, Callable[..., None]] = {
    "digits_demo": digits_demo.reproduce,
    "srt_mnist": srt_mnist.reproduce,
    "face-arms": face_table.reproduce,
    **{name: functools.partial(tables.reproduce, name) for name in tables.SPECS},
}

__all__ = [
    "EXPERIMENTS",
    "FAMILIES",
    "REPRODUCTIONS",
    "BatchForm",
    "DataConfig",
    "Experiment",
    "Export",
    "FaceData",
    "FaceReport",
    "Prediction",
    "Run",
    "apply_overrides",
    "asked",
    "dumps",
    "embed_fn",
    "embedding_fn",
    "evaluate_faces",
    "evaluate_run",
    "evaluate_stored",
    "export_run",
    "from_json",
    "get",
    "is_finished",
    "load_export",
    "load_run",
    "loads",
    "logits_fn",
    "mean_image",
    "predict",
    "standard_teacher",
    "summary",
    "test_set",
    "to_json",
    "train",
    "train_seeds",
    "training_mean",
    "write_face_report",
]
