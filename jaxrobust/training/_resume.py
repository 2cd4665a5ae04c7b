"""Where runs go on: each from its newest checkpoint, those that go together from the same step."""

from collections.abc import Sequence

from jaxrobust.training.checkpoint import Checkpoints, Restored
from jaxrobust.training.state import TrainState


def common_steps(checkpoints: Sequence[Checkpoints | None]) -> list[int]:
    """The steps, in order, of which every run has a checkpoint; none where all are new.

    Raises:
        ValueError: if some have checkpoints, and none of the same step.
    """
    each = [set(one.steps()) if one else set() for one in checkpoints]
    common = set.intersection(*each)
    if any(each) and not common:
        steps = ", ".join(str(max(steps, default=0)) for steps in each)
        raise ValueError(
            f"The runs are at different steps ({steps}) and have no checkpoint in common. Finish each by "
            "itself, or train them into other folders."
        )
    return sorted(common)


def restored(
    checkpoints: Sequence[Checkpoints | None], states: Sequence[TrainState]
) -> tuple[list[TrainState], list[list[dict[str, float]]]]:
    """The states to go on from, all at one step, and the rows of metrics not yet logged.

    Raises:
        ValueError: if runs that go together have no checkpoint of the same step.
    """
    if len(states) == 1:
        found = [one.restore(like) if one else None for one, like in zip(checkpoints, states)]
    else:
        found = _restored_together(checkpoints, states)
    return (
        [one.state if one else own for one, own in zip(found, states)],
        [one.pending if one else [] for one in found],
    )


def _restored_together(
    checkpoints: Sequence[Checkpoints | None], states: Sequence[TrainState]
) -> list[Restored | None]:
    """The newest checkpoints of one step that can all be read; later ones are removed, once these are."""
    while common := common_steps(checkpoints):
        # Without checkpoints of its own a run has none in common, so here each has some.
        found = [one.restore(like, among=common) for one, like in zip(checkpoints, states) if one]
        steps = {int(one.state.step) for one in found if one}
        if len(steps) == 1:
            for one in filter(None, checkpoints):
                one.remove_after(*steps)
            return found
        # One that could not be read has been set aside, and its step is common no more.
        assert common_steps(checkpoints) != common, f"step {common[-1]} is read as {steps}"
    return [None] * len(states)
