"""From what a user hands to an audit to subjects, checked before anything is compiled."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import saliency
from jaxrobust.audits import _subjects
from jaxrobust.audits._subjects import Explained, Subject
from jaxrobust.data import Identities, Pairs, to_float
from jaxrobust.evaluation import _embed
from jaxrobust.evaluation.platt import Platt
from jaxrobust.saliency import GradCAM, Region, SaliencyMap


def pair_subject(
    embed_fn: Any,
    identities: Identities,
    pairs: Pairs,
    rows: np.ndarray,
    platt: Platt,
    *,
    fill: np.ndarray,
    stages: Mapping[str, Any],
    explained: Any,
    randomised: Mapping[str, Any],
    batch_size: int,
) -> Subject:
    """A model before each image of its pairs in turn: the pairs' first images, then their second."""
    changed = np.concatenate([pairs.first[rows], pairs.second[rows]])
    partner = np.concatenate([pairs.second[rows], pairs.first[rows]])
    target = np.where(np.tile(pairs.genuine[rows], 2), 0, 1).astype(np.int32)
    images = to_float(np.asarray(identities.images[changed]))

    def references(fn: Any) -> np.ndarray:
        needed, place = np.unique(partner, return_inverse=True)
        return _embed.embed(fn, identities, needed, batch_size)[place]

    def of(layer: str, whole: Any, cut: Mapping[str, Any]) -> Explained:
        return Explained(
            layer,
            saliency.pair_support(_subjects.score_fn(whole)),
            {key: saliency.pair_support(_subjects.score_fn(one)) for key, one in cut.items()},
            references(whole),
        )

    reference = references(embed_fn)
    return Subject(
        images=images,
        target=target,
        reference=reference,
        explained=of("", embed_fn if explained is None else explained, stages),
        judge=_subjects.pair_judge(embed_fn, target, reference, platt, batch_size),
        attack=_subjects.pair_attack(embed_fn, target, reference, platt.tau, batch_size),
        probability=saliency.pair_support(_subjects.score_fn(embed_fn)),
        randomised=tuple(of(layer, fn.whole, fn.cut) for layer, fn in randomised.items()),
        partner=to_float(np.asarray(identities.images[partner])),
        fill=as_fill(fill, images.shape[1:]),
        people=np.stack([identities.identity[changed], identities.identity[partner]], axis=1),
        fold=np.tile(pairs.fold[rows], 2),
        group=identities.identity[changed],
        number=np.concatenate([rows, rows + len(pairs.first)]),
        name=tuple(
            f"{identities.names[identities.identity[i]]} {'=' if same else '≠'} "
            f"{identities.names[identities.identity[j]]}"
            for i, j, same in zip(changed, partner, target == 0)
        ),
    )


def per_model(what: str, value: Any, folds: Sequence[int]) -> list[Any]:
    """The value of each fold: its own of a list, else the same for all."""
    if not isinstance(value, list) and (not isinstance(value, tuple) or hasattr(value, "_fields")):
        return [value] * len(folds)
    if len(value) != len(folds):
        raise ValueError(
            f"Expected {what} as one value, or one for each of the folds {list(folds)}, got {len(value)}."
        )
    return list(value)


def check_regions(regions: Mapping[str, Region], shape: tuple[int, ...]) -> None:
    """Raises ValueError for regions that images of this shape have not, before any map is made."""
    for region in regions.values():
        region(np.zeros((1, *shape[:2])))


def check_stages(
    maps: Mapping[str, SaliencyMap],
    stages: Mapping[str, Any] | None,
    randomised: Mapping[str, Any] | None,
) -> None:
    """Raises ValueError where a Grad-CAM has nothing to differentiate."""
    for name, method in maps.items():
        if not isinstance(method, GradCAM):
            continue
        for layer, value in (randomised or {}).items():
            for one in value if isinstance(value, list) else [value]:
                if name not in one.cut:
                    raise ValueError(
                        f"randomised[{layer!r}] has no cut for the map {name!r}, a GradCAM: give "
                        f"Randomised(whole, {{{name!r}: ...}}), see saliency.with_weights."
                    )
        if name not in (stages or {}):
            raise ValueError(
                f"The map {name!r} is a GradCAM, which needs the model cut at a layer: give stages="
                f"{{{name!r}: ...}} with saliency.model_logits or model_embeddings(model, params, stats, "
                "at=LAYER), or Stages(features_fn, head_fn) of a model of your own."
            )


def fill_of(fill: Any, identities: Identities, validation: Pairs, fold: int) -> np.ndarray:
    """What is given, or the mean image of the fold's validation people."""
    if fill is not None:
        return np.asarray(fill, np.float32)
    own = validation.at(validation.fold == fold) if fold in validation.fold else validation
    images = np.unique(np.concatenate([own.first, own.second]))
    return to_float(np.asarray(identities.images[images])).mean(axis=0)


def as_fill(fill: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32 `[h, w, c]` in [0, 1]; ValueError for another shape or range."""
    fill = np.asarray(fill, np.float32)
    if fill.shape not in ((), shape, shape[-1:]):
        raise ValueError(
            f"Expected fill to be a level, one per channel [{shape[-1]}] or an image {list(shape)}, got "
            f"shape {list(fill.shape)}."
        )
    if not (fill >= 0).all() or not (fill <= 1).all():
        raise ValueError(
            f"Expected fill in [0, 1], got {fill.min():g} .. {fill.max():g}. Divide 8-bit by 255."
        )
    return np.broadcast_to(fill, shape).astype(np.float32)


def as_pixels(images: Any) -> np.ndarray:
    """float32 `[m, h, w, c]` in [0, 1]; ValueError for another shape or range."""
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"Expected images [m, h, w, c], at least one, got shape {list(images.shape)}.")
    if images.dtype == np.uint8:
        return to_float(images)
    if images.dtype.kind != "f":
        raise ValueError(f"Expected images as uint8 or floats in [0, 1], got {images.dtype}.")
    if not np.isfinite(images).all():
        raise ValueError("Expected images without NaN or infinity. Remove those that have any.")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"Expected images in [0, 1], got {images.min():g} .. {images.max():g}. Divide 8-bit pixels by "
            "255; normalisation belongs into the model."
        )
    return images.astype(np.float32)
