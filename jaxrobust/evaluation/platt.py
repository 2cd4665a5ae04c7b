r"""Match probabilities from similarities: $p = \sigma(a\,(s - \tau))$.

After Platt, "Probabilistic outputs for support vector machines" (1999), with the targets that keep the fit
finite on separable data. Deviations: genuine and impostor pairs weigh half each (how many impostor pairs a
list has is our choice and no prior), and tau may be given, so that p = 1/2 at the decision threshold.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from jaxrobust import _validate
from jaxrobust.evaluation.roc import check_pairs

_STEPS = 100


class Platt(NamedTuple):
    """The slope a >= 0, per unit of similarity, and the similarity tau at which p = 1/2.

    a = 0 says that similarities tell nothing: p = 1/2 throughout.
    """

    a: float
    tau: float

    def probability(self, similarities: ArrayLike) -> np.ndarray:
        """p = sigmoid(a (s - tau)), float64 in [0, 1], of similarities of any shape."""
        return expit(self.a * (np.asarray(similarities, np.float64) - self.tau))


def fit_platt(similarities: ArrayLike, genuine: ArrayLike, tau: float | None = None) -> Platt:
    r"""Fits $\min_{a, \tau} -\sum_i w_i\,[t_i \log p_i + (1 - t_i) \log(1 - p_i)]$ on validation pairs.

    Targets $t_+ = (n_+ + 1) / (n_+ + 2)$ and $t_- = 1 / (n_- + 2)$ (Platt 1999, section 2.2): the minimum is
    finite for any data, separable too. Weights w are 1/(2 n) of each kind. By Newton's method with halved
    steps; the problem is convex.

    Args:
        similarities: `[m]`.
        genuine: bool `[m]`.
        tau: where p is to be 1/2, e.g. the threshold at a FAR of 1%; None fits it too.

    Returns:
        `Platt(a, tau)`. Where larger similarities do not speak for genuine pairs (constant similarities among
        them) a is 0, and a fitted tau is half way between the mean genuine and impostor similarity.

    Raises:
        ValueError: as `roc`; a tau that is not finite.

    >>> round(fit_platt([0.8, 0.6, 0.2, 0.0], [True, True, False, False]).tau, 9)
    0.4
    """
    scores, flags = check_pairs(similarities, genuine)
    num = int(flags.sum()), int((~flags).sum())
    weights = np.where(flags, 0.5 / num[0], 0.5 / num[1])
    targets = np.where(flags, (num[0] + 1) / (num[0] + 2), 1 / (num[1] + 2))
    means = float(scores[flags].mean()), float(scores[~flags].mean())
    if tau is not None:
        _validate.within("tau", tau, -np.inf, np.inf)
    centre = sum(means) / 2 if tau is None else float(tau)
    # In units of their spread, so that Newton's first step is a sensible one on any scale.
    spread = float(np.abs(scores - centre).max())
    nothing = Platt(0.0, centre)
    # Means of equal numbers may differ by rounding.
    if spread == 0 or means[0] - means[1] <= 1e-12 * float(np.abs(scores).max()):
        return nothing
    design = ((scores - centre) / spread)[:, None]
    if tau is None:
        design = np.concatenate([design, np.ones_like(design)], axis=1)
    solution = _newton(design, targets, weights)
    slope = float(solution[0])
    if slope <= 0:
        return nothing
    offset = float(solution[1]) if tau is None else 0.0
    return Platt(slope / spread, centre - spread * offset / slope)


def _newton(design: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The minimum of the weighted cross-entropy of sigmoid(design @ v) against soft targets."""

    def loss(v: np.ndarray) -> float:
        z = design @ v
        return float(np.sum(weights * (np.logaddexp(0, z) - targets * z)))

    v = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = expit(design @ v)
        gradient = design.T @ (weights * (p - targets))
        curvature = design.T @ (design * (weights * p * (1 - p))[:, None])
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size, now = 1.0, loss(v)
        while loss(v - size * step) > now and size > 1e-10:
            size /= 2
        v = v - size * step
        if np.abs(size * step).max() <= 1e-12 * max(1.0, float(np.abs(v).max())):
            break
    return v
