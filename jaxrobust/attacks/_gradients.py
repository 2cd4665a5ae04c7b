r"""How an attack gets the gradient of the loss with respect to the image; an adaptive attack brings its own.

A gradient function is called as

    (losses [b], logits [b, k]), gradients [b, h, w, c] = gradient_fn(keys, score_fn, loss_fn, images,
    example)

like `jax.value_and_grad(..., has_aux=True)`; row i may depend on row i alone and draws from `keys[i]` alone.
`loss_fn(logits, example.target)` is the loss; the target may be more than a class, see `Led`.
The losses and logits rank the candidates; the gradients only propose the next one.

An adaptive attack in a few lines. The defence rounds pixels to four levels, so its exact gradient is zero and
PGD does not move; backward pass differentiable approximation sees through it (Athalye et al.,
arXiv:1802.00420):

    >>> import jax, jax.numpy as jnp, jaxrobust
    >>> from jaxrobust.attacks import PGD, bpda
    >>> from jaxrobust.neighbourhoods import LInf
    >>> def net(images):
    ...     score = (images - 0.5).sum(axis=(1, 2, 3))
    ...     return jnp.stack([-score, score], axis=-1)
    >>> def defended(images):
    ...     return net(jnp.round(images * 3) / 3)
    >>> x, y = jnp.full((1, 2, 2, 1), 0.3), jnp.array([0])
    >>> naive = PGD(neighbourhood=LInf(eps=0.25))
    >>> adaptive = PGD(neighbourhood=LInf(eps=0.25), gradient_fn=bpda(lambda images, example: net(images)))
    >>> [jaxrobust.attack(a, defended, x, y, key=jax.random.key(0)).found.tolist() for a in (naive, adaptive)]
    [[False], [True]]
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._blocks import by_blocks
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.types import Array, Example, LossFn, PyTree, ScoreFn

Scored: TypeAlias = tuple[tuple[Array, Array], Array]
"""((losses [b], logits [b, k]), gradients [b, h, w, c])."""

GradientFn: TypeAlias = Callable[[Array, ScoreFn, LossFn, Array, Example], Scored]


class Led(NamedTuple):
    """A row's target with what else its loss needs, such as the class to lead to.

    A loss must not close over arrays of the batch: rows are taken in blocks.
    """

    target: Array
    by: Any


def led(score_fn: ScoreFn, example: Example, by: PyTree) -> tuple[ScoreFn, Example]:
    """The example for a loss whose target is `Led`, and the score function, which sees the plain target."""
    return (
        lambda images, ex: score_fn(images, _plain(ex)),
        example._replace(target=cast(Array, Led(example.target, by))),
    )


def _plain(example: Example) -> Example:
    target = example.target
    return example._replace(target=target.target) if isinstance(target, Led) else example


def exact_gradient(
    keys: Array, score_fn: ScoreFn, loss_fn: LossFn, images: Array, example: Example
) -> Scored:
    """Backpropagation through the model."""
    del keys

    def block(rows: tuple[Array, Example]) -> Scored:
        images, example = rows

        def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = score_fn(x, _plain(example))
            losses = loss_fn(logits, example.target)
            # Rows do not interact, hence the gradient of the sum has each row's own gradient.
            return losses.sum(), (losses, logits)

        (_, scored), gradients = jax.value_and_grad(total, has_aux=True)(images)
        return scored, gradients

    return by_blocks(block, (images, example))


@dataclass(frozen=True, kw_only=True)
class BPDA:
    """Backward pass differentiable approximation (Athalye et al., arXiv:1802.00420, section 4.1).

    The forward pass, with its losses and logits, is the model's; the backward pass goes through the
    surrogate, fed with the loss's gradient at the model's own logits.

    Args:
        surrogate_fn: a differentiable stand-in, `surrogate_fn(images, example) -> logits`. It is part of the
            configuration: arrays it closes over are compiled in.
    """

    surrogate_fn: ScoreFn

    def __call__(
        self, keys: Array, score_fn: ScoreFn, loss_fn: LossFn, images: Array, example: Example
    ) -> Scored:
        """Losses and logits of `score_fn`, gradients of the surrogate."""

        def straight_through(x: Array, ex: Example) -> Array:
            surrogate = self.surrogate_fn(x, ex)
            true = score_fn(jax.lax.stop_gradient(x), ex)
            # Not `surrogate + (true - surrogate)`, whose rounding would disturb the logits.
            return _forward_as(surrogate, true)

        return exact_gradient(keys, straight_through, loss_fn, images, example)


@jax.custom_jvp
def _forward_as(surrogate: Array, value: Array) -> Array:
    """`value`, with the derivative of `surrogate`."""
    del surrogate
    return value


@_forward_as.defjvp
def _forward_as_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0].astype(primals[1].dtype)


def bpda(surrogate_fn: ScoreFn) -> BPDA:
    """`BPDA(surrogate_fn=surrogate_fn)`: forward through the model, backward through the surrogate."""
    return BPDA(surrogate_fn=surrogate_fn)


@dataclass(frozen=True, kw_only=True)
class EOT:
    r"""Expectation over transformation, $\nabla_x\,\mathbb{E}_t\,L(f(t(x)), y)$ (arXiv:1707.07397).

    For a defence that randomises its input: `transform_fn` stands for its randomness. Losses and logits are
    the means over the draws, so that an image counts as found when the randomised model's mean logits are
    fooled.

    Args:
        num: draws per gradient, >= 1.
        transform_fn: `transform_fn(key, image [h, w, c]) -> image` on one image, differentiable.
        gradient_fn: the gradient of each draw.

    Raises:
        ValueError: for fewer than one draw.
    """

    num: int
    transform_fn: Callable[[Array, Array], Array]
    gradient_fn: GradientFn = exact_gradient

    def __post_init__(self) -> None:
        _validate.at_least("num", self.num, 1)

    def __call__(
        self, keys: Array, score_fn: ScoreFn, loss_fn: LossFn, images: Array, example: Example
    ) -> Scored:
        """Means over `num` draws."""

        def draw(i: int | Array) -> Scored:
            row_keys = fold_rows(keys, i)

            def transform(x: Array) -> Array:
                return jax.vmap(self.transform_fn)(fold_rows(row_keys, 0), x)

            moved, pullback = jax.vjp(transform, images)
            scored, gradients = self.gradient_fn(fold_rows(row_keys, 1), score_fn, loss_fn, moved, example)
            return scored, pullback(gradients)[0]

        def add(i: int, total: Scored) -> Scored:
            return jax.tree.map(jnp.add, total, draw(i))

        return jax.tree.map(lambda a: a / self.num, jax.lax.fori_loop(1, self.num, add, draw(0)))


def eot(
    num: int, transform_fn: Callable[[Array, Array], Array], gradient_fn: GradientFn = exact_gradient
) -> EOT:
    """`EOT(num=..., transform_fn=..., gradient_fn=...)`: the mean gradient over random transformations."""
    return EOT(num=num, transform_fn=transform_fn, gradient_fn=gradient_fn)
