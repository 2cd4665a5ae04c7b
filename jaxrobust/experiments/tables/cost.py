"""What a job costs here: passes of the model, counted, times what one takes, measured."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import attacks, data, evaluation, models
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.run import is_finished, load_data
from jaxrobust.experiments.tables.plan import Job, folder_of
from jaxrobust.numerics.compile import jit
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.objectives import AT, RT, SRT, UAT, Standard

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


def training_passes(experiment: Experiment, sizes: data.BatchSizes) -> Passes:
    """Of one step with these labelled and unlabelled images, training passes counted as gradients.

    >>> from jaxrobust.experiments import get
    >>> training_passes(get("mnist_at"), data.BatchSizes(labelled=128, unlabelled=0))
    Passes(forward=0, gradient=5312.0)
    """
    objective = experiment.objective
    images = sizes.labelled + sizes.unlabelled
    inner = getattr(objective, "attack", None)
    if isinstance(objective, Standard) or inner is None:
        return Passes(0, _TRAINING * images)
    found = passes(inner).times(images) + Passes(0, _TRAINING * images)
    match objective:
        case AT():
            return found
        case UAT():
            # The online target, and no clean pass.
            return found + Passes(images)
        case RT() | SRT():
            # The targets of all, and the clean pass of the labelled.
            return found + Passes(images, _TRAINING * sizes.labelled)
    # TRADES and its like: the attack's target, and a clean pass of all.
    return found + Passes(images, _TRAINING * images)


class Seconds(NamedTuple):
    """Of a job."""

    training: float
    attacks: float


class Estimator:
    """Measures each net once at each batch, for as long as the process lives."""

    def __init__(self) -> None:
        self._measured: dict[Any, tuple[float, float]] = {}

    def training(self, experiment: Experiment, dataset: data.Dataset) -> float:
        """Of a run that has not begun, its teacher not counted."""
        config, sets = experiment.image_data, len(dataset.train.labels)
        unlabelled = config.num_unlabelled
        if unlabelled is None:
            unlabelled = sets - config.num_labelled - config.num_validation
        sizes = experiment.batch_sizes(config.num_labelled, unlabelled)
        found = training_passes(experiment, sizes)
        forward, gradient = self._of(experiment, dataset.image_shape)
        return experiment.num_steps * (found.forward * forward + found.gradient * gradient)

    def attacks(self, job: Job, dataset: data.Dataset) -> float:
        """Of everything that is measured of a job, at most."""
        forward, gradient = self._of(job.experiment, dataset.image_shape)
        num_test = len(dataset.test.labels)

        def cost(found: Passes) -> float:
            return found.forward * forward + found.gradient * gradient

        measured = 0.0
        for cell in job.cells:
            suite = evaluation.suite(cell.attacks, cell.experiment.threat)
            measured += (cell.num or num_test) * sum(cost(passes(one.attack)) for one in suite.values())
        suite = evaluation.suite(job.curves, job.experiment.threat)
        # Five radii, each on the images that are left of the one before.
        measured += 2.5 * job.num_curve * sum(cost(passes(one.attack)) for one in suite.values())
        return measured

    def _of(self, experiment: Experiment, shape: tuple[int, int, int]) -> tuple[float, float]:
        """Seconds per image of a forward pass and of a gradient on the image, in batches of the training."""
        rows = experiment.batch_size
        key = (experiment.model, shape, rows)
        if key not in self._measured:
            model = models.build(experiment.model, shape)
            params, stats = model.init(jax.random.key(0))
            images = jnp.zeros((rows, *shape))
            labels = jnp.zeros(rows, jnp.int32)

            def forward(params: Any, stats: Any, x: jax.Array) -> jax.Array:
                return model.apply(params, stats, x, train=False)[0].logits

            def gradient(params: Any, stats: Any, x: jax.Array) -> jax.Array:
                return jax.grad(lambda x: cross_entropy(forward(params, stats, x), labels).sum())(x)

            times = [_time(jit(fn), params, stats, images) / rows for fn in (forward, gradient)]
            self._measured[key] = (times[0], times[1])
        return self._measured[key]


def estimate(jobs: Sequence[Job], runs_dir: Path, data_dir: Path | None) -> dict[Path, Seconds]:
    """By the job's folder; the nets are timed here and now. A teacher that no row is counts with its first
    pupil."""
    if not jobs:
        return {}
    dataset = load_data(jobs[0].experiment.data, data_dir)
    estimator = Estimator()
    found: dict[Path, Seconds] = {}
    counted = {job.folder for job in jobs}
    for job in jobs:
        training = 0.0
        if not is_finished(job.folder, job.experiment):
            training = estimator.training(job.experiment, dataset)
            teacher = job.experiment.teacher
            if teacher is not None and (folder := folder_of(teacher, runs_dir)) not in counted:
                counted.add(folder)
                training += 0.0 if is_finished(folder, teacher) else estimator.training(teacher, dataset)
        found[job.folder] = Seconds(training, estimator.attacks(job, dataset))
    return found


def _time(fn: Any, *args: Any) -> float:
    """The fastest of three calls; of large nets on small machines one is enough."""
    jax.block_until_ready(fn(*args))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(fn(*args))
        found.append(time.perf_counter() - began)
        if found[-1] > 2.0:
            break
    return min(found)


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(42), clock(600), clock(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
