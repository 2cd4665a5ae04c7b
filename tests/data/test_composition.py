"""Batch composition: the formula, its rounding, and refusals that say what works."""

import re

import pytest

from jaxrobust.data import BatchSizes, compose_batch


@pytest.mark.parametrize(
    ("batch_size", "num_labelled", "num_unlabelled", "expected"),
    [
        (128, 10_000, 50_000, (21, 107)),  # the reference code's MNIST batch
        (128, 10_000, 40_000, (26, 102)),
        (128, 1_000, 9_000, (13, 115)),
        (10, 1, 3, (3, 7)),  # 2.5 rounds up, not to even
        (2, 1, 3, (1, 1)),
        (64, 1, 1_000_000, (1, 63)),  # at least one labelled image
        (1, 1, 9, (1, 0)),
        (32, 100, 0, (32, 0)),
    ],
)
def test_formula(batch_size, num_labelled, num_unlabelled, expected):
    assert compose_batch(batch_size, num_labelled, num_unlabelled) == BatchSizes(*expected)


def test_shares_do_not_depend_on_the_number_of_devices():
    assert compose_batch(80, 1_000, 9_000, 8) == compose_batch(80, 1_000, 9_000, 1) == (8, 72)


@pytest.mark.parametrize("devices", [2, 3, 4, 8, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 64, 100, 128])
@pytest.mark.parametrize("num_unlabelled", [0, 77, 9_000])
def test_a_refusal_names_batch_sizes_that_work(devices, batch_size, num_unlabelled):
    free = compose_batch(batch_size, 1_000, num_unlabelled)
    if any(rows % devices for rows in free):
        with pytest.raises(ValueError, match="do not divide") as caught:
            compose_batch(batch_size, 1_000, num_unlabelled, devices)
        message = str(caught.value)
        offers = [int(m) for m in re.findall(r"batch_size=(\d+) \(", message)]
        assert offers, message
        for offer in offers:
            assert sum(compose_batch(offer, 1_000, num_unlabelled, devices)) == offer
        between = range(min(offers) + 1, max(offers)) if len(offers) > 1 else range(1, offers[0])
        for size in between:
            with pytest.raises(ValueError, match="do not divide"):
                compose_batch(size, 1_000, num_unlabelled, devices)
        for labelled in re.findall(r"the same batch_size with labelled=(\d+)", message):
            if num_unlabelled:
                compose_batch(batch_size, 1_000, num_unlabelled, devices, labelled=int(labelled))
    else:
        assert compose_batch(batch_size, 1_000, num_unlabelled, devices) == free


def test_explicit_share():
    assert compose_batch(128, 1_000, 9_000, 4, labelled=128) == (128, 0)
    assert compose_batch(128, 1_000, 9_000, 4, labelled=32) == (32, 96)
    with pytest.raises(
        ValueError, match=r"batch_size=128 with labelled=28 or batch_size=132 with labelled=28"
    ):
        compose_batch(130, 1_000, 9_000, 4, labelled=29)
    with pytest.raises(
        ValueError, match=r"batch_size=128 with labelled=128 or batch_size=132 with labelled=132"
    ):
        compose_batch(130, 1_000, 0, 4, labelled=130)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"num_labelled": 0}, "num_labelled >= 1"),
        ({"num_unlabelled": -1}, "num_unlabelled >= 0"),
        ({"num_devices": 0}, "num_devices >= 1"),
        ({"labelled": 0}, "labelled >= 1"),
        ({"labelled": 33}, "labelled <= batch_size=32"),
        ({"labelled": 8, "num_unlabelled": 0}, "needs unlabelled images"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose_batch(**({"batch_size": 32, "num_labelled": 10, "num_unlabelled": 10} | arguments))
