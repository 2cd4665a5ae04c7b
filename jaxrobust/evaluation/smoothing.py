r"""Certificates by randomised smoothing (Cohen, Rosenfeld & Kolter, arXiv:1902.02918).

The smoothed classifier of a model f is $g(x) = \arg\max_c P(f(x + r) = c)$, $r \sim N(0, \sigma^2 I)$:
another classifier than f, and mostly a good one only where f was trained under noise. If its class has
probability at least $\underline{p_A} > 1/2$, no x' with
$\|x' - x\|_2 < \sigma\,\Phi^{-1}(\underline{p_A})$ changes it (theorem 1, with
$\overline{p_B} = 1 - \underline{p_A}$). Attacks bound the robust accuracy of f from above; certificates bound
that of g from below.

Noise is added without clipping, as the theorem needs: the model sees values outside [0, 1]. So this is the
noise of `neighbourhoods.GaussianNoise` before its cut to the box.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats as scipy_stats

from jaxrobust import _validate
from jaxrobust.evaluation import _engine, _sharding
from jaxrobust.evaluation._types import Curve
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import Array, Model, PyTree

ABSTAINS = -1
"""The prediction where the draws do not settle the class."""

NAME = "smoothing"
ProgressFn = Callable[[str, int, int], None]
VotesFn = Callable[[int, int], np.ndarray]

# What the draws are for: those that choose the class must not also judge it.
_SELECT, _JUDGE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What CERTIFY found, image by image; each line holds with probability at least 1 - alpha.

    Attributes:
        prediction: int32 `[n]`, the class of the smoothed classifier, -1 where it abstains.
        radius: float64 `[n]`, l_2 radius in pixels of [0, 1] within which `prediction` cannot change; 0
            where it abstains.
        p_lower: float64 `[n]`, the lower bound of the chosen class's probability, also where it abstains.
        labels: int32 `[n]`.
        sigma, num_select, num_certify, alpha, seed: as asked.
        seconds: of wall-clock time, compilation included.
    """

    prediction: np.ndarray
    radius: np.ndarray
    p_lower: np.ndarray
    labels: np.ndarray
    sigma: float
    num_select: int
    num_certify: int
    alpha: float
    seed: int
    seconds: float

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.labels)


