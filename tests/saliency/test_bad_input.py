"""What the front end, the maps and the targets refuse, each with its message."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.saliency import (
    RISE,
    Gradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    class_log_probability,
    class_logit,
    class_probability,
    completeness_errors,
    negated,
    of_images,
    pair_support,
    saliency_maps,
    similarity,
)
from jaxrobust.types import Example

IMAGES = np.random.default_rng(0).uniform(size=(2, 4, 5, 1)).astype(np.float32)
NAN = np.where(np.arange(40).reshape(IMAGES.shape) == 3, np.nan, IMAGES)


def logits(images):
    return images.sum(axis=3).mean(axis=1)


SCORES = of_images(logits)
TARGET = class_logit(SCORES)
SIMILAR = similarity(SCORES)


def maps(method=None, target_fn=TARGET, x=IMAGES, **options):
    return saliency_maps(method or Gradient(), target_fn, x, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Occlusion(window=0), "Expected window >= 1"),
        (lambda: Occlusion(window=3, stride=4), "would never be covered"),
        (lambda: Occlusion(stride=0), "Expected stride >= 1"),
        (lambda: IntegratedGradients(steps=0), "Expected steps >= 1"),
        (lambda: SmoothGrad(num=0), "Expected num >= 1"),
        (lambda: SmoothGrad(sigma=-0.1), "Expected sigma >= 0"),
        (lambda: RISE(num=1), "Expected num >= 2"),
        (lambda: RISE(cells=0), "Expected cells >= 1"),
        (lambda: RISE(keep=1.0), "Expected 0 < keep < 1"),
        (lambda: RISE(keep=-0.5), "Expected 0.0 <= keep <= 1.0"),
        (lambda: RISE(seed=-1), "Expected seed >= 0"),
        (lambda: maps(Occlusion(window=8)), "Expected window <= 4, the image's side"),
        (lambda: maps(RISE(cells=5, num=2)), "Expected cells <= 4"),
        (lambda: maps(Occlusion), "Expected a saliency map, e.g."),
        (lambda: maps("occlusion"), "Expected a saliency map, e.g."),
        (lambda: maps(IntegratedGradients(), chunk=0), "Expected chunk >= 1"),
        (lambda: maps(rows=0), "Expected rows >= 1"),
        (lambda: maps(SmoothGrad()), "SmoothGrad draws at random: give key"),
        (lambda: maps(key=0), "one typed key"),
        (lambda: maps(x=IMAGES[0]), r"rank 4, got shape \[4, 5, 1\]. Add an axis"),
        (lambda: maps(x=IMAGES[:0]), "at least one image"),
        (lambda: maps(x=(255 * IMAGES).astype(np.uint8)), "float dtype, got uint8"),
        (lambda: maps(x=255 * IMAGES), r"Expected x in \[0, 1\]"),
        (lambda: maps(x=NAN), "got 1 NaN pixels"),
        (lambda: maps(targets=[0]), r"classes >= 0, integers \[2\]"),
        (lambda: maps(targets=[0, -1]), r"classes >= 0, integers \[2\]"),
        (lambda: maps(targets=[0.0, 1.0]), r"classes >= 0, integers \[2\]"),
        (lambda: maps(targets=[0, 5]), "in 1 of 2 rows, first in row 1"),
        (lambda: maps(Occlusion(window=2, stride=2), targets=[5, 0]), "in 1 of 2 rows, first in row 0"),
        (lambda: maps(baseline=2.0), r"Expected baseline in \[0, 1\]"),
        (lambda: maps(baseline=np.zeros((4, 5))), "Expected a baseline that is a number"),
        (lambda: maps(baseline=np.zeros((3, 4, 5, 1))), "Expected a baseline that is a number"),
        (lambda: maps(target_fn=SIMILAR), "needs the partners' embeddings"),
        (lambda: maps(target_fn=SIMILAR, references=np.ones((2, 3), np.float32)), "shape of their partners'"),
        (lambda: maps(target_fn=SIMILAR, references=np.ones((3, 5), np.float32)), r"embeddings \[2, d\]"),
        (lambda: maps(target_fn=SIMILAR, references=np.full((2, 5), np.nan)), "Expected finite references"),
        (lambda: maps(target_fn=SCORES), "one float for each of 2 images, got float32 of shape"),
        (lambda: maps(target_fn=lambda x, ex: jnp.argmax(logits(x), axis=-1)), "got int32 of shape"),
        (lambda: maps(target_fn=class_logit(of_images(lambda x: x))), r"Expected logits \[b, k\]"),
        (lambda: maps(target_fn=None), "target_fn to be a callable"),
        (lambda: maps(target_fn=partial(TARGET, unused={1, 2})), "to be hashable"),
        (lambda: maps(target_fn=lambda x, ex: jnp.nan * x.sum(axis=(1, 2, 3))), "Expected finite maps"),
        (lambda: completeness_errors(IMAGES[..., 0], TARGET, IMAGES[:1]), r"Expected maps \[1, 4, 5\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_targets_are_what_they_say():
    images = jnp.asarray(IMAGES)
    partners = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)), jnp.float32)
    example = Example(images, jnp.array([4, 1]), reference=partners)
    scores = np.asarray(logits(images))
    chosen = scores[[0, 1], [4, 1]]
    np.testing.assert_allclose(class_logit(SCORES)(images, example), chosen, rtol=1e-6)
    np.testing.assert_allclose(negated(class_logit(SCORES))(images, example), -chosen, rtol=1e-6)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(class_probability(SCORES)(images, example), shares[[0, 1], [4, 1]], rtol=1e-5)
    found = class_log_probability(SCORES)(images, example)
    np.testing.assert_allclose(found, np.log(shares[[0, 1], [4, 1]]), rtol=1e-5)
    lengths = np.linalg.norm(scores, axis=1) * np.linalg.norm(partners, axis=1)
    cosines = (scores * partners).sum(axis=1) / lengths
    np.testing.assert_allclose(similarity(SCORES)(images, example), cosines, rtol=1e-5)
    pair = example._replace(target=jnp.array([0, 1]))
    np.testing.assert_allclose(pair_support(SCORES)(images, pair), cosines * np.array([1, -1]), rtol=1e-5)
    assert np.isnan(pair_support(SCORES)(images, example)).tolist() == [True, False]


def test_a_class_out_of_range_is_nan():
    example = Example(jnp.asarray(IMAGES), jnp.array([-1, 5]))
    assert np.isnan(class_logit(SCORES)(example.image, example)).all()


def test_parameters_in_partials_are_arguments():
    """At any depth, of functools or JAX: another value compiles nothing."""
    traces = []

    def score(params, images, example):
        traces.append(1)
        return logits(images) * params["scale"]

    def gradient_at(scale):
        params = {"scale": jnp.float32(scale)}
        return maps(target_fn=negated(jax.tree_util.Partial(class_logit(partial(score, params)))))

    first, seen = gradient_at(1.0), len(traces)
    np.testing.assert_allclose(gradient_at(3.0), 3 * first, rtol=1e-6)
    assert len(traces) == seen
