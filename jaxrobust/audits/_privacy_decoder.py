"""Decoders of a privacy audit: trained through the one loop, each in its own folder, so that it resumes."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.audits._privacy_inputs import Side, digest_of_images, features_shape
from jaxrobust.audits.privacy_config import PrivacyAudit
from jaxrobust.data import Augment, BatchSizes, ImageSet, ResidentFeed, Split
from jaxrobust.evaluation._provenance import describe
from jaxrobust.inversion import FeaturesFn
from jaxrobust.models import Decoder, build, decode
from jaxrobust.numerics import callables
from jaxrobust.objectives import Inversion
from jaxrobust.training import Checkpoints, Cosine, OptimizerConfig, Runtime, Wrapper, fit

Tell = Callable[[str, int, int], None]
_PARTS = 5


class Trained(NamedTuple):
    """A decoder, and the seconds that it took here, next to none where it was there already."""

    reconstruct: Callable[[np.ndarray], np.ndarray]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where decoders are trained.

    Attributes:
        folder: of their checkpoints; None keeps none.
        runtime: where and how.
        perceptual_fn: a distance by another network, or None.
        tell: receives what is trained, how far, of how many steps.
    """

    folder: Path | None
    runtime: Runtime
    perceptual_fn: Any
    tell: Tell


def default_runtime() -> Runtime:
    """One device: attackers are few, and batches small."""
    return Runtime(wrapper=Wrapper.JIT, num_devices=1)


def train_decoder(
    audit: PrivacyAudit,
    features_fn: FeaturesFn,
    attackers: Side,
    *,
    name: str,
    feature_weight: float,
    seed: int,
    bench: Bench,
    about: Mapping[str, Any],
) -> Trained:
    """A decoder of features, trained on the attackers' images.

    Args:
        audit: its settings.
        features_fn: what is published.
        attackers: whom it is trained on.
        name: of its folder, before a hash.
        feature_weight: lambda_3.
        seed: of its weights, the order of images and their flips.
        bench: where.
        about: the victim's hash and the data's: with the settings they name the folder, so that a decoder is
            taken again for the same victim, images and settings, and for no others.
    """
    images = attackers.images
    net = Decoder(image_shape=(images.shape[1], images.shape[2], images.shape[3]), width=audit.width)
    model = build(net, features_shape(features_fn, images.shape[1:]))
    objective = Inversion(
        features_fn=features_fn,
        ssim_weight=audit.ssim_weight,
        perceptual_weight=audit.perceptual_weight,
        feature_weight=feature_weight,
        perceptual_fn=bench.perceptual_fn if audit.perceptual_weight else None,
        window=audit.window,
    )
    optimizer = OptimizerConfig(name="adam", learning_rate=audit.learning_rate, schedule=Cosine())
    split = Split(
        ImageSet(images, attackers.identity.astype(np.int32)),
        images[:0],
        ImageSet(images[:0], np.zeros(0, np.int32)),
        {},
    )
    settings = {
        **about,
        "decoder": describe(net),
        "optimizer": describe(optimizer),
        "steps": audit.steps,
        "batch_size": audit.batch_size,
        "ssim_weight": audit.ssim_weight,
        "perceptual_weight": audit.perceptual_weight,
        "feature_weight": feature_weight,
        "window": audit.window,
        "flip": audit.flip,
        "seed": seed,
    }
    if objective.perceptual_fn is not None:
        arrays = callables.split(objective.perceptual_fn, "perceptual_fn")[1]
        settings["perceptual"] = digest_of_images(*map(np.asarray, arrays))
    checkpoints = None
    if bench.folder is not None:
        every = max(audit.steps // _PARTS, 1)
        checkpoints = Checkpoints(
            bench.folder / _own(name, settings), config=settings, keep=1, save_every=every
        )
    sizes = BatchSizes(labelled=audit.batch_size, unlabelled=0)
    start = time.perf_counter()
    state = fit(
        model=model,
        objective=objective,
        optimizer=optimizer.build(audit.steps),
        feed=ResidentFeed(split, sizes, seed=seed, augment=Augment(flip=audit.flip)),
        num_steps=audit.steps,
        seed=seed,
        runtime=bench.runtime,
        checkpoints=checkpoints,
        log_every=min(50, audit.steps),
        sinks=(_Told(name, audit.steps, bench.tell),),
        progress=False,
    )
    params, stats = jax.device_get((state.params, state.stats))

    def reconstruct(features: np.ndarray) -> np.ndarray:
        return decode(model, params, stats, features, batch_size=audit.batch_rows)

    return Trained(reconstruct, time.perf_counter() - start)


def _own(name: str, settings: Mapping[str, Any]) -> str:
    """The name with eight digits of a hash over all that decides a decoder."""
    return f"{name}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class _Told:
    """A sink of metrics that says how far a decoder is."""

    name: str
    steps: int
    tell: Tell

    def rewind(self, step: int) -> None:
        """From here on."""
        self.tell(self.name, step, self.steps)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Here."""
        self.tell(self.name, step, self.steps)

    def close(self) -> None:
        """Nothing is held."""
