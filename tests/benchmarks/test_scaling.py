"""Counts and formulas of docs/scaling.md: of the library's programs, by hand."""

import pytest

from benchmarks import scaling_on_paper
from benchmarks._gpu import flops
from benchmarks._scaling import costs
from benchmarks._scaling.counts import LABELLED_SHARE, Counts, count
from jaxrobust.models import PreActResNet18, SmallCNN

CHIP = costs.Chip("a chip", peak=1e12, links={4: 1e9}, source="")


@pytest.fixture(scope="module")
def small() -> Counts:
    return count(SmallCNN())


def test_passes_are_those_of_the_layers(small):
    passes = flops.passes(SmallCNN(), (28, 28, 1))
    assert small.forward == pytest.approx(passes.forward, rel=0.01)
    assert small.attack == pytest.approx(passes.image_gradient, rel=0.01)
    assert small.training == pytest.approx(passes.weight_gradient, rel=0.01)


def test_without_batch_normalisation_a_step_reduces_gradients_and_metrics(small):
    for size, normal, number in small.reduced.values():
        assert (normal, number) == (0, 0)
        assert 0 < size - 4 * small.parameters < 100


@pytest.mark.slow
def test_batch_normalisation_reduces_five_vectors_a_pass():
    model = PreActResNet18(width=4)
    counts = count(model)
    layers = 17
    _, at, in_at = counts.reduced["AT"]
    _, srt, in_srt = counts.reduced["SRT"]
    assert (in_at, in_srt) == (5 * layers, 10 * layers)
    assert srt == 2 * at


def test_a_step_costs_its_passes_and_a_ring(small):
    assert small.flops("AT", 7) == 7 * small.attack + small.training
    expected = small.forward + 7 * small.attack + (1 + LABELLED_SHARE) * small.training
    assert small.flops("SRT", 7) == pytest.approx(expected)
    step = costs.step_of(small, "AT", 7, CHIP, 4, 10)
    assert step.arithmetic == pytest.approx(10 * small.flops("AT", 7) / 1e12)
    assert step.ring == pytest.approx(2 * 3 / 4 * small.reduced["AT"][0] / 1e9)
    assert step.hops == pytest.approx(2 * 2 * costs.HOP)


def test_the_images_that_are_enough_are_the_fewest(small):
    enough = costs.images_for(small, "AT", 10, CHIP, 4, 0.1)
    assert costs.step_of(small, "AT", 10, CHIP, 4, enough).share <= 0.1
    assert costs.step_of(small, "AT", 10, CHIP, 4, enough - 1).share > 0.1


def test_the_page_names_every_model_and_chip(small):
    counts = dict.fromkeys(scaling_on_paper.MODELS, small)
    text = scaling_on_paper.page(counts)
    assert all(name in text for name in [*counts, *(chip.name for chip in costs.CHIPS)])
    assert f"{small.parameters:,}" in text
