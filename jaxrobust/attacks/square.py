"""Square Attack: random search with square-shaped steps, without gradients (arXiv:1912.00049)."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._lanes import rows_of, until_found
from jaxrobust.attacks._nearest import regions
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.attacks._windows import sides, square, stripes, tiles, windows
from jaxrobust.attacks._worst import Worst, ascended, judge, nothing, select, to_result, worse_of
from jaxrobust.numerics.losses import margin
from jaxrobust.types import Array, AttackResult, Ball, Example, LossFn, ScoreFn


@dataclass(frozen=True, kw_only=True)
class Square:
    r"""Square Attack, arXiv:1912.00049, Alg. 1 with the proposals of Alg. 2 (l_inf) and Alg. 3 (l_2).

    $\hat x \leftarrow \Pi(\hat x + \delta)$ if the loss there is higher, with a random square-shaped delta.
    In l_inf it sets a window of side h to $\pm\epsilon$, one sign per channel, and starts from vertical
    stripes of width 1. In l_2 it moves the length of one window to another, whose content becomes a mixture
    of what it was and of two opposite pyramids eta (eq. (2)), and adds the length that is not used yet; it
    starts from 5 x 5 tiles of that shape. $h^2 = p\,d$ pixels; p starts at `p_init` and is halved after
    10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries, rescaled to `queries`.

    A row stops with its first success; the loop ends when all rows have stopped. Every row draws its own
    windows, signs and orientations. Restart r draws from `fold_in(key, r)` and looks only at rows that are
    not fooled yet.

    Deviations from the paper: windows of more than one pixel end before the last row and column, as in the
    authors' code, where Algs. 2 and 3 draw every place: on MNIST (64 images, SRT model, l_inf, eps 0.3, 1000
    queries, 4 seeds) it leaves 46.5 images robust on average, with every place 48.25 (torchattacks 46.5).
    Where the image is not square, $h^2 = p\,d$ is cut at the shorter side (in l_2, where h is odd, at the
    longest odd one that fits). Within a masked ball only the region is changed: what a proposal would change
    beside it is left out, and in l_2 the length that this sets free goes to the next window.

    Args:
        neighbourhood: `LInf` or `L2`, or one of them masked.
        queries: evaluations of the model per restart, that of the start included, >= 1.
        p_init: the share of the image that a window covers at first, in (0, 1].
        restarts: independent searches, >= 1.
        loss_fn: what is ascended; the paper has `margin`, and `cross_entropy` where the attack is targeted.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for another neighbourhood, queries or restarts below 1, p_init outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import LInf
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.95], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> square = Square(neighbourhood=LInf(eps=0.25), queries=100)
        >>> result = square(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.image.ravel(), result.found, result.distance)
        [0.75 0.75 0.75 0.75] [ True] [1.]
    """

    neighbourhood: Ball
    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    loss_fn: LossFn = margin
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (float("inf"), 2))
        _validate.at_least("queries", self.queries, 1)
        _validate.positive("p_init", self.p_init, "It is a share of the image.")
        _validate.within("p_init", self.p_init, 0.0, 1.0, "It is a share of the image.")
        _validate.at_least("restarts", self.restarts, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        if self.restarts == 1:
            worst = self._search(fold_rows(keys, 0), score_fn, example)
            return to_result(self.neighbourhood, example, worst)

        def search(rows: Array, restarts: Array) -> Worst:
            return self._search(fold_rows(keys[rows], restarts), score_fn, rows_of(example, rows))

        blank = nothing(self.neighbourhood, example)
        worst = until_found(search, blank, example, num=self.restarts, lanes=len(keys))
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "Square":
        """This attack with its radius multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _search(self, keys: Array, score_fn: ScoreFn, example: Example) -> Worst:
        """Alg. 1 from one start, until all rows are fooled."""
        ball, region = self.neighbourhood, regions(self.neighbourhood, example)
        start_fn, propose_fn = (tiles, windows) if ball.norm == 2 else (stripes, square)
        height, width = example.image.shape[1:3]
        side = jnp.asarray(sides(self.queries, self.p_init, (height, width), odd=ball.norm == 2))
        loss_fn = ascended(self.loss_fn, self.targeted)

        def score(theta: Array) -> Worst:
            theta = jax.vmap(ball.project)(example, theta * region)
            logits = score_fn(jax.vmap(ball.apply)(example, theta), example)
            losses = loss_fn(logits, example.target)
            return judge(theta, logits, losses, example.target, targeted=self.targeted)

        def unfinished(carry: tuple[Array, Worst]) -> Array:
            return (carry[0] < self.queries) & (carry[1].level < 2).any()

        def body(carry: tuple[Array, Worst]) -> tuple[Array, Worst]:
            i, current = carry
            propose = jax.vmap(propose_fn, (0, 0, None, None))
            theta = propose(fold_rows(keys, i), current.theta, side[i], ball.eps)
            return i + 1, select(current.level < 2, worse_of(current, score(theta)), current)

        start = jax.vmap(start_fn, (0, 0, None))(fold_rows(keys, 0), example.image, ball.eps)
        first = worse_of(nothing(ball, example), score(start))
        return jax.lax.while_loop(unfinished, body, (jnp.int32(1), first))[1]
