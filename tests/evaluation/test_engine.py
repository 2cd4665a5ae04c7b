"""Pixels as training sees them, and what is kept of attacked images."""

import jax
import numpy as np

from jaxrobust.attacks import fgsm
from jaxrobust.data import to_float
from jaxrobust.evaluation import EvalAttack, _engine, evaluate
from jaxrobust.neighbourhoods import LInf

LEVELS = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)


def test_all_levels_are_bitwise_those_of_training():
    trained_on = np.asarray(jax.jit(to_float)(LEVELS))
    assert trained_on[255] == 1 and trained_on[0] == 0
    np.testing.assert_array_equal(_engine.gather(LEVELS, np.arange(256)), trained_on)
    np.testing.assert_array_equal(_engine.gather(list(LEVELS), np.arange(256)), trained_on)
    np.testing.assert_array_equal(_engine.to_8bit(trained_on), trained_on)
    near = np.clip(trained_on + np.float32(0.001), 0, 1)
    np.testing.assert_array_equal(_engine.to_8bit(near), trained_on)
    np.testing.assert_array_equal(_engine.to_8bit(np.float32([-1e-6, 1 + 1e-6])), np.float32([0, 1]))


def test_only_the_rows_asked_for_are_kept(linear):
    def report(**options):
        return evaluate(
            linear.model, linear.params, {}, linear.images, linear.labels,
            {"a": EvalAttack(fgsm(LInf(eps=0.05)))}, batch_size=16, seed=0, trust_checks=False, **options,
        )  # fmt: skip

    subject = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels, batch_size=16, seed=0
    )
    index = np.arange(subject.n)
    found = _engine.run_attack(subject, "a", fgsm(LInf(eps=0.05)), index, subject.labels, keep=(3, 18))
    assert sorted(found.images) == [3, 18]
    assert all(
        image.base is None and image.shape == linear.images.shape[1:] for image in found.images.values()
    )
    few, whole = report(), report(keep_images=True)
    assert not few.images and len(few.samples) == 2
    assert whole.images["a"].shape == linear.images.shape
    for sample in few.samples:
        np.testing.assert_array_equal(sample.attacked["a"].image, whole.images["a"][sample.index])
    assert few.row("a")["pixel_low"] == whole.row("a")["pixel_low"]
