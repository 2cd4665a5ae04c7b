"""Our side: each case as one compiled program on data that lie on the device."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._gpu.cases import EPS, SEARCH, STEP_SIZE, TRAINING, Case, Net
from jaxrobust.attacks import APGD, PGD, GridSearch
from jaxrobust.models import build, with_precision
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.numerics import compile as compiler
from jaxrobust.objectives import AT, SRT
from jaxrobust.training import OptimizerConfig, make_train_step
from jaxrobust.training.state import TrainState
from jaxrobust.types import Attack, Batch, Example, Model, Objective, PyTree

# Small, so that thousands of steps on random labels stay finite.
LEARNING_RATE = 1e-3
GRID_CHUNK = 25


class Data(NamedTuple):
    """float32 images `[n, h, w, c]` in [0, 1] and int32 labels `[n]`."""

    images: np.ndarray
    labels: np.ndarray


class Program(NamedTuple):
    """`run(n)` makes n calls, one after the other on the device, and waits for the last.

    `memory`: bytes of its arguments, results and intermediate values by the compiler's count, None where it
    does not say. `finite()`: whether what it computed last is.
    """

    run: Callable[[int], None]
    trace_seconds: float
    compile_seconds: float
    memory: dict[str, int] | None
    finite: Callable[[], bool]


def read_images(path: Path) -> Data:
    """`images` `[n, h, w, c]`, uint8 or float in [0, 1], and `labels` `[n]` of an .npz file."""
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if images.ndim != 4 or (images.dtype != np.uint8 and not 0 <= images.min() <= images.max() <= 1):
        raise ValueError(f"Expected images [n, h, w, c], uint8 or in [0, 1], in {path}; got {images.shape}.")
    images = images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)
    return Data(images, labels.astype(np.int32))


def data_for(net: Net, given: Data | None, seed: int = 0) -> Data:
    """The first images of a file that fits the net, as often as the batch needs them; else random ones."""
    if given is None or given.images.shape[1:] != net.image_shape:
        rng = np.random.default_rng(seed)
        images = rng.random((net.batch, *net.image_shape), np.float32)
        return Data(images, rng.integers(0, 10, net.batch).astype(np.int32))
    rows = np.arange(net.batch) % len(given.images)
    return Data(given.images[rows], given.labels[rows])


def attack_of(case: Case) -> Attack:
    """The attack of a case, as training and evaluation have it."""
    ball = LInf(eps=EPS)
    if case.work == "apgd":
        return APGD(neighbourhood=LInf(eps=0.3), steps=case.steps)
    if case.work == "grid775":
        granularity = (5, 5, 31) if case.steps == 775 else (1, 1, case.steps)
        moves = RotationTranslation(max_angle=30.0, max_shift=3.0)
        return GridSearch(neighbourhood=moves, granularity=granularity, chunk=min(GRID_CHUNK, case.steps))
    return PGD(neighbourhood=ball, steps=case.steps, step_size=STEP_SIZE / EPS, keep_worst=False)


def objective_of(case: Case) -> Objective:
    """The defence of a case."""
    return AT(attack=attack_of(case)) if case.work == "at" else SRT(attack=attack_of(case))


def prepare(case: Case, net: Net, weights: tuple[PyTree, PyTree], data: Data) -> Program:
    """Compiles a case, ahead of time, and puts its data on the device."""
    model = with_precision(build(net.module, net.image_shape), case.precision)
    with case.precision.context():
        if case.work in TRAINING:
            return _training(case, model, weights, data)
        return _attack(case, model, weights, data)


def _compiled(fn: Callable, arguments: tuple[Any, ...], **options: Any) -> tuple[Any, float, float]:
    start = time.perf_counter()
    lowered = compiler.jit(fn, **options).lower(*arguments)
    traced = time.perf_counter()
    return lowered.compile(), traced - start, time.perf_counter() - traced


def _memory(compiled: Any) -> dict[str, int] | None:
    found = compiled.memory_analysis()
    if found is None:
        return None
    names = ("argument", "output", "temp", "alias")
    return {name: int(getattr(found, f"{name}_size_in_bytes")) for name in names}


def _training(case: Case, model: Model, weights: tuple[PyTree, PyTree], data: Data) -> Program:
    """A whole step: keys, attack, gradients, optimizer; the state is donated and stays on the device."""
    optimizer = OptimizerConfig(learning_rate=LEARNING_RATE, momentum=0.9, weight_decay=5e-4).build(1)
    step = make_train_step(model, objective_of(case), optimizer, num_steps=1_000_000)
    # Copies: the step is given these buffers, and the weights serve the next case too.
    params, stats = jax.tree.map(jnp.array, weights)
    state = TrainState(
        step=jnp.int32(0), params=params, stats=stats, opt_state=optimizer.init(params), obj_state=(), ema=()
    )
    labelled = case.labelled
    batch = jax.device_put(
        Batch(data.images[:labelled], data.labels[:labelled], data.images[labelled:]), jax.devices()[0]
    )
    key = jax.random.key(0)
    compiled, traced, seconds = _compiled(step, (state, batch, key), donate_argnums=0)
    held = {"state": state, "metrics": {}}

    def run(calls: int) -> None:
        for _ in range(calls):
            held["state"], held["metrics"] = compiled(held["state"], batch, key)
        jax.block_until_ready((held["state"], held["metrics"]))

    def finite() -> bool:
        return all(np.isfinite(value) for value in jax.device_get(held["metrics"]).values())

    return Program(run, traced, seconds, _memory(compiled), finite)


def _attack(case: Case, model: Model, weights: tuple[PyTree, PyTree], data: Data) -> Program:
    """Attacked images of one batch."""
    attack = attack_of(case)

    def attacked(params: PyTree, stats: PyTree, keys: Any, example: Example) -> Any:
        return attack(keys, lambda x, _: model.apply(params, stats, x, train=False)[0].logits, example).image

    params, stats = jax.device_put(weights)
    example = jax.device_put(Example(image=data.images, target=data.labels), jax.devices()[0])
    arguments = (params, stats, jax.random.split(jax.random.key(0), case.batch), example)
    compiled, traced, seconds = _compiled(attacked, arguments)
    held: dict[str, Any] = {}

    def run(calls: int) -> None:
        for _ in range(calls):
            held["image"] = compiled(*arguments)
        jax.block_until_ready(held["image"])

    def finite() -> bool:
        image = np.asarray(held["image"])
        moved = float(np.abs(image - data.images).max())
        inside = case.work in SEARCH or moved <= EPS + 1e-6
        return bool(np.isfinite(image).all()) and inside

    return Program(run, traced, seconds, _memory(compiled), finite)
