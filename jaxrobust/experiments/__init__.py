"""Experiments: configurations as values, runs that resume, and what stands behind each table."""

from jaxrobust.experiments.codec import dumps, from_json, loads, to_json
from jaxrobust.experiments.experiment import BatchForm, DataConfig, Experiment
from jaxrobust.experiments.overrides import apply_overrides
from jaxrobust.experiments.registry import EXPERIMENTS, FAMILIES, get, summary
