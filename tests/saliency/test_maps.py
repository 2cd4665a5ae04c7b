"""The contract that every saliency map keeps."""

import copy
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.saliency import (
    RISE,
    SALIENCY_MAPS,
    IntegratedGradients,
    SaliencyMap,
    SmoothGrad,
    Stages,
    class_logit,
    saliency_maps,
)
from tests.saliency.saliency_table import (
    MAP_ROWS,
    NUM,
    SHAPE,
    features,
    head,
    make_example,
    make_keys,
    make_params,
    target_of,
)

ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.name}-{row.label}") for row in MAP_ROWS])
READS_NO_BASELINE = ("gradient", "smooth_grad", "grad_cam")


@functools.cache
def compiled(method, chunk):
    def run(params, keys, example, baseline):
        return method(keys, target_of(params), example, baseline=baseline, chunk=chunk)

    return jax.jit(run)


def run(method, params, keys, example, *, baseline=0.25, chunk=None):
    return compiled(method, chunk)(params, keys, example, baseline)


@functools.cache
def maps_of(method):
    return run(method, make_params(), make_keys(), make_example())


def take(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=2e-5)


def test_every_registered_name_has_a_row():
    assert {row.name for row in MAP_ROWS} == set(SALIENCY_MAPS)
    for row in MAP_ROWS:
        assert type(row.method) is SALIENCY_MAPS[row.name]


@ROWS
def test_it_is_a_hashable_map_equal_to_its_like(row):
    assert isinstance(row.method, SaliencyMap)
    twin = copy.deepcopy(row.method)
    assert twin == row.method
    assert hash(twin) == hash(row.method)


@ROWS
def test_maps_are_finite_float32_of_the_images_shape(row):
    found = maps_of(row.method)
    assert found.shape == (NUM, *SHAPE[:2])
    assert found.dtype == jnp.float32
    assert np.isfinite(found).all()
    assert (np.ptp(found, axis=(1, 2)) > 0).all()


@ROWS
def test_a_batch_of_1_gives_what_the_row_gives_in_a_batch(row):
    rows = (make_keys(), make_example())
    for i in range(2):
        alone = run(row.method, make_params(), *take(rows, slice(i, i + 1)))
        close(alone, maps_of(row.method)[i : i + 1])


@ROWS
def test_rows_do_not_see_each_other(row):
    order = jnp.array([2, 0, 3, 1])
    moved = run(row.method, make_params(), *take((make_keys(), make_example()), order))
    close(moved, maps_of(row.method)[order])


@ROWS
@pytest.mark.parametrize("chunk", [3, 16])
def test_the_chunk_changes_nothing(row, chunk):
    """3: parts of one row's variants, the last filled up. 16: several rows in a pass."""
    close(run(row.method, make_params(), make_keys(), make_example(), chunk=chunk), maps_of(row.method))


@ROWS
def test_equal_keys_give_equal_bits(row):
    again = run(row.method, make_params(), make_keys(), make_example())
    np.testing.assert_array_equal(again, maps_of(row.method))


@ROWS
def test_the_negated_target_negates_a_signed_map(row):
    if row.label in ("magnitude", "rectified"):
        pytest.skip("It is not signed.")
    params = make_params()
    against = {**params, "last": -params["last"]}
    close(run(row.method, against, make_keys(), make_example()), -maps_of(row.method))


@ROWS
def test_the_baseline_is_read_or_not_as_documented(row):
    other = run(row.method, make_params(), make_keys(), make_example(), baseline=0.75)
    same = np.allclose(other, maps_of(row.method), rtol=1e-4, atol=2e-5)
    assert same == (row.name in READS_NO_BASELINE)


@ROWS
def test_a_second_call_compiles_nothing(row):
    traces = []

    def counted(params, images, example):
        traces.append(1)
        return features(params, images, example)

    def through_frontend(method, params, baseline, num):
        example = make_example(num)
        return saliency_maps(
            method,
            class_logit(Stages(partial(counted, params), partial(head, params))),
            example.image,
            targets=example.target,
            key=jax.random.key(0),
            baseline=baseline,
            rows=2,
        )

    first = through_frontend(row.method, make_params(), 0.25, 3)
    seen = len(traces)
    assert seen > 0
    # Other parameters, another fill, another number of images.
    second = through_frontend(copy.deepcopy(row.method), make_params(7), 0.5, 5)
    assert len(traces) == seen
    assert first.shape == (3, *SHAPE[:2])
    assert second.shape == (5, *SHAPE[:2])
    assert float(jnp.abs(first - second[:3]).max()) > 0


@ROWS
def test_the_front_end_gives_what_the_map_gives_by_row_keys(row):
    example, key = make_example(), jax.random.key(3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(NUM))
    image = np.full(SHAPE, 0.25, np.float32)
    options = {"targets": example.target, "key": key}
    params = make_params()
    expected = run(row.method, params, keys, example)
    forms = (0.25, np.full(SHAPE[2], 0.25), image, np.stack([image] * NUM))
    for baseline in forms if row.name == "occlusion" else forms[:1]:
        found = saliency_maps(row.method, target_of(params), example.image, baseline=baseline, **options)
        close(found, expected)


def bytes_of(method, chunk):
    """The temporary memory of one compiled call, by the compiler's own account: nothing is allocated."""
    params, keys, example = make_params(), make_keys(), make_example()
    compiled = jax.jit(
        lambda params, keys, example: method(keys, target_of(params), example, baseline=0.25, chunk=chunk)
    )
    return compiled.lower(params, keys, example).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("few", "many"),
    [
        (IntegratedGradients(steps=16), IntegratedGradients(steps=4096)),
        (SmoothGrad(num=16), SmoothGrad(num=4096)),
        (RISE(num=16, cells=3), RISE(num=4096, cells=3)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_the_chunk_bounds_the_memory(few, many):
    """256 times the variants, which without parts take 400 times the memory."""
    scores = 4 * 4 * NUM * 4096  # RISE keeps the target's values, some times over
    assert bytes_of(many, 16) <= 2 * bytes_of(few, 16) + scores
