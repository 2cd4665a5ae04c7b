"""The point-wise attack (Schott et al., arXiv:1805.09190): few changes, found from decisions alone."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks import _resets
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._nearest import (
    Nearest,
    candidate,
    lengths,
    nearer_of,
    none_yet,
    regions,
    surely_fools,
    to_result,
)
from jaxrobust.attacks._shrinking import until_all_done
from jaxrobust.attacks._worst import select
from jaxrobust.types import Array, AttackResult, Ball, Example, ScoreFn

_SCAN, _RESET, _BISECT, _DONE = range(4)


class _State(NamedTuple):
    """Row by row: its phase; its start, the draw and share of noise there, the least share that fooled; its
    round; the best; the bisection."""

    phase: Array
    start: Array
    draw: Array
    share: Array
    least: Array
    sweep: _resets.Sweep
    nearest: Nearest
    low: Array
    halvings: Array


class _Setting(NamedTuple):
    """What does not change: clean images and region `[b, u, g]`; keys `[b]`; orders `[b, starts, u]`."""

    example: Example
    clean: Array
    region: Array
    keys: Array
    order: Array


@dataclass(frozen=True, kw_only=True)
class PointWise:
    r"""Noise that fools the model, of which every needless change is undone: arXiv:1805.09190, section 4.

    Minimises $\|x' - x\|_0$ from decisions alone. A start is salt-and-pepper noise on a share of the image
    that fools the model: the share $(j / J)^2$ grows, j = 1 ... J, with each draw until one fools; from then
    on draws look for a smaller share. Then the changes are set back to their clean values one at a time, in a
    random order, where the model stays fooled; round after round until no single change can be undone. The
    fewest changes over all starts are kept, and each is at last moved towards its clean value by bisection,
    which makes it smaller and leaves the count.

    What is set back at once is a feature (one channel of one pixel), or a whole pixel where the ball counts
    pixels. Every row goes its own way through starts, rounds and bisections, one image per row in each
    forward pass; a row for which no noise fools the model comes back clean with `found = False`.

    Deviations from the paper: several starts (start s draws from `fold_in(key, s)`, so more never do worse);
    a round ends when all that remains has failed since the last success, where a full pass without success
    would try the same again; the bisection, which the authors' implementation has and the paper does not
    mention, runs once, on the best.

    Args:
        neighbourhood: `L0`, perhaps within `Masked`; its radius is only the unit of `distance`.
        starts: independent starts, each with its own noise and order, >= 1.
        draws: draws of noise per start, >= 1; more find a smaller one to set back.
        shares: J, >= 1.
        bisections: halvings per remaining change, >= 0; each halves the uncertainty about its size.
        targeted: `Example.target` is the designated class. Noise seldom leads to one: expect failures.

    Raises:
        ValueError: for another ball than L0, starts, draws or shares below 1, negative bisections.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import L0
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.5], axis=-1)
        >>> ex = Example(image=jnp.zeros((1, 4, 4, 1)), target=jnp.array([0]))
        >>> result = PointWise(neighbourhood=L0(eps=1))(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.found, result.distance, jnp.round(result.image.sum(), 2))
        [ True] [3.] 2.5
    """

    minimum_norm: ClassVar[bool] = True

    neighbourhood: Ball
    starts: int = 10
    draws: int = 64
    shares: int = 32
    bisections: int = 10
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (0,))
        _validate.at_least("starts", self.starts, 1)
        _validate.at_least("draws", self.draws, 1)
        _validate.at_least("shares", self.shares, 1)
        _validate.at_least("bisections", self.bisections, 0)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        setting = self._setting(keys, example)

        def step(setting: _Setting, state: _State, _: Array) -> _State:
            return self._step(score_fn, setting, state)

        begun = self._begin(score_fn, setting)
        state = until_all_done(step, lambda state: state.phase != _DONE, setting, begun)
        return to_result(self.neighbourhood, example, state.nearest)

    def scaled(self, factor: float | Array) -> "PointWise":
        """This attack with its unit of length multiplied by `factor`; it finds the same images."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _setting(self, keys: Array, example: Example) -> _Setting:
        """Start s of row i draws from `fold_in(keys[i], s)`, so the first s are those of a run with s."""
        group = _resets.group(self.neighbourhood, example.image.shape[-1])
        clean = _resets.to_units(example.image, group)
        units = clean.shape[1]
        region = jnp.broadcast_to(regions(self.neighbourhood, example) > 0, example.image.shape)

        def order(key: Array, start: Array) -> Array:
            return _resets.random_order(jax.random.fold_in(jax.random.fold_in(key, start), self.draws), units)

        orders = jax.vmap(jax.vmap(order, (None, 0)), (0, None))(keys, jnp.arange(self.starts))
        return _Setting(example, clean, _resets.to_units(region, group), keys, orders)

    def _begin(self, score_fn: ScoreFn, setting: _Setting) -> _State:
        """Every row before its first start; done where the clean image fools already."""
        example = setting.example
        logits = score_fn(example.image, example)
        clean = candidate(self.neighbourhood, example, example.image, logits, targeted=self.targeted)
        nearest = nearer_of(none_yet(example), clean)
        sweep = _resets.begin(setting.clean)
        zero = jnp.zeros_like(sweep.fails)
        phase = jnp.where(jnp.isfinite(nearest.length), _DONE, _SCAN)
        none = zero + self.shares
        return _State(phase, zero, zero, zero, none, sweep, nearest, setting.clean[:, 0], zero)

    def _step(self, score_fn: ScoreFn, setting: _Setting, state: _State) -> _State:
        """One image more of every row: noise, or a reset, or a value halfway to the clean one."""
        example, clean = setting.example, setting.clean
        at = jnp.minimum(state.start, self.starts - 1)[:, None, None]
        order = jnp.take_along_axis(setting.order, at, axis=1)[:, 0]
        unit = _resets.next_unit(state.sweep, clean, order)
        unit_clean = jnp.where(unit, clean, 0).sum(axis=1)
        low = jnp.where((state.halvings == 0)[:, None], unit_clean, state.low)
        halfway = (low[:, None] + state.sweep.image) / 2

        resetting = (state.phase == _RESET)[:, None, None]
        trial = jnp.where(unit, jnp.where(resetting, clean, halfway), state.sweep.image)
        trial = select(state.phase == _SCAN, self._noisy(setting, state), trial)
        logits = score_fn(trial.reshape(example.image.shape), example)
        fooled = surely_fools(logits, example.target, targeted=self.targeted)
        broken = state.nearest.broken | jnp.isnan(logits).any(axis=-1)
        state = state._replace(nearest=state.nearest._replace(broken=broken))

        scanned = self._scanned(setting, state, trial, fooled)
        reset = self._reset(setting, state, order, unit, trial, fooled)
        low = jnp.where(fooled[:, None], low, jnp.where(unit, halfway, 0).sum(axis=1))
        bisected = self._bisected(setting, state._replace(low=low), order, unit, trial, fooled)
        return select(state.phase == _SCAN, scanned, select(state.phase == _RESET, reset, bisected))

    def _noisy(self, setting: _Setting, state: _State) -> Array:
        """Salt and pepper on a share of the units; of one draw, a larger share contains a smaller."""

        def bits(key: Array, start: Array, draw: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(key, start), draw)
            return jax.random.bits(key, (setting.clean.shape[1],), jnp.uint32)

        noise = jax.vmap(bits)(setting.keys, state.start, state.draw)
        shares = (np.arange(1, self.shares + 1) / self.shares) ** 2
        limit = jnp.asarray((shares * (2**32 - 1)).astype(np.uint32))[state.share]
        # The lowest bit of the draw chooses salt or pepper, the others the share.
        colour = (noise & 1).astype(setting.clean.dtype)[..., None]
        return jnp.where((noise <= limit[:, None])[..., None] & setting.region, colour, setting.clean)

    def _scanned(self, setting: _Setting, state: _State, trial: Array, fooled: Array) -> _State:
        """Less of this draw where it fools; else another draw, and in the end resets, or the next start."""
        hit = state._replace(
            share=jnp.maximum(state.share - 1, 0), least=state.share, sweep=_resets.begin(trial)
        )
        missing = state.least == self.shares
        share = jnp.where(missing, (state.share + 1) % self.shares, state.least - 1)
        new = select(fooled, hit, state._replace(draw=state.draw + 1, share=share))
        resets = new._replace(phase=jnp.full_like(new.phase, _RESET))
        after = select(new.least < self.shares, resets, self._next_start(setting, new))
        return select((new.draw >= self.draws) | (new.least == 0), after, new)

    def _reset(
        self, setting: _Setting, state: _State, order: Array, unit: Array, trial: Array, fooled: Array
    ) -> _State:
        """Goes round until no change can be undone; then judges what remains, and takes the next start."""
        sweep = _resets.after(state.sweep, order, unit, trial, fooled)
        image = sweep.image.reshape(setting.example.image.shape)
        found = Nearest(image, lengths(self.neighbourhood, setting.example, image), state.nearest.broken)
        minimal = state._replace(nearest=nearer_of(state.nearest, found))
        over = sweep.fails >= _resets.num_changes(sweep.image, setting.clean)
        return select(over, self._next_start(setting, minimal), state._replace(sweep=sweep))

    def _bisected(
        self, setting: _Setting, state: _State, order: Array, unit: Array, trial: Array, fooled: Array
    ) -> _State:
        """Keeps the values halfway to the clean ones that still fool; then the next unit, each once."""
        image = select(fooled, trial, state.sweep.image)
        over = state.halvings + 1 >= self.bisections
        behind = _resets.Sweep(image, _resets.order_at(order, unit), state.sweep.fails + 1)
        sweep = select(over, behind, state.sweep._replace(image=image))
        done = sweep.fails >= _resets.num_changes(image, setting.clean)
        return state._replace(
            phase=jnp.where(done, _DONE, _BISECT),
            sweep=sweep,
            nearest=state.nearest._replace(image=image.reshape(setting.example.image.shape)),
            halvings=jnp.where(over, 0, state.halvings + 1),
        )

    def _next_start(self, setting: _Setting, state: _State) -> _State:
        """The next start; the bisection of the best after the last, or once a single change is left."""
        nearest = state.nearest
        over = (state.start + 1 >= self.starts) | (nearest.length <= 1)
        bisects = jnp.isfinite(nearest.length) & (self.bisections > 0)
        return state._replace(
            phase=jnp.where(over, jnp.where(bisects, _BISECT, _DONE), _SCAN),
            start=state.start + 1,
            draw=jnp.zeros_like(state.draw),
            share=jnp.zeros_like(state.share),
            least=jnp.full_like(state.least, self.shares),
            sweep=_resets.begin(_resets.to_units(nearest.image, setting.clean.shape[-1])),
            halvings=jnp.zeros_like(state.halvings),
        )
