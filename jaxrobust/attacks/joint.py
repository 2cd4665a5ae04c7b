"""The joint composite: the best pixel perturbation for every pose or colour of a grid."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._ascent import climb
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._gradients import GradientFn, Scored, exact_gradient
from jaxrobust.attacks._grids import Gridded, check_granularity, has_grid
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._starts import StartFn, uniform_start
from jaxrobust.attacks._worst import Worst, nothing, to_result, worse_of
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn, Theta


@runtime_checkable
class Composite(Neighbourhood, Protocol):
    """Several neighbourhoods in order, as `Compose`: its theta is the tuple of the parts' thetas."""

    @property
    def parts(self) -> tuple[Neighbourhood, ...]:
        """First applied first."""
        ...

    def scaled(self, factor: float | Array) -> "Composite":
        """Every part scaled."""
        ...


@dataclass(frozen=True, kw_only=True)
class JointSearch:
    r"""The worst point of a composite neighbourhood: a grid over some parts, gradient ascent on the others.

    $\max_{\theta_G \in G}\ \max_{\theta_P \in N_P} L(f(T(x; \theta_G, \theta_P)), y)$

    over every point of a grid G of the parts that have one (rotation-translation, colour of the whole image);
    for each of them PGD climbs on the other parts (pixels, colour per pixel), through whatever is applied
    after them. With T of eq. (18) of CN111401445A the parts come in any order: pixels then geometry is
    $T_1(x) = A(x + r) + B$, geometry then pixels $T_2(x) = A x + B + r$. The worst of all iterates at all
    points is kept per example, so that each part stays within its own budget.

    Deviation from CN111401445A: its composites are greedy, what is maximised first is frozen (that is
    `Sequence`). Here both are maximised together, which is as strong with equal steps, up to the random
    starts and local maxima, and costs the product: n grid points take n (steps + 1) restarts passes.

    Args:
        neighbourhood: `Compose`, of at least one part with a grid and one without.
        granularity: numbers of values along the axes of the grid: of the first part that has one, then the
            next. (5, 5, 31) are (down, right, angle) of `RotationTranslation`.
        gridded: places in `parts` of those that the grid covers; None: all that have one. The others are
            climbed.
        steps: gradient steps at each point of the grid, >= 1.
        step_size: in radii, > 0.
        restarts: independent starts at each point, >= 1.
        loss_fn: what is ascended and compared; larger is worse for the model.
        gradient_fn: `exact_gradient`, or a surrogate (`bpda`, `eot`).
        start_fn: `uniform_start`, `identity_start` or `near_start(sigma)`, of the climbed parts; point i of
            restart r draws from `fold_in(fold_in(key, r), i)`.
        chunk: points of the grid climbed at once, >= 1; changes time and memory, not the result.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for a neighbourhood without parts, or with nothing to grid or to climb; for a granularity
            that does not fit; for steps, restarts or a chunk below 1, a step size not above 0.

    Example:
        >>> from jaxrobust.neighbourhoods import Compose, LInf, RotationTranslation
        >>> parts = (LInf(eps=0.1), RotationTranslation(max_angle=30.0, max_shift=3.0))
        >>> attack = JointSearch(neighbourhood=Compose(parts=parts), granularity=(3, 3, 7), steps=10)
        >>> attack.scaled(0.5).neighbourhood.parts[0]
        LInf(eps=0.05)
    """

    neighbourhood: Composite
    granularity: tuple[int, ...] = (5, 5, 31)
    gridded: tuple[int, ...] | None = None
    steps: int = 10
    step_size: float = 0.25
    restarts: int = 1
    loss_fn: LossFn = cross_entropy
    gradient_fn: GradientFn = exact_gradient
    start_fn: StartFn = uniform_start
    chunk: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        if not isinstance(self.neighbourhood, Composite):
            raise ValueError(
                f"Expected a composite neighbourhood, e.g. Compose(parts=(LInf(eps=0.1), "
                f"RotationTranslation(max_angle=30, max_shift=3))), got neighbourhood={self.neighbourhood!r}."
            )
        self._check_parts()
        axes = tuple(name for i in self._on_grid() for name in self._part(i).grid_axes)
        check_granularity(self.granularity, axes)
        _validate.at_least("steps", self.steps, 1)
        _validate.positive("step_size", self.step_size, "It is in radii: 1 is the whole radius.")
        _validate.at_least("restarts", self.restarts, 1)
        _validate.at_least("chunk", self.chunk, 1)

    def _check_parts(self) -> None:
        parts, chosen = self.neighbourhood.parts, self._on_grid()
        if not isinstance(chosen, tuple) or list(chosen) != sorted(
            {i for i in chosen if i in range(len(parts))}
        ):
            raise ValueError(
                f"Expected gridded to be increasing places in the {len(parts)} parts, from 0 on, got "
                f"gridded={self.gridded!r}."
            )
        for i in chosen:
            if not has_grid(parts[i]):
                raise ValueError(
                    f"Expected a part with a grid, got part {i}, {parts[i]!r}. Climb it instead."
                )
        if not chosen:
            raise ValueError(
                f"Expected a part with a grid among {parts!r}. Use PGD, which moves all parts by gradients."
            )
        if len(chosen) == len(parts):
            raise ValueError(
                f"Expected a part to climb beside the grid, got {parts!r}. Say by `gridded` which parts the "
                "grid covers, or use GridSearch."
            )

    def _on_grid(self) -> tuple[int, ...]:
        """The places of the parts that the grid covers."""
        if self.gridded is not None:
            return self.gridded
        return tuple(i for i, part in enumerate(self.neighbourhood.parts) if has_grid(part))

    def _part(self, i: int) -> Gridded:
        part = self.neighbourhood.parts[i]
        assert isinstance(part, Gridded)
        return part

    def _axes_thetas(self) -> list[Theta]:
        """The grid of each part that has one, leading axes `[n_i]`."""
        grids, rest = [], self.granularity
        for i in self._on_grid():
            part = self._part(i)
            taken, rest = rest[: len(part.grid_axes)], rest[len(part.grid_axes) :]
            grids.append(part.grid(taken))
        return grids

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        grids, rows = self._axes_thetas(), example.image.shape[0]
        sizes = tuple(jax.tree.leaves(grid)[0].shape[0] for grid in grids)
        num, chunk = prod(sizes), min(self.chunk, prod(sizes))
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, chunk, axis=0), example)
        rest = _Rest(parts=self.neighbourhood.parts, gridded=self._on_grid())

        def gradient(keys: Array, score_fn: ScoreFn, loss_fn: LossFn, images: Array, ex: Example) -> Scored:
            return self.gradient_fn(keys, score_fn, loss_fn, images, _split(ex)[0])

        def at_points(restart: Array, indices: Array) -> Worst:
            """The worst of each row at each of these points of the grid, `[rows * chunk]`."""
            places = jnp.unravel_index(indices, sizes)
            pinned = tuple(jax.tree.map(lambda a, p=p: a[p], g) for g, p in zip(grids, places))
            pinned = jax.tree.map(lambda a: jnp.tile(a, (rows,) + (1,) * (a.ndim - 1)), pinned)
            pinned = like_rows(pinned, repeated)
            posed = cast(Example, _Posed(**repeated._asdict(), pinned=pinned))
            row_keys = jax.vmap(lambda i: fold_rows(fold_rows(keys, restart), i), out_axes=1)(indices)
            worst, _ = climb(
                row_keys.reshape(rows * chunk),
                score_fn,
                posed,
                nothing(rest, posed),
                neighbourhood=rest,
                loss_fn=self.loss_fn,
                gradient_fn=gradient,
                start_fn=self.start_fn,
                accumulate_fn=lambda velocity, gradient: gradient,
                steps=self.steps,
                step_size=self.step_size,
                keep_worst=True,
                targeted=self.targeted,
            )
            return worst._replace(theta=rest.whole(worst.theta, pinned))

        chunks = -(-num // chunk)

        def body(i: Array, worst: Worst) -> Worst:
            # The last chunk repeats the last point, which changes nothing: ties keep what is there.
            indices = jnp.minimum((i % chunks) * chunk + jnp.arange(chunk), num - 1)
            return worse_of(worst, _worst_of_chunk(at_points(i // chunks, indices), rows, chunk))

        blank = nothing(self.neighbourhood, example)
        return to_result(
            self.neighbourhood, example, jax.lax.fori_loop(0, self.restarts * chunks, body, blank)
        )

    def scaled(self, factor: float | Array) -> "JointSearch":
        """This attack with the radii of all parts multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))


class _Posed(NamedTuple):
    """An `Example` with the thetas of the gridded parts, which travel with their image; it passes for one."""

    image: Array
    target: Array
    reference: Array | None
    mask: Array | None
    pinned: tuple[Theta, ...]


def _split(ex: Example) -> tuple[Example, tuple[Theta, ...]]:
    """The plain example, and what is pinned."""
    assert isinstance(ex, _Posed)
    return Example(ex.image, ex.target, ex.reference, ex.mask), ex.pinned


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """The parts that are climbed, as a neighbourhood; the others stay where `_Posed.pinned` puts them."""

    parts: tuple[Neighbourhood, ...]
    gridded: tuple[int, ...]

    def _along(
        self, ex: Example, theta_fn: Callable[[int, Neighbourhood, Example], Theta]
    ) -> tuple[Theta, ...]:
        """Asks each climbed part for its theta, on the image that all its predecessors made."""
        (seen, pinned), thetas = _split(ex), []
        fixed = iter(pinned)
        for i, part in enumerate(self.parts):
            if i in self.gridded:
                theta = next(fixed)
            else:
                theta = theta_fn(i, part, seen)
                thetas.append(theta)
            seen = seen._replace(image=part.apply(seen, theta))
        return tuple(thetas)

    def whole(self, theta: tuple[Theta, ...], pinned: tuple[Theta, ...]) -> tuple[Theta, ...]:
        """The thetas of all parts, in their order."""
        own, fixed = iter(theta), iter(pinned)
        return tuple(next(fixed if i in self.gridded else own) for i in range(len(self.parts)))

    def init(self, ex: Example) -> tuple[Theta, ...]:
        return self._along(ex, lambda i, part, seen: part.init(seen))

    def sample(self, key: Array, ex: Example) -> tuple[Theta, ...]:
        return self._along(ex, lambda i, part, seen: part.sample(jax.random.fold_in(key, i), seen))

    def apply(self, ex: Example, theta: tuple[Theta, ...]) -> Array:
        seen, pinned = _split(ex)
        for part, own in zip(self.parts, self.whole(theta, pinned), strict=True):
            seen = seen._replace(image=part.apply(seen, own))
        return seen.image

    def project(self, ex: Example, theta: tuple[Theta, ...]) -> tuple[Theta, ...]:
        own = iter(theta)
        return self._along(ex, lambda i, part, seen: part.project(seen, next(own)))

    def ascent(self, grad: tuple[Theta, ...]) -> tuple[Theta, ...]:
        climbed = [part for i, part in enumerate(self.parts) if i not in self.gridded]
        return tuple(part.ascent(own) for part, own in zip(climbed, grad, strict=True))

    def distance(self, ex: Example, theta: tuple[Theta, ...]) -> Array:
        own, distances = iter(theta), []

        def measure(i: int, part: Neighbourhood, seen: Example) -> Theta:
            at = next(own)
            distances.append(part.distance(seen, at))
            return at

        self._along(ex, measure)
        return jnp.stack(distances).max()

    def scaled(self, factor: float | Array) -> "_Rest":
        return replace(self, parts=tuple(part.scaled(factor) for part in self.parts))


def _worst_of_chunk(worst: Worst, rows: int, chunk: int) -> Worst:
    """From `[rows * chunk]` candidates, several of each row side by side, the worst of each row."""
    parted = jax.tree.map(lambda a: a.reshape(rows, chunk, *a.shape[1:]), worst)
    highest = parted.level.max(axis=1, keepdims=True)
    best = jnp.argmax(jnp.where(parted.level == highest, parted.loss, -jnp.inf), axis=1)
    kept = jax.tree.map(lambda a: a[jnp.arange(rows), best], parted)
    return kept._replace(broken=parted.broken.any(axis=1))
