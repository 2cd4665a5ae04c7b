"""What is explained: one number for each image, made of a score function.

Each takes a `ScoreFn` and gives a `TargetFn`; made of `Stages`, it is `Stages` again, so that one target
serves every map. A map of the logit or the log-probability shows more than one of the probability, which does
not move where the model is sure.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxrobust.numerics.similarity import cosine
from jaxrobust.saliency._types import Stages, TargetFn
from jaxrobust.types import Array, Example, ScoreFn


def class_logit(score_fn: ScoreFn) -> TargetFn:
    """The logit of the class in `Example.target`.

    >>> from jaxrobust.saliency import of_images
    >>> target_fn = class_logit(of_images(lambda images: images.sum(axis=(1, 2))))
    >>> images = jnp.array([0.25, 0.75]).reshape(1, 1, 1, 2)
    >>> target_fn(images, Example(images, jnp.array([1]))).tolist()
    [0.75]
    """
    return _then(_class_logit, score_fn)


def class_log_probability(score_fn: ScoreFn) -> TargetFn:
    """The log-probability, by softmax, of the class in `Example.target`."""
    return _then(_class_log_probability, score_fn)


def class_log_odds(score_fn: ScoreFn) -> TargetFn:
    r"""$\log\frac{p}{1 - p}$ of the class in `Example.target`: its logit over the log-sum-exp of the others.

    Unlike the log-probability it still moves, in float32, where the model is as good as certain.

    >>> from jaxrobust.saliency import of_images
    >>> sure = of_images(lambda images: images.sum(axis=(1, 2)) * jnp.array([100.0, 0.0]))
    >>> image = jnp.ones((1, 1, 1, 2))
    >>> ex = Example(image, jnp.array([0]))
    >>> [float(fn(sure)(image, ex)[0]) for fn in (class_log_odds, class_log_probability)]
    [100.0, 0.0]
    """
    return _then(_class_log_odds, score_fn)


def class_probability(score_fn: ScoreFn) -> TargetFn:
    """The probability, by softmax, of the class in `Example.target`."""
    return _then(_class_probability, score_fn)


def similarity(embed_fn: ScoreFn) -> TargetFn:
    """cos(f(x), `Example.reference`), of embeddings `embed_fn(images, example) -> [b, d]` of any length."""
    return _then(_similarity, embed_fn)


def pair_support(embed_fn: ScoreFn) -> TargetFn:
    """What supports the truth about a pair: the similarity of genuine pairs, its negative for impostors.

    `Example.target` is 0 for the same person and 1 for another, as in `numerics.similarity.pair_logits`.
    """
    return _then(_pair_support, embed_fn)


def negated(target_fn: TargetFn) -> TargetFn:
    """The negative: maps of what speaks against the target."""
    return _then(_negated, target_fn)


def _then(fn: Callable[[Array, Example], Array], score_fn: ScoreFn) -> TargetFn:
    """`fn` after the score function, or after the head of one that is cut in two."""
    if isinstance(score_fn, Stages):
        return replace(score_fn, head_fn=Partial(_both, fn, score_fn.head_fn))
    return Partial(_both, fn, score_fn)


def _both(fn: Callable[[Array, Example], Array], score_fn: ScoreFn, x: Array, example: Example) -> Array:
    return fn(score_fn(x, example), example)


def _class_logit(logits: Array, example: Example) -> Array:
    """NaN for a class out of range, so that it is seen, in its derivative too."""
    if logits.ndim != 2 or example.target.shape != logits.shape[:1]:
        raise ValueError(
            f"Expected logits [b, k] and one class for each row, got shapes {list(logits.shape)} and "
            f"{list(example.target.shape)}. Embeddings go with similarity or pair_support."
        )
    label, num_classes = example.target, logits.shape[-1]
    known = (label >= 0) & (label < num_classes)
    chosen = jnp.take_along_axis(logits, jnp.clip(label, 0, num_classes - 1)[:, None], axis=-1)[:, 0]
    return chosen * jnp.where(known, 1.0, jnp.nan)


def _class_log_probability(logits: Array, example: Example) -> Array:
    return _class_logit(jax.nn.log_softmax(logits.astype(jnp.float32)), example)


def _class_log_odds(logits: Array, example: Example) -> Array:
    logits = logits.astype(jnp.float32)
    own = _class_logit(logits, example)
    others = jnp.where(jax.nn.one_hot(example.target, logits.shape[-1]) > 0, -jnp.inf, logits)
    return own - jax.nn.logsumexp(others, axis=-1)


def _class_probability(logits: Array, example: Example) -> Array:
    return jnp.exp(_class_log_probability(logits, example))


def _similarity(embeddings: Array, example: Example) -> Array:
    if example.reference is None:
        raise ValueError(
            "A similarity needs the partners' embeddings: Example(image, target, reference=...) or "
            "saliency_maps(..., references=...), [b, d]."
        )
    if embeddings.shape != example.reference.shape:
        raise ValueError(
            f"Expected embeddings of the shape of their partners', {list(example.reference.shape)}, got "
            f"{list(embeddings.shape)}. Make both with the same model."
        )
    return cosine(embeddings, example.reference)


def _pair_support(embeddings: Array, example: Example) -> Array:
    target = example.target
    sign = jnp.where(target == 0, 1.0, jnp.where(target == 1, -1.0, jnp.nan))
    return sign * _similarity(embeddings, example)


def _negated(target: Array, example: Example) -> Array:
    return -target
