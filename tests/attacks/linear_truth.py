"""Linear models and their true distances, solved by SciPy: what minimum-norm attacks in l2 are held to."""

import numpy as np
from scipy.optimize import minimize


def shortest(image, rows, gaps):
    """min ||d||_2 subject to rows @ d >= gaps and 0 <= x + d <= 1, by SLSQP; inf where there is none."""
    rows, gaps, flat = np.atleast_2d(rows).astype(float), np.atleast_1d(gaps), np.ravel(image).astype(float)
    found = minimize(
        lambda d: d @ d / 2,
        np.zeros_like(flat),
        jac=lambda d: d,
        bounds=list(zip(-flat, 1 - flat)),
        constraints={"type": "ineq", "fun": lambda d: rows @ d - gaps, "jac": lambda d: rows},
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-12},
    )
    feasible = found.success and (rows @ found.x - gaps > -1e-6).all()
    return float(np.linalg.norm(found.x)) if feasible else np.inf


def to_leave(image, weights, bias, label, other=None):
    """The distance to the nearest point where another class, or the one given, has the label's logit."""
    logits = weights @ np.ravel(image) + bias
    others = [j for j in range(len(bias)) if j != label] if other is None else [other]
    return min(shortest(image, weights[j] - weights[label], logits[label] - logits[j]) for j in others)


def to_reach(image, weights, bias, target):
    """The distance to the nearest point where no other class exceeds the target's logit."""
    logits = weights @ np.ravel(image) + bias
    others = [j for j in range(len(bias)) if j != target]
    return shortest(image, weights[target] - weights[others], logits[others] - logits[target])