def certify(
    model: Model,
    params: PyTree,
    stats: PyTree,
    images: Any,
    labels: np.ndarray,
    *,
    sigma: float,
    num_select: int = 100,
    num_certify: int = 10_000,
    alpha: float = 0.001,
    batch_size: int,
    seed: int,
    num_devices: int | None = None,
    progress_fn: ProgressFn | None = None,
) -> Certificate:
    r"""The certified l_2 radius of every image: algorithm CERTIFY of arXiv:1902.02918, section 3.2.2.

    `num_select` draws choose the class c; of `num_certify` fresh ones m fall to it, and
    $\underline{p_A} = B^{-1}(\alpha; m, n - m + 1)$, the quantile of a beta distribution, is the lower end of
    Clopper and Pearson's one-sided interval of level $1 - \alpha$. The radius is
    $\sigma\,\Phi^{-1}(\underline{p_A})$ where $\underline{p_A} > 1/2$; elsewhere it abstains. n draws certify
    at most $\sigma\,\Phi^{-1}(\alpha^{1/n})$: 3.2 sigma for 10,000 draws, 3.8 for 100,000.

    Draw d of image i comes from keys of (seed, i, d) alone, so the batch size changes nothing. One program
    serves every sigma, number of draws and set of weights.

    Args:
        model, params, stats, images, labels, num_devices: as in `evaluate`.
        sigma: deviation of the noise, in pixels of [0, 1], > 0; best the one the model was trained with.
        num_select: n_0, draws that choose the class.
        num_certify: n, draws that bound its probability.
        alpha: the chance, in (0, 1), that an image's line does not hold.
        batch_size: noisy images scored at once, on all devices of this host together.
        seed: of every draw.
        progress_fn: called as `progress_fn("smoothing", done, total)` after every batch of images.

    A model that draws at random by itself (`Model.random`) is certified as the mean over fixed draws of it.

    Returns:
        A `Certificate`.

    Raises:
        ValueError: for numbers out of range; images and labels as in `evaluate`.

    Example:
        >>> from jaxrobust.types import Outputs
        >>> def apply(w, stats, x, *, train, keys=None, axis_name=None):
        ...     return Outputs((x.reshape(len(x), -1) - 0.5) @ w), stats
        >>> model = Model(lambda key: (None, {}), apply, (1, 2, 1), 2)
        >>> images = np.array([[0.9, 0.5], [0.5, 0.5]]).reshape(2, 1, 2, 1)
        >>> w = np.array([[1.0, -1.0], [0.0, 0.0]])
        >>> found = certify(model, w, {}, images, np.array([0, 0]), sigma=0.25, batch_size=100, seed=0)
        >>> found.prediction.tolist(), bool(0.37 < found.radius[0] < 0.4)
        ([0, -1], True)
    """
    check_smoothing(sigma=sigma, num_select=num_select, num_certify=num_certify, alpha=alpha)
    start = time.perf_counter()
    s = _engine.subject(
        model, params, stats, images, labels, batch_size=batch_size, seed=seed, num_devices=num_devices
    )

    def found_fn(votes_fn: VotesFn) -> tuple[np.ndarray, np.ndarray]:
        classes = votes_fn(_SELECT, num_select).argmax(axis=-1).astype(np.int32)
        return classes, votes_fn(_JUDGE, num_certify)[np.arange(len(classes)), classes]

    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32))
    chosen, votes = _by_image(s, sigma, batch_size, nothing, found_fn, progress_fn)
    p_lower = _clopper_pearson_lower(votes, num_certify, alpha)
    sure = p_lower > 0.5
    return Certificate(
        prediction=np.where(sure, chosen, ABSTAINS).astype(np.int32),
        radius=np.where(sure, sigma * scipy_stats.norm.ppf(p_lower), 0.0),
        p_lower=p_lower,
        labels=s.labels,
        sigma=float(sigma),
        num_select=int(num_select),
        num_certify=int(num_certify),
        alpha=float(alpha),
        seed=s.seed,
        seconds=time.perf_counter() - start,
    )


def smoothed_predict(
    model: Model,
    params: PyTree,
    stats: PyTree,
    images: Any,
    *,
    sigma: float,
    num: int = 1_000,
    alpha: float = 0.001,
    batch_size: int,
    seed: int,
    num_devices: int | None = None,
    progress_fn: ProgressFn | None = None,
) -> np.ndarray:
    """The smoothed classifier's class of every image: algorithm PREDICT of arXiv:1902.02918, section 3.2.1.

    It abstains unless the two classes drawn most often differ by a two-sided binomial test of level alpha;
    what it answers is the class of g with probability at least 1 - alpha (proposition 1).

    Args:
        model, params, stats, images, sigma, alpha, batch_size, seed, num_devices, progress_fn: as in
            `certify`.
        num: n, draws per image.

    Returns:
        int32 `[n]`, -1 where it abstains.

    Raises:
        ValueError: as `certify`.
    """
    check_smoothing(sigma=sigma, num=num, alpha=alpha)
    labels = np.zeros(len(images), np.int32)
    s = _engine.subject(
        model, params, stats, images, labels, batch_size=batch_size, seed=seed, num_devices=num_devices
    )

    def found_fn(votes_fn: VotesFn) -> tuple[np.ndarray]:
        return (_settled(votes_fn(_SELECT, num), alpha).astype(np.int32),)

    return _by_image(s, sigma, batch_size, (np.zeros(0, np.int32),), found_fn, progress_fn)[0]


