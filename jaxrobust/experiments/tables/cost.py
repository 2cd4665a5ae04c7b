"""What a job costs here: passes of the model, counted, times what one takes, measured."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import attacks, evaluation, models
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.tables.plan import Job
from jaxrobust.numerics.compile import jit
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.objectives import Standard

_ROWS = 32
# A training pass makes the gradients of the weights beside those of the layers' inputs.
_TRAINING = 1.5


class Passes(NamedTuple):
    """Passes of the model for one image: forward ones alone, and with a gradient on the image."""

    forward: float = 0.0
    gradient: float = 0.0

    def __add__(self, other: "Passes") -> "Passes":  # type: ignore[override]
        return Passes(self.forward + other.forward, self.gradient + other.gradient)

    def times(self, number: float) -> "Passes":
        return Passes(self.forward * number, self.gradient * number)


def passes(attack: Any, classes: int = 10) -> Passes:
    """How many passes an attack makes for an image, at most; attacks of unknown kind count 100 gradients.

    >>> from jaxrobust.neighbourhoods import LInf
    >>> passes(attacks.PGD(neighbourhood=LInf(eps=0.3), steps=40))
    Passes(forward=1, gradient=40)
    """
    match attack:
        case None:
            return Passes(1)
        case attacks.PGD():
            return Passes(attack.keep_worst, attack.steps).times(attack.restarts)
        case attacks.MIFGSM():
            return Passes(1, attack.steps)
        case attacks.APGD():
            return Passes(1, attack.steps).times(attack.restarts * max(attack.num_targets or 1, 1))
        case attacks.FAB():
            # A gradient of each class in every step.
            each = attack.num_targets or classes
            return Passes(2, each).times(attack.steps * attack.restarts)
        case attacks.Square():
            return Passes(attack.queries * attack.restarts)
        case attacks.CarliniWagner():
            return Passes(0, attack.searches * attack.steps)
        case attacks.DDN():
            return Passes(0, attack.steps)
        case attacks.RandomSearch():
            return Passes(attack.num)
        case attacks.GridSearch():
            return Passes(float(np.prod(attack.granularity)))
        case attacks.Sequence():
            return sum((passes(stage, classes) for stage in attack.stages), Passes())
        case attacks.Ensemble():
            return sum((passes(member, classes) for member in attack.attacks), Passes())
    return Passes(0, 100)


def training_passes(experiment: Experiment) -> Passes:
    """Of one image of a step, the training passes counted as gradients."""
    objective = experiment.objective
    inner = getattr(objective, "attack", None)
    if isinstance(objective, Standard) or inner is None:
        return Passes(0, _TRAINING)
    # The target, the attack, and the two passes of which one is of the labelled images alone.
    return Passes(1) + passes(inner) + Passes(0, 2 * _TRAINING)


class Seconds(NamedTuple):
    """Of a job."""

    training: float
    attacks: float


class Estimator:
    """Measures each net once, for as long as the process lives."""

    def __init__(self) -> None:
        self._measured: dict[Any, tuple[float, float]] = {}

    def seconds(self, job: Job, shape: tuple[int, int, int], num_test: int) -> Seconds:
        """The estimate for a job whose run has not begun."""
        forward, gradient = self._of(job.experiment, shape)

        def cost(found: Passes) -> float:
            return found.forward * forward + found.gradient * gradient

        images = job.experiment.num_steps * job.experiment.batch_size
        measured = 0.0
        for cell in job.cells:
            suite = evaluation.suite(cell.attacks, cell.experiment.threat)
            measured += (cell.num or num_test) * sum(cost(passes(one.attack)) for one in suite.values())
        suite = evaluation.suite(job.curves, job.experiment.threat)
        # Five radii, each on the images that are left of the one before.
        measured += 2.5 * job.num_curve * sum(cost(passes(one.attack)) for one in suite.values())
        return Seconds(images * cost(training_passes(job.experiment)), measured)

    def _of(self, experiment: Experiment, shape: tuple[int, int, int]) -> tuple[float, float]:
        """Seconds per image of a forward pass and of a gradient on the image."""
        key = (experiment.model, shape)
        if key not in self._measured:
            model = models.build(experiment.model, shape)
            params, stats = model.init(jax.random.key(0))
            images = jnp.zeros((_ROWS, *shape))
            labels = jnp.zeros(_ROWS, jnp.int32)

            def forward(params: Any, stats: Any, x: jax.Array) -> jax.Array:
                return model.apply(params, stats, x, train=False)[0].logits

            def gradient(params: Any, stats: Any, x: jax.Array) -> jax.Array:
                return jax.grad(lambda x: cross_entropy(forward(params, stats, x), labels).sum())(x)

            times = [_time(jit(fn), params, stats, images) / _ROWS for fn in (forward, gradient)]
            self._measured[key] = (times[0], times[1])
        return self._measured[key]


def _time(fn: Any, *args: Any) -> float:
    """The fastest of three calls."""
    jax.block_until_ready(fn(*args))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(fn(*args))
        found.append(time.perf_counter() - began)
    return min(found)


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(42), clock(600), clock(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
