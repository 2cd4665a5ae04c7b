"""Regions: exact counts, ties, borders, components; what controls and agreement make of them."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.saliency import (
    REGIONS,
    BestBox,
    LargestComponent,
    Region,
    Threshold,
    TopFraction,
    centre_disc,
    constant_maps,
    example_masks,
    from_others,
    iou,
    rolled,
    smooth,
    spearman,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


MAPS = noise(5, 11, 9)


@pytest.mark.parametrize(
    "region",
    [TopFraction(), LargestComponent(), BestBox(side=3), Threshold(level=0.0)],
    ids=lambda region: type(region).__name__,
)
def test_every_region_keeps_the_contract(region):
    assert type(region) in REGIONS.values()
    assert isinstance(region, Region)
    hash(region)
    found = region(MAPS)
    assert found.inside.shape == MAPS.shape
    assert found.inside.dtype == bool
    assert not found.constant.any()
    np.testing.assert_array_equal(found.area, found.inside.sum(axis=(1, 2)))
    assert found.masks.shape == (*MAPS.shape, 1)
    assert set(np.unique(found.masks)) <= {0.0, 1.0}
    for i, alone in enumerate(MAPS):
        np.testing.assert_array_equal(region(alone[None]).inside[0], found.inside[i])


def test_there_is_a_test_for_each_region():
    assert len(REGIONS) == 4


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.29, 1 / 3, 0.5, 0.999])
def test_the_top_fraction_has_exactly_so_many_pixels(fraction):
    maps = noise(2, 10, 10)
    expected = {0.29: 29, 0.05: 5, 0.1: 10, 0.2: 20, 0.5: 50}.get(fraction, math.floor(fraction * 100))
    found = TopFraction(fraction=fraction, sigma=0)(maps)
    np.testing.assert_array_equal(found.area, expected)
    for values, inside in zip(maps, found.inside):
        assert values[inside].min() > values[~inside].max()


def test_equal_values_go_by_the_smaller_index():
    maps = np.zeros((2, 4, 5))
    maps[0, 3, 4] = 1.0
    inside = TopFraction(fraction=0.3, sigma=0)(maps).inside.reshape(2, -1)
    np.testing.assert_array_equal(np.flatnonzero(inside[0]), [0, 1, 2, 3, 4, 19])
    np.testing.assert_array_equal(np.flatnonzero(inside[1]), range(6))
    # Smoothing leaves a constant map constant, so that ties stay ties.
    flat = TopFraction(fraction=0.3)(np.full((1, 4, 5), 0.1))
    np.testing.assert_array_equal(np.flatnonzero(flat.inside), range(6))
    assert flat.constant.all()


def test_smoothing_reflects_at_the_border():
    sigma, reach = 1.5, 6
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(MAPS.astype(float), ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (13, 13), axis=(1, 2))
    expected = np.einsum("bhwij,i,j->bhw", windows, kernel, kernel)
    np.testing.assert_allclose(smooth(MAPS, sigma), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(smooth(MAPS, 0), MAPS)


def test_the_largest_component_is_one_and_the_largest():
    maps = np.zeros((1, 5, 6))
    maps[0, 0, :3] = 2.0
    maps[0, 1:4, 4] = 2.0
    maps[0, 1, 3] = 2.0  # touches the first part by a corner alone
    maps[0, 4, 0] = 2.0
    found = LargestComponent(fraction=8.5 / 30, sigma=0)(maps)
    np.testing.assert_array_equal(np.argwhere(found.inside[0]), [[1, 3], [1, 4], [2, 4], [3, 4]])


def test_of_equal_components_the_first_is_taken():
    maps = np.zeros((1, 3, 5))
    maps[0, 2, :2] = maps[0, 0, 3:] = 1.0
    found = LargestComponent(fraction=4.5 / 15, sigma=0)(maps)
    np.testing.assert_array_equal(np.argwhere(found.inside[0]), [[0, 3], [0, 4]])


def test_the_best_box_is_the_best_of_all():
    found = BestBox(side=4, sigma=0)(MAPS)
    np.testing.assert_array_equal(found.area, 16)
    for values, inside in zip(MAPS.astype(float), found.inside):
        best = max(values[i : i + 4, j : j + 4].sum() for i in range(8) for j in range(6))
        assert math.isclose(values[inside].sum(), best, rel_tol=1e-9)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert np.ptp(rows) == np.ptp(columns) == 3
    corner = BestBox(side=2, sigma=0)(np.zeros((1, 3, 3))).inside
    np.testing.assert_array_equal(np.argwhere(corner[0]), [[0, 0], [0, 1], [1, 0], [1, 1]])


def test_a_threshold_may_leave_nothing():
    found = Threshold(level=1e3)(MAPS)
    np.testing.assert_array_equal(found.area, 0)


def test_constant_maps_are_flagged_up_to_rounding():
    maps = np.ones((4, 3, 3), np.float32)
    maps[1, 0, 0] += 2e-7
    maps[2, 0, 0] += 1e-3
    maps[3] = 0
    assert constant_maps(maps).tolist() == [True, True, False, True]
    assert TopFraction(fraction=0.5)(maps).constant.tolist() == [True, True, False, True]


INSIDE = TopFraction(fraction=0.2, sigma=1.0)(MAPS).inside


def test_a_rolled_region_keeps_its_shape_and_leaves_its_place():
    moved = rolled(INSIDE, seed=3)
    assert (moved != INSIDE).any(axis=(1, 2)).all()
    for before, after in zip(INSIDE, moved):
        shifts = [(i, j) for i in range(11) for j in range(9)]
        assert any(np.array_equal(np.roll(before, shift, (0, 1)), after) for shift in shifts)
    np.testing.assert_array_equal(rolled(INSIDE[:2], seed=3), moved[:2])
    np.testing.assert_array_equal(rolled(INSIDE, seed=3), moved)
    assert (rolled(INSIDE, seed=4) != moved).any()


def test_rolled_places_are_uniform():
    dot = np.zeros((3000, 2, 3), bool)
    dot[:, 0, 0] = True
    counts = rolled(dot, seed=0).sum(axis=0).ravel()
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 2], ["b", "a", "b", "c", "a"]])
@pytest.mark.parametrize("seed", range(5))
def test_each_row_gets_the_region_of_another_group(groups, seed):
    given = from_others(INSIDE, groups, seed=seed)
    names = np.arange(5) if groups is None else np.array(groups)
    source = [next(j for j in range(5) if np.array_equal(row, INSIDE[j])) for row in given]
    assert sorted(source) == list(range(5))
    assert (names[source] != names).all()


def test_exchanges_differ_by_seed():
    found = {from_others(INSIDE, seed=seed).tobytes() for seed in range(8)}
    assert len(found) > 1


@pytest.mark.parametrize("shape", [(11, 9), (8, 8), (1, 6)])
def test_the_centre_disc_has_the_same_area(shape):
    inside = noise(4, *shape) > np.array([-9.0, 0.0, 0.5, 9.0])[:, None, None]
    disc = centre_disc(inside)
    np.testing.assert_array_equal(disc.sum(axis=(1, 2)), inside.sum(axis=(1, 2)))
    centre = (np.array(shape) - 1) / 2
    distance = np.hypot(*(np.indices(shape) - centre[:, None, None]))
    for row in disc:
        assert row.all() or not row.any() or distance[row].max() <= distance[~row].min() + 1e-9


def test_spearman_is_scipys():
    other = MAPS + noise(*MAPS.shape, seed=1)
    other[0] = np.round(other[0])  # ties
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(MAPS, other)]
    np.testing.assert_allclose(spearman(MAPS, other), expected, rtol=1e-6)
    np.testing.assert_allclose(spearman(MAPS, -MAPS), -1.0)
    assert np.isnan(spearman(MAPS[:1], np.ones_like(MAPS[:1]))).all()


def test_iou():
    first, second = np.zeros((2, 3, 2, 2), bool)
    first[0] = second[0] = True
    first[1, 0] = second[1, :, 0] = True
    np.testing.assert_allclose(iou(first, second), [1.0, 1 / 3, np.nan])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TopFraction(fraction=0.0), "Expected 0 < fraction < 1"),
        (lambda: TopFraction(fraction=1.0), "Expected 0 < fraction < 1"),
        (lambda: LargestComponent(fraction=1.5), r"Expected 0.0 <= fraction <= 1.0"),
        (lambda: TopFraction(sigma=-1), "Expected sigma >= 0"),
        (lambda: BestBox(side=0), "Expected side >= 1"),
        (lambda: BestBox(side=10)(MAPS), "Expected side <= 9"),
        (lambda: Threshold(level=math.nan), "Expected a finite level"),
        (lambda: TopFraction(fraction=0.01)(MAPS), "at least one of 99 pixels"),
        (lambda: TopFraction()(MAPS[0]), r"maps \[b, h, w\], got shape \[11, 9\]. Add an axis"),
        (lambda: TopFraction()(np.zeros((1, 3, 3), int)), "maps of a float dtype"),
        (lambda: TopFraction()(np.full((2, 3, 3), np.nan)), "NaN or infinity in 2 of 2"),
        (lambda: spearman(MAPS, MAPS[:2]), "maps of one shape"),
        (lambda: iou(INSIDE, INSIDE[:, :2]), "regions of one shape"),
        (lambda: iou(MAPS, MAPS), "regions of bools"),
        (lambda: rolled(np.ones((1, 1, 1), bool), seed=0), "at least two pixels"),
        (lambda: rolled(INSIDE, seed=-1), "Expected seed >= 0"),
        (lambda: from_others(INSIDE[:1], seed=0), "more than half of the regions, got 1 of 1"),
        (lambda: from_others(INSIDE, [0, 0, 0, 1, 2], seed=0), "got 3 of 5"),
        (lambda: from_others(INSIDE, [0, 1], seed=0), r"Expected groups \[5\]"),
        (lambda: example_masks(INSIDE[0]), r"regions \[b, h, w\], got shape"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
