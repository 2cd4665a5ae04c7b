"""Inversion by optimisation: an image whose features are those that were seen, and that looks like one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import _validate
from jaxrobust.inversion._types import FeaturesFn
from jaxrobust.inversion.distances import relative_squares
from jaxrobust.inversion.features import publish
from jaxrobust.numerics import callables
from jaxrobust.numerics.chunks import in_chunks
from jaxrobust.numerics.fidelity import ssim
from jaxrobust.types import Array, PyTree

_SMOOTH = 1e-8

DistanceFn = Callable[[Array, Array], Array]
"""`distance_fn(features [b, ...], target [b, ...]) -> [b]`, unreduced, smaller is nearer."""

OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}


class Inverted(NamedTuple):
    """What inversion found, row by row.

    Attributes:
        image: `[b, h, w, c]` in [0, 1]; where a descent met NaN, where it started.
        distance: `[b]` between its features and the target, without the prior; inf where it met NaN.
    """

    image: Any
    distance: Any


@dataclass(frozen=True, kw_only=True)
class TVInversion:
    r"""Gradient descent on the image (Mahendran and Vedaldi, CVPR 2015, eq. (1)).

    .. math:: \min_{x \in [0, 1]^d} d(f(x), f_0) + \lambda\, \mathrm{TV}(x), \quad
              \mathrm{TV}(x) = \frac{1}{H W C}
              \sum_{i, j, c} \sqrt{(x_{i+1,j} - x_{ij})^2 + (x_{i,j+1} - x_{ij})^2}

    from `start` plus noise, by projected steps whose size falls to 0 along a cosine. Differences are taken
    within the image. Deviations: the paper's TV has an exponent beta of its own and its descent momentum;
    here beta = 1, Adam, and the mean over pixels, so that lambda does not depend on the image's size.

    With `distance_fn=one_minus_confidence`, `optimizer_fn=optax.sgd`, `total_variation=0`, `noise=0` and
    classes as targets it is MIFace (Fredrikson et al., CCS 2015) but for its step's decay.

    Args:
        steps: >= 1.
        learning_rate: of the first step, > 0; of `optax.adam` about the largest change of a pixel.
        total_variation: lambda, >= 0; 0 leaves the prior out. The less the features say, the more prior is
            needed: see `chosen_method`.
        restarts: from how many starts, >= 1; the one with the smallest distance is kept.
        noise: half the width of the uniform noise on the start, >= 0.
        distance_fn: d, of `DISTANCES`.
        optimizer_fn: from a learning rate to an `optax` transformation that treats pixels one by one, of
            `OPTIMIZERS`.
        decay: whether the step's size falls.

    Raises:
        ValueError: for values out of range; several restarts without noise, which would all be one.

    >>> TVInversion(steps=100).restarts
    2
    """

    steps: int = 300
    learning_rate: float = 0.05
    total_variation: float = 0.3
    restarts: int = 2
    noise: float = 0.1
    distance_fn: DistanceFn = relative_squares
    optimizer_fn: Callable[..., optax.GradientTransformation] = optax.adam
    decay: bool = True

    def __post_init__(self) -> None:
        _validate.at_least("steps", self.steps, 1)
        _validate.positive("learning_rate", self.learning_rate)
        _validate.non_negative("total_variation", self.total_variation)
        _validate.at_least("restarts", self.restarts, 1)
        _validate.non_negative("noise", self.noise)
        if self.restarts > 1 and self.noise == 0:
            raise ValueError(
                f"Expected noise > 0 with restarts={self.restarts}: they would all start at one place. Use "
                "restarts=1."
            )

    def __call__(self, keys: Array, features_fn: FeaturesFn, target: Array, start: Array) -> Inverted:
        """One descent for each row: `keys` `[b]`, `target` `[b, ...]`, `start` `[h, w, c]`."""
        first = jnp.broadcast_to(start, (keys.shape[0], *start.shape))
        if self.noise:
            draw = jax.vmap(lambda key: jax.random.uniform(key, start.shape, minval=-1.0, maxval=1.0))
            first = jnp.clip(first + self.noise * draw(keys), 0.0, 1.0)

        def loss(images: Array) -> Array:
            value = self.distance_fn(features_fn(images), target)
            if self.total_variation:
                value = value + self.total_variation * total_variation(images)
            return value.sum()

        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps) if self.decay else None
        optimizer = self.optimizer_fn(self.learning_rate if rate is None else rate)

        def step(_: Array, carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            images, state = carry
            updates, state = optimizer.update(jax.grad(loss)(images), state, images)
            return jnp.clip(optax.apply_updates(images, updates), 0.0, 1.0), state

        images, _ = jax.lax.fori_loop(0, self.steps, step, (first, optimizer.init(first)))
        distance = self.distance_fn(features_fn(images), target)
        lost = jnp.isnan(distance) | jnp.isnan(images).any((1, 2, 3))
        return Inverted(
            jnp.where(lost[:, None, None, None], first, images), jnp.where(lost, jnp.inf, distance)
        )


def total_variation(images: Array) -> Array:
    """TV of `[b, h, w, c]` -> `[b]`: the mean length of a pixel's difference to its lower and right ones.

    >>> float(total_variation(jnp.eye(2)[None, :, :, None])[0]) < 1.0
    True
    """
    down = jnp.pad(images[:, 1:] - images[:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(images[:, :, 1:] - images[:, :, :-1], ((0, 0), (0, 0), (0, 1), (0, 0)))
    # A root at 0 has no derivative; an even image has none to speak of.
    return (jnp.sqrt(jnp.square(down) + jnp.square(right) + _SMOOTH) - np.sqrt(_SMOOTH)).mean((1, 2, 3))


def invert(
    method: TVInversion,
    features_fn: FeaturesFn,
    targets: Any,
    *,
    start: Any,
    key: Array,
    chunk: int = 32,
) -> Inverted:
    """Images from their published features.

    Rows and restarts are one list of descents, taken `chunk` at a time through one compiled program: any
    number of images, other targets, starts and parameters compile nothing. Row i draws from `fold_in(key,
    i)`, and what is found does not depend on the other rows.

    Args:
        method: the attack.
        features_fn: see `FeaturesFn`; called without keys, and differentiated.
        targets: what was seen, `[n, ...]`: features as `publish` gives them, or what `method.distance_fn`
            compares with (classes `[n]`).
        start: where descents begin, `[h, w, c]` in [0, 1]: the mean of the attacker's images.
        key: a typed key.
        chunk: descents at once, always exactly so many; on CPU their activations should fit the cache.

    Returns:
        `Inverted` NumPy arrays with n rows, of each the restart of the smallest distance.

    Raises:
        ValueError: for targets or a start that do not fit the features, or are not finite.

    >>> images = np.random.default_rng(0).random((2, 4, 4, 1)).astype(np.float32)
    >>> found = invert(TVInversion(total_variation=0.0), lambda x: x, images, start=np.full((4, 4, 1), 0.5),
    ...                key=jax.random.key(0), chunk=4)
    >>> bool(np.abs(found.image - images).max() < 1e-2)
    True
    """
    structure, arrays = callables.split(features_fn, "features_fn")
    targets, start = np.asarray(targets), np.asarray(start, np.float32)
    _check(method, features_fn, targets, start)
    rows, restarts = len(targets), method.restarts
    jobs = {
        "row": np.repeat(np.arange(rows, dtype=np.uint32), restarts),
        "restart": np.tile(np.arange(restarts, dtype=np.uint32), rows),
        "target": np.repeat(targets, restarts, axis=0),
    }
    found = in_chunks(_descents, (method, structure), (arrays, jnp.asarray(start), key), jobs, chunk)
    image, distance = (leaf.reshape(rows, restarts, *leaf.shape[1:]) for leaf in found)
    best = distance.argmin(axis=1)
    at = np.arange(rows)
    return Inverted(image[at, best], distance[at, best])


def chosen_method(
    methods: Sequence[TVInversion],
    features_fn: FeaturesFn,
    images: Any,
    *,
    start: Any,
    key: Array,
    window: int = 11,
    chunk: int = 32,
) -> tuple[TVInversion, tuple[float, ...]]:
    """The method that reconstructs the attacker's own images best, as a real one would choose it.

    How much prior a model's features need is not known before: an embedding that is the image needs none, a
    face net's a hundred times what would blur that one.

    Args:
        methods: candidates, for instance of several `total_variation`.
        features_fn, start, key, chunk: as in `invert`.
        images: `[n, h, w, c]`, float in [0, 1], of people who are no victims.
        window: of the SSIM, in pixels.

    Returns:
        The method of the largest mean SSIM (the first of equals), and the mean SSIM of each.

    Raises:
        ValueError: no methods; otherwise as `invert`.
    """
    if not methods:
        raise ValueError("Expected at least one method to choose from, got none.")
    images = np.asarray(images, np.float32)
    targets = publish(features_fn, images, batch_size=chunk)
    scores = []
    for method in methods:
        found = invert(method, features_fn, targets, start=start, key=key, chunk=chunk)
        scores.append(float(ssim(images, found.image, window=window).mean()))
    return methods[int(np.argmax(scores))], tuple(scores)


def _descents(
    method: TVInversion,
    structure: callables.Structure,
    arrays: PyTree,
    start: Array,
    key: Array,
    jobs: dict[str, Array],
) -> Inverted:
    """A chunk of descents."""

    def key_of(row: Array, restart: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, row), restart)

    keys = jax.vmap(key_of)(jobs["row"], jobs["restart"])
    return method(keys, callables.merge(structure, arrays), jobs["target"], start)


def _check(method: Any, features_fn: FeaturesFn, targets: np.ndarray, start: np.ndarray) -> None:
    if not isinstance(method, TVInversion):
        raise ValueError(f"Expected a method such as TVInversion(steps=300), got {method!r}.")
    if start.ndim != 3 or not np.isfinite(start).all() or start.min() < 0 or start.max() > 1:
        raise ValueError(f"Expected a start [h, w, c] in [0, 1], got shape {list(start.shape)}.")
    if not len(targets) or not np.isfinite(targets).all():
        raise ValueError("Expected finite targets of at least one image, got none, or NaN. Look at publish.")
    images = jax.ShapeDtypeStruct((len(targets), *start.shape), jnp.float32)
    try:
        found = jax.eval_shape(
            lambda x, t: method.distance_fn(features_fn(x), t),
            images,
            jax.ShapeDtypeStruct(targets.shape, targets.dtype),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"The targets {list(targets.shape)} do not fit the features: {error}") from error
    if found.shape != (len(targets),):
        raise ValueError(
            f"Expected distance_fn to give one number for each of {len(targets)} images, got shape "
            f"{list(found.shape)}; the targets are {list(targets.shape)}."
        )
