"""The decoupled direction and norm attack (Rony et al., arXiv:1811.09600)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._gradients import GradientFn, exact_gradient
from jaxrobust.attacks._nearest import Nearest, candidate, nearer_of, none_yet, regions, to_result
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._worst import ascended
from jaxrobust.numerics.losses import log_odds
from jaxrobust.numerics.projections import l2_direction, l2_norm
from jaxrobust.types import Array, AttackResult, Ball, Example, LossFn, ScoreFn

_FIRST_STEP, _LAST_STEP = 1.0, 0.01  # the authors', in pixels of l2 length


@dataclass(frozen=True, kw_only=True)
class DDN:
    r"""The nearest adversarial image in l2, its direction and its norm apart: arXiv:1811.09600, Algorithm 1.

    $\delta \leftarrow \delta + \alpha_k\,g / \|g\|_2$ with $g = \nabla_x L(f(x + \delta), y)$; $\epsilon
    \leftarrow (1 - \gamma)\,\epsilon$ if $x + \delta$ was adversarial, else $(1 + \gamma)\,\epsilon$; $\delta
    \leftarrow \epsilon\,\delta / \|\delta\|_2$, so that x + delta lies on a sphere that shrinks or grows;
    then x + delta is rounded to `levels` values and clipped. $\alpha_k$ falls from 1 to 0.01 along a cosine;
    $\epsilon$ never exceeds the length to the farthest corner of the box. The nearest adversarial of all
    iterates is kept, each judged after the rounding.

    Deviations from the authors' code: L is the log-odds of an error, whose gradient has the direction of
    cross-entropy's without its rounding, which on a confident model bends it (from a gap of 17 logits on) and
    then hides it; so that the random direction, standard normal as theirs, is left to gradients of exactly 0.
    The last iterate is tried as well, at the price of one forward pass. Success asks for a margin above
    rounding.

    Args:
        neighbourhood: `L2(eps)` (or a masked one); eps is the unit of `distance` only.
        steps: gradient steps, >= 1; the paper uses 100, 300 and 1000.
        gamma: by how much the norm changes in a step, in (0, 1).
        initial_norm: the first epsilon, > 0, in pixels over the whole image.
        levels: grey values of a pixel, >= 2, to which every iterate is rounded: 256 finds images that survive
            being saved with 8 bits. None does not round, and finds shorter perturbations.
        loss_fn: what is ascended (descended where targeted); only the direction of its gradient matters.
        gradient_fn: `exact_gradient`, or a surrogate (`bpda`, `eot`).
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for a neighbourhood that is no l2 ball, and options out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import L2
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.4], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> attack = DDN(neighbourhood=L2(eps=1.0), levels=None)
        >>> result = attack(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.found, f"{float(result.distance[0]):.3f}")  # four pixels, each 0.1 off the border
        [ True] 0.200
    """

    neighbourhood: Ball
    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0
    levels: int | None = 256
    loss_fn: LossFn = log_odds
    gradient_fn: GradientFn = exact_gradient
    targeted: bool = False

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (2,))
        _validate.at_least("steps", self.steps, 1)
        _validate.positive("gamma", self.gamma)
        _validate.decay("gamma", self.gamma, "The norm is multiplied by 1 - gamma.")
        _validate.positive("initial_norm", self.initial_norm, "It is a length in pixels over the image.")
        if self.levels is not None:
            _validate.at_least("levels", self.levels, 2, "256 is 8 bits, None does not round.")

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        region = regions(self.neighbourhood, example)
        farthest = jax.vmap(l2_norm)(region * jnp.maximum(example.image, 1 - example.image))
        ascent_fn = ascended(self.loss_fn, self.targeted)
        noise_keys, step_keys = fold_rows(keys, 0), fold_rows(keys, 1)

        def evaluate(step: int | Array, images: Array, nearest: Nearest) -> tuple[Array, Array, Nearest]:
            (_, logits), gradient = self.gradient_fn(
                fold_rows(step_keys, step), score_fn, ascent_fn, images, example
            )
            found = candidate(self.neighbourhood, example, images, logits, targeted=self.targeted)
            return gradient, jnp.isfinite(found.length), nearer_of(nearest, found)

        def body(step: int | Array, carry: tuple[Array, Array, Nearest]) -> tuple[Array, Array, Nearest]:
            images, norm, nearest = carry
            gradient, success, nearest = evaluate(step, images, nearest)
            direction = region * jax.vmap(_direction)(fold_rows(noise_keys, step), region * gradient)
            delta = images - example.image + _step_size(step, self.steps) * direction
            norm = jnp.minimum(norm * jnp.where(success, 1 - self.gamma, 1 + self.gamma), farthest)
            delta = norm[:, None, None, None] * jax.vmap(l2_direction)(delta)
            return self._onto_pixels(example, region, delta), norm, nearest

        norm = like_rows(jnp.full(example.image.shape[0], self.initial_norm, jnp.float32), example)
        images, _, nearest = jax.lax.fori_loop(0, self.steps, body, (example.image, norm, none_yet(example)))
        # Only the scores of the last iterate are read, so its backward pass is never compiled.
        _, _, nearest = evaluate(self.steps, images, nearest)
        return to_result(self.neighbourhood, example, nearest)

    def scaled(self, factor: float | Array) -> "DDN":
        """This attack with its unit of length multiplied by `factor`; it finds the same images."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _onto_pixels(self, example: Example, region: Array, delta: Array) -> Array:
        """x + delta, rounded to `levels` and clipped; the clean image outside the region, bit for bit."""
        images = jnp.clip(example.image + delta, 0.0, 1.0)
        if self.levels is not None:
            # Looked up, since a compiled division is a product with 1/255, at times off by the last bit.
            grey = np.arange(self.levels, dtype=np.float32) / np.float32(self.levels - 1)
            nearest = jnp.round(images * (self.levels - 1)).astype(jnp.int32)
            images = jnp.asarray(grey, images.dtype)[nearest]
        return jnp.where(region > 0, images, example.image)


def _step_size(step: int | Array, steps: int) -> Array:
    """The cosine from 1 at the first step to 0.01 after the last."""
    cosine = (1 + jnp.cos(jnp.pi * step / steps)) / 2
    return _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * cosine


def _direction(key: Array, gradient: Array) -> Array:
    """The unit gradient of one example, or a standard normal draw where it is 0; a NaN entry counts as 0."""
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    noise = jax.random.normal(key, gradient.shape, gradient.dtype)
    return jnp.where((gradient == 0).all(), noise, l2_direction(gradient))
