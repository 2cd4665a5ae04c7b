"""Programs of growing size: `python -m benchmarks._speed.growth_worker AXIS`, asked through a pipe."""

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxrobust
from benchmarks._parity.worker import source_digest
from benchmarks._speed.clock import per_call
from benchmarks._speed.protocol import serve
from jaxrobust.attacks import PGD, GridSearch
from jaxrobust.data import BatchSizes, ImageSet, ResidentFeed, Split
from jaxrobust.models import SmallCNN, build
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.objectives import AT
from jaxrobust.training import OptimizerConfig, Runtime, init_state, make_train_step
from jaxrobust.training.loop import make_update

LEAST = 0.5
# With those that the others import by their package's name, which a digest does not follow.
_LIBRARY = {
    "jaxrobust.attacks.frontend",
    "jaxrobust.attacks.pgd",
    "jaxrobust.attacks.grid",
    "jaxrobust.neighbourhoods.lp",
    "jaxrobust.neighbourhoods.spatial",
    "jaxrobust.models.small_cnn",
    "jaxrobust.models._build",
    "jaxrobust.objectives.at",
    "jaxrobust.training.loop",
    "jaxrobust.training.optimizers",
    "jaxrobust.data.feed",
    "jaxrobust.models.remat",
}


class Session:
    """Blocking calls by value; its methods are what a coordinator asks."""

    def __init__(self, axis: str):
        self._axis = axis
        self._calls: dict[int, Callable[[], object]] = {}

    def about(self) -> dict[str, Any]:
        """Versions, and the digest of the code."""
        versions = {name: importlib.metadata.version(name) for name in ("jaxrobust", "jax", "jaxlib")}
        source = f"{source_digest({__spec__.name}, 'benchmarks')}-{source_digest(_LIBRARY)}"
        return {"versions": {"python": platform.python_version(), **versions}, "source": source}

    def prepare(self, value: int, settings: dict[str, Any]) -> None:
        """Makes the program of a value, and calls it once to compile it."""
        make = _training if self._axis == "devices" else _attack
        self._calls[value] = make(self._axis, value, settings)
        self._calls[value]()

    def run(self, value: int, least: float = LEAST) -> dict[str, Any]:
        """Seconds per call."""
        return {"seconds": per_call(self._calls[value], least)[0]}


def _attack(axis: str, value: int, settings: dict[str, Any]) -> Callable[[], object]:
    """An attack through the public API on a net of random weights."""
    batch = value if axis == "batch" else settings["batch"]
    steps = value if axis == "steps" else settings.get("steps", 1)
    side = value if axis == "image" else settings["side"]
    model = build(SmallCNN(), (side, side, 1))
    params, stats = model.init(jax.random.key(0))

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return model.apply(params, stats, images, train=False)[0].logits

    rng = np.random.default_rng(0)
    images = jax.device_put(rng.random((batch, side, side, 1), np.float32))
    labels = jax.device_put(rng.integers(0, 10, batch).astype(np.int32))
    attack: Any = PGD(neighbourhood=LInf(eps=0.3), steps=steps, step_size=0.1, keep_worst=False)
    if axis == "grid":
        shifts = settings["shifts"]
        moves = RotationTranslation(max_angle=30.0, max_shift=3.0)
        attack = GridSearch(neighbourhood=moves, granularity=(shifts, shifts, value))
    model_fn, key = jax.tree_util.Partial(logits, params), jax.random.key(0)
    return lambda: jax.block_until_ready(jaxrobust.attack(attack, model_fn, images, labels, key=key))


def _training(axis: str, value: int, settings: dict[str, Any]) -> Callable[[], object]:
    """The loop's update for adversarial training, divided over all devices of this process."""
    runtime = Runtime()
    assert runtime.device_count == value, f"{runtime.device_count} devices instead of {value}"
    shape = (settings["side"], settings["side"], 1)
    model = build(SmallCNN(), shape)
    attack = PGD(neighbourhood=LInf(eps=0.3), steps=settings["steps"], step_size=0.1, keep_worst=False)
    objective, optimizer = AT(attack=attack), OptimizerConfig().build(1000)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, *shape), np.uint8)
    labels = rng.integers(0, 10, 1024).astype(np.int32)
    split = Split(ImageSet(images, labels), images[:0], ImageSet(images[:0], labels[:0]), {})
    feed = ResidentFeed(split, BatchSizes(settings["batch"], 0), seed=0)
    step = make_train_step(model, objective, optimizer, num_steps=1000, axis_name=runtime.axis_name)
    update = runtime.compile(make_update(feed, step, runtime.axis_name))
    host = init_state(jax.random.key(0), model, objective, optimizer)
    words = jax.random.key_data(jax.random.key(1))
    state, arrays, words = runtime.replicate((host, feed.arrays, words))
    cursor = runtime.shard(feed.cursor(0))

    def one() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(update(state, arrays, cursor, words))

    return one


if __name__ == "__main__":
    serve(Session(sys.argv[1]))
