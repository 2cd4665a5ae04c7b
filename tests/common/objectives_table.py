"""One row per objective: how to build it from an attack, and what it does with its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust.objectives import AT, KLR, RST, RT, SRT, TRADES, UAT, FaceGated, FaceSRT, Inversion, Standard
from jaxrobust.types import Array, Attack, AttackResult, Batch, Example, Model, Objective, Outputs, ScoreFn


@dataclass(frozen=True, kw_only=True)
class Shift:
    """An attack whose answer is known: x + amount, plus noise from the row's key; no search."""

    amount: Any = 0.1
    noise: float = 0.0

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Shifts every image."""
        shape = example.image.shape[1:]
        noise = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
        image = example.image + self.amount + self.noise * noise
        target = example.target if example.target.ndim == 1 else jnp.argmax(example.target, -1)
        found = jnp.argmax(score_fn(image, example), -1) != target
        return AttackResult(image, image - example.image, found, jnp.ones(image.shape[0]))

    def scaled(self, factor: float | Array) -> "Shift":
        """A shift of another length."""
        return replace(self, amount=self.amount * factor)


SHAPE = (2, 2, 1)
CLASSES = 3


def _init(key: Array) -> tuple[Any, Any]:
    kernel = jax.random.normal(key, (4, CLASSES))
    return {"kernel": kernel}, {"passes": jnp.zeros(()), "rows": jnp.zeros(())}


def _apply(params, stats, x, *, train, keys=None, axis_name=None):
    """Logits x W; in train mode times a factor from the row's key, and statistics count passes and rows.

    The embedding of a face is x W - 1, so that it has directions of all kinds.
    """
    logits = x.reshape(x.shape[0], -1) @ params["kernel"]
    if not train:
        return Outputs(logits, logits - 1.0), stats
    logits = logits * jax.vmap(lambda key: jax.random.uniform(key, (), minval=0.5, maxval=1.5))(keys)[:, None]
    return Outputs(logits, logits - 1.0), {
        "passes": stats["passes"] + 1.0,
        "rows": stats["rows"] + x.shape[0],
    }


LINEAR = Model(_init, _apply, SHAPE, CLASSES)


def plain_apply(params, stats, x, *, train, keys=None, axis_name=None):
    """Logits x W and embedding x W - 1 in both modes, for losses by hand."""
    logits = x.reshape(x.shape[0], -1) @ params["kernel"]
    return Outputs(logits, logits - 1.0), stats


PLAIN = Model(_init, plain_apply, SHAPE, CLASSES)


def _init_pixels(key: Array) -> tuple[Any, Any]:
    return {"kernel": jax.random.normal(key, (FEATURES, 4))}, {}


def _apply_pixels(params, stats, x, *, train, keys=None, axis_name=None):
    """A decoder of three features: the pixels' logits are e K, in train mode times a factor from the key."""
    logits = x.reshape(x.shape[0], -1) @ params["kernel"]
    if train:
        logits *= jax.vmap(lambda key: jax.random.uniform(key, (), minval=0.5, maxval=1.5))(keys)[:, None]
    return Outputs(logits, None, {"image": jax.nn.sigmoid(logits).reshape(-1, *SHAPE)}), stats


def pixel_features(kernel: Array, images: Array, keys: Array | None = None) -> Array:
    """x W, with a little noise where there are keys."""
    values = images.reshape(images.shape[0], -1) @ kernel
    if keys is None:
        return values
    return values + 0.01 * jax.vmap(lambda key: jax.random.normal(key, (FEATURES,)))(keys)


def pixel_distance(kernel: Array, first: Array, second: Array) -> Array:
    """The mean of |W' (x - x')| by row."""
    return jnp.abs((first - second).reshape(first.shape[0], -1) @ kernel).mean(-1)


FEATURES = 3
PIXELS = Model(_init_pixels, _apply_pixels, (1, 1, FEATURES), 4)
_WEIGHTS = np.random.default_rng(0).normal(size=(4, FEATURES)).astype(np.float32)
FEATURES_FN = Partial(pixel_features, _WEIGHTS)
DISTANCE_FN = Partial(pixel_distance, _WEIGHTS[:, ::-1].copy())


class Row(NamedTuple):
    """`make(attack)` builds the objective; `metrics` are the names it must report.

    `unlabelled`: whether the loss depends on the unlabelled images; `pseudo`: and on their pseudo-labels;
    `model`: what it trains.
    """

    make: Callable[[Attack], Objective]
    metrics: frozenset[str]
    unlabelled: bool
    pseudo: bool = False
    model: Model = LINEAR


_ROBUST = frozenset({"loss", "standard_loss", "robust_loss", "accuracy", "agreement"})

OBJECTIVES_TABLE: Mapping[str, Row] = {
    "standard": Row(lambda attack: Standard(), frozenset({"loss", "standard_loss", "accuracy"}), False),
    "at": Row(lambda attack: AT(attack=attack), frozenset({"loss", "adversarial_accuracy"}), False),
    "rt": Row(lambda attack: RT(attack=attack, lam=0.7), _ROBUST, False),
    "srt": Row(lambda attack: SRT(attack=attack, lam=0.7), _ROBUST, True),
    "trades": Row(lambda attack: TRADES(attack=attack, beta=0.7), _ROBUST, False),
    "uat": Row(
        lambda attack: UAT(attack=attack, online_weight=0.7),
        frozenset({"loss", "fixed_loss", "online_loss", "adversarial_accuracy"}),
        True,
        True,
    ),
    "rst": Row(lambda attack: RST(attack=attack, beta=0.7), _ROBUST, True, True),
    "klr": Row(lambda attack: KLR(attack=attack, lam=0.7), _ROBUST, False),
    # Without a gate the first step has all terms; `test_face_gated` is about the gate.
    "face_gated": Row(
        lambda attack: FaceGated(attack=attack, lam=0.7, gate=None),
        frozenset(
            {"loss", "standard_loss", "adversarial_loss", "regulariser", "accuracy"}
            | {"gate_open", "gate_measure", "impostor_cosine"}
        ),
        False,
    ),
    "face_srt": Row(lambda attack: FaceSRT(attack=attack, lam=0.7), _ROBUST - {"agreement"}, True),
    "inversion": Row(
        lambda attack: Inversion(
            features_fn=FEATURES_FN,
            ssim_weight=0.7,
            perceptual_weight=0.3,
            perceptual_fn=DISTANCE_FN,
            feature_weight=0.1,
            window=1,
        ),
        frozenset({"loss", "pixel_loss", "ssim", "perceptual_loss", "feature_cosine"}),
        True,
        model=PIXELS,
    ),
}


def batch(num_labelled: int = 4, num_unlabelled: int = 8, seed: int = 0) -> Batch:
    """Random images in [0, 1], their labels and pseudo-labels."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return Batch(
        image=jax.random.uniform(keys[0], (num_labelled, *SHAPE)),
        label=jax.random.randint(keys[1], (num_labelled,), 0, CLASSES),
        unlabelled=jax.random.uniform(keys[2], (num_unlabelled, *SHAPE)),
        pseudo_label=jnp.arange(num_unlabelled, dtype=jnp.int32) % CLASSES,
    )
