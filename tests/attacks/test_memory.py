"""What the attacks on many candidates take: the compiler's own account, so nothing is allocated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.attacks import JSMA, GridSearch, PointWise
from jaxrobust.neighbourhoods import L0, RotationTranslation
from jaxrobust.numerics import compile as compiler
from jaxrobust.types import Example

GIB = 2**30
MOVES = RotationTranslation(max_angle=30.0, max_shift=3.0)
SPARSE = L0(eps=10, features=True)


def bytes_of(attack, rows, shape):
    """The temporary memory of one compiled call on SmallCNN."""
    model = models.build(models.SmallCNN(), shape)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))

    def run(params, stats, keys, example):
        def score_fn(images, ex):
            return model.apply(params, stats, images, train=False)[0].logits

        return attack(keys, score_fn, example)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    images = jax.ShapeDtypeStruct((rows, *shape), np.float32)
    example = Example(images, jax.ShapeDtypeStruct((rows,), jnp.int32))
    lowered = compiler.jit(run).lower(params, stats, keys, example)
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("attack", [JSMA(neighbourhood=SPARSE), PointWise(neighbourhood=SPARSE)])
def test_sparse_attacks_on_64_images_of_cifar_stay_under_4_gib(attack):
    assert 0 < bytes_of(attack, 64, (32, 32, 3)) < 4 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_grid_search_of_775_poses_on_512_images_stays_under_4_gib(shape):
    attack = GridSearch(neighbourhood=MOVES)
    assert int(np.prod(attack.granularity)) == 775
    assert 0 < bytes_of(attack, 512, shape) < 4 * GIB
