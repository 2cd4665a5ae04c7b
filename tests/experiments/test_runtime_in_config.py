"""What of the runtime makes a run another one, and what does not."""

import pytest

from jaxrobust.experiments import codec
from jaxrobust.experiments._prepare import start_config
from jaxrobust.models import PreActResNet18, Precision, TinyCNN, build
from jaxrobust.training import Runtime, Wrapper

PLAIN, NORMALISED = build(TinyCNN(), (8, 8, 1)), build(PreActResNet18(width=1), (8, 8, 3))


@pytest.mark.parametrize(
    ("model", "runtime", "expected"),
    [
        (NORMALISED, Runtime(wrapper=Wrapper.PMAP, remat=True, prefetch=3), {}),
        (PLAIN, Runtime(micro_batches=2), {}),
        (NORMALISED, Runtime(micro_batches=2), {"micro_batches": 2}),
        (PLAIN, Runtime(precision=Precision.BF16), {"precision": "bfloat16"}),
    ],
)
def test_only_what_changes_the_weights_beyond_rounding_is_kept(model, runtime, expected):
    assert start_config(None, None, model, runtime) == {"init_from": None, **expected}


def test_nets_are_written_as_before_rematerialisation():
    assert "remat" not in codec.to_json(PreActResNet18())
    assert codec.to_json(PreActResNet18(remat=True))["remat"] is True