def certified_accuracy(certificate: Certificate, radii: Sequence[float]) -> list[dict[str, Any]]:
    """The share of images that are right and certified beyond each radius, JSON-ready.

    Beyond, not at: theorem 1 holds in the open ball, and attacks look in the closed one. An image that
    abstains counts as wrong at every radius.

    Args:
        certificate: from `certify`.
        radii: l_2, in pixels of [0, 1], >= 0.

    Returns:
        One dict per radius, in the order given: `radius`, `correct` (a count), `n`, `accuracy` and its 95%
        Wilson interval `accuracy_low`, `accuracy_high`.

    Raises:
        ValueError: for a negative or non-finite radius.
    """
    right = certificate.prediction == certificate.labels
    rows = []
    for radius in radii:
        _validate.non_negative("radius", radius, "Radii are in pixels over the whole image.")
        correct = int(np.sum(right & (certificate.radius > radius)))
        low, high = wilson_interval(correct, certificate.n)
        rows.append(
            {
                "radius": float(radius),
                "correct": correct,
                "n": certificate.n,
                "accuracy": correct / certificate.n,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return rows


def certificate_row(certificate: Certificate) -> dict[str, Any]:
    """One JSON-ready line about a certificate, beside the rows of the attacks.

    Its `accuracy` is that of the smoothed classifier with abstentions counted as wrong (certified accuracy at
    radius 0); `mean_radius` is the average certified radius, 0 where the class is wrong or it abstains.
    """
    right = certificate.prediction == certificate.labels
    at_zero = certified_accuracy(certificate, [0.0])[0]
    won = np.where(right, certificate.radius, 0.0)
    return {
        "attack": NAME,
        **{name: at_zero[name] for name in ("correct", "n", "accuracy", "accuracy_low", "accuracy_high")},
        "abstained": int(np.sum(certificate.prediction == ABSTAINS)),
        "mean_radius": float(won.mean()),
        "median_radius": float(np.median(won)),
        "largest_radius": _largest_radius(certificate),
        "sigma": certificate.sigma,
        "num_select": certificate.num_select,
        "num_certify": certificate.num_certify,
        "alpha": certificate.alpha,
        "seed": certificate.seed,
        "seconds": round(certificate.seconds, 4),
    }


def certified_curve(certificate: Certificate, radii: Sequence[float] | None = None) -> Curve:
    """Certified accuracy against radius as a `Curve`, to stand beside those of attacks in the l_2 ball.

    It is a lower bound, theirs are upper bounds. `eps` is the largest radius of the curve, in pixels, and
    `factors` are the radii over it; the point at 0 is the smoothed classifier's accuracy.

    Args:
        certificate: from `certify`.
        radii: as in `certified_accuracy`, sorted, and 0 is added; None: 25 steps up to the largest radius
            that so many draws can certify.

    Raises:
        ValueError: for radii that are negative, not finite, or all 0.
    """
    if radii is None:
        radii = np.linspace(0.0, _largest_radius(certificate), 26).tolist()
    rows = certified_accuracy(certificate, sorted({0.0, *map(float, radii)}))
    eps = rows[-1]["radius"]
    _validate.positive("the largest radius", eps, "Give radii in pixels, e.g. (0.25, 0.5, 1.0).")
    return Curve(
        attack=NAME,
        radius=f"certified, σ {certificate.sigma:g}",
        eps=eps,
        factors=tuple(row["radius"] / eps for row in rows),
        accuracy=tuple(row["accuracy"] for row in rows),
        low=tuple(row["accuracy_low"] for row in rows),
        high=tuple(row["accuracy_high"] for row in rows),
        n=certificate.n,
        seconds=certificate.seconds,
        norm=2.0,
    )


def check_smoothing(*, sigma: float, alpha: float = 0.001, **numbers: int) -> None:
    """Raises ValueError for what would certify nothing, or wrongly."""
    _validate.positive("sigma", sigma, "It is in pixels of [0, 1], e.g. sigma=0.25.")
    _validate.positive("alpha", alpha, "It is the chance of a wrong certificate, e.g. 0.001.")
    _validate.decay("alpha", alpha, "It is the chance of a wrong certificate, e.g. 0.001.")
    for name, value in numbers.items():
        _validate.at_least(name, value, 1)


def _largest_radius(certificate: Certificate) -> float:
    """sigma Phi^-1(alpha^(1/n)): the radius if every draw falls to one class."""
    p_lower = certificate.alpha ** (1 / certificate.num_certify)
    return max(0.0, certificate.sigma * float(scipy_stats.norm.ppf(p_lower)))


def _clopper_pearson_lower(votes: np.ndarray, num: int, alpha: float) -> np.ndarray:
    """The lower end of the one-sided interval of level 1 - alpha for votes of num, float64."""
    bound = scipy_stats.beta.ppf(alpha, np.maximum(votes, 1), num - votes + 1)
    return np.where(votes > 0, bound, 0.0)


def _settled(votes: np.ndarray, alpha: float) -> np.ndarray:
    """The class with most votes, or -1 where the first two may be equally likely, by a two-sided test."""
    second, first = np.sort(np.pad(votes, ((0, 0), (1, 0))), axis=-1)[:, -2:].T
    p_value = np.minimum(1.0, 2 * scipy_stats.binom.sf(first - 1, first + second, 0.5))
    return np.where(p_value <= alpha, votes.argmax(axis=-1), ABSTAINS)


def _by_image(
    s: _engine.Subject,
    sigma: float,
    batch_size: int,
    nothing: tuple[np.ndarray, ...],
    found_fn: Callable[[VotesFn], tuple[np.ndarray, ...]],
    progress_fn: ProgressFn | None,
) -> tuple[np.ndarray, ...]:
    """`found_fn(votes_fn)` of every batch of images, joined; `nothing` is what it finds of no image.

    `votes_fn(purpose, num)` -> int `[m, k]`: how often each class is drawn for the images of the batch.
    """
    key, own = _engine.attack_key(s.seed, NAME), np.arange(s.n)[_sharding.share(s.n)]
    at_once = max(1, batch_size // s.batch_size)
    parts = [nothing]
    for positions, count in _sharding.batches(len(own), s.batch_size):
        rows = own[positions]
        batch = (rows.astype(np.int32), _engine.gather(s.images, rows))

        def votes_fn(purpose: int, num: int, batch=batch) -> np.ndarray:
            numbers = (np.float32(sigma), jax.random.fold_in(key, purpose), np.int32(num))
            shared = (s.params, s.stats, *_sharding.everywhere(s.mesh, numbers))
            sizes = (s.model.num_classes, at_once)
            return _sharding.call(_program(), s.mesh, s.model.apply, sizes, shared=shared, rows=batch)

        parts.append(tuple(values[:count] for values in found_fn(votes_fn)))
        if progress_fn is not None:
            progress_fn(NAME, sum(len(part[0]) for part in parts), len(own))
    joined = tuple(np.concatenate(part) for part in zip(*parts))
    return _sharding.gathered(joined, _sharding.shares(s.n))


def _count_votes(
    apply_fn: Callable[..., Any], sizes: tuple[int, int], shared: PyTree, batch: tuple[Array, Array]
) -> Array:
    """Votes `[m, k]` of `num` draws; NaN logits vote for no class, which can only shorten a radius.

    `sizes`: k, and how many draws of each image are scored at once.
    """
    num_classes, at_once = sizes
    params, stats, sigma, key, num = shared
    rows, images = batch
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def noisy(row_key: Array, image: Array, draw: Array) -> Array:
        noise = jax.random.normal(jax.random.fold_in(row_key, draw), image.shape, image.dtype)
        return image + sigma * noise

    def body(i: Array, votes: Array) -> Array:
        draws = i * at_once + jnp.arange(at_once)
        copies = jax.vmap(jax.vmap(noisy, (None, None, 0)), (0, 0, None))(keys, images, draws)
        logits = apply_fn(params, stats, copies.reshape(-1, *images.shape[1:]), train=False)[0].logits
        vote = jax.nn.one_hot(jnp.argmax(logits, axis=-1), num_classes, dtype=jnp.int32)
        vote = jnp.where(jnp.isnan(logits).any(axis=-1, keepdims=True), 0, vote)
        counted = jnp.where(draws < num, 1, 0)
        return votes + (vote.reshape(len(rows), at_once, num_classes) * counted[:, None]).sum(axis=1)

    steps = (num + at_once - 1) // at_once
    return jax.lax.fori_loop(0, steps, body, jnp.zeros((len(rows), num_classes), jnp.int32))


@functools.cache
def _program() -> Any:
    """Made at first use, as in `_engine`."""
    return _sharding.compiled(_count_votes, num_static=2)
