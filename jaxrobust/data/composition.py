"""How a batch is shared between labelled and unlabelled images."""

from typing import NamedTuple

from jaxrobust import _validate


class BatchSizes(NamedTuple):
    """Rows of the *global* batch: `labelled` m_l, `unlabelled` m_u."""

    labelled: int
    unlabelled: int

    @property
    def total(self) -> int:
        """m_l + m_u."""
        return self.labelled + self.unlabelled


def _share(batch_size: int, num_labelled: int, num_unlabelled: int) -> BatchSizes:
    """The proportional composition, rounded half up, with at least one labelled image."""
    total = num_labelled + num_unlabelled
    labelled = max(1, (2 * batch_size * num_labelled + total) // (2 * total))
    return BatchSizes(labelled, batch_size - labelled)


def sharers(devices: int, micro_batches: int) -> str:
    """Who shares a batch, for a message."""
    who = "1 device" if devices == 1 else f"{devices} devices"
    return who if micro_batches == 1 else f"{who} with {micro_batches} micro-batches each"


def _refuse(message: str, good: list[str]) -> None:
    """Raises the error that lists what would work."""
    raise ValueError(f"{message} Nearest that it does: {' or '.join(good)}.")


def _check_share(batch_size: int, num_labelled: int, num_unlabelled: int, parts: int, who: str) -> BatchSizes:
    """The proportional composition, refused with the nearest batch sizes where the parts do not divide it."""
    sizes = _share(batch_size, num_labelled, num_unlabelled)
    if not (sizes.labelled % parts or sizes.unlabelled % parts):
        return sizes
    # The rarer stream has `parts` rows in a batch within this span.
    rarer = min(num_labelled, num_unlabelled or num_labelled)
    span = 2 * parts * ((num_labelled + num_unlabelled) // rarer + 2)

    def works(size: int) -> bool:
        return not any(rows % parts for rows in _share(size, num_labelled, num_unlabelled))

    down = batch_size - 1 - (batch_size - 1) % parts
    up = (batch_size // parts + 1) * parts
    below = next((size for size in range(down, 0, -parts) if works(size)), None)
    above = next((size for size in range(up, up + span, parts) if works(size)), None)
    good = []
    for size in filter(None, (below, above)):
        share = _share(size, num_labelled, num_unlabelled)
        good.append(f"batch_size={size} ({share.labelled} labelled + {share.unlabelled} unlabelled)")
    if batch_size % parts == 0 and batch_size > parts:
        near = min(max(parts, round(sizes.labelled / parts) * parts), batch_size)
        good.append(f"the same batch_size with labelled={near}")
    _refuse(
        f"A batch of {batch_size} is {sizes.labelled} labelled + {sizes.unlabelled} unlabelled images, "
        f"which {who} do not divide.",
        good,
    )
    raise AssertionError


def _check_explicit(batch_size: int, labelled: int, parts: int, who: str) -> BatchSizes:
    """A composition that the user gives, refused with the nearest where the parts do not divide it."""
    sizes = BatchSizes(labelled, batch_size - labelled)
    if not (sizes.labelled % parts or sizes.unlabelled % parts):
        return sizes
    multiples = [m for m in (batch_size // parts * parts, -(-batch_size // parts) * parts) if m > 0]
    good = []
    for size in dict.fromkeys(multiples):
        near = size if labelled == batch_size else min(max(parts, round(labelled / parts) * parts), size)
        good.append(f"batch_size={size} with labelled={near}")
    _refuse(
        f"A batch of {sizes.labelled} labelled + {sizes.unlabelled} unlabelled images is not divided by "
        f"{who}.",
        good,
    )
    raise AssertionError


def compose_batch(
    batch_size: int,
    num_labelled: int,
    num_unlabelled: int,
    num_devices: int = 1,
    *,
    labelled: int | None = None,
    micro_batches: int = 1,
) -> BatchSizes:
    r"""Shares a batch of m between the streams, after CN111401445A:

    $$m_l = \max(1, [m |D_L| / (|D_L| + |D_U|)]), \quad m_u = m - m_l$$

    rounded once, for the global batch, so that the shares do not depend on the number of devices.

    Args:
        batch_size: m, rows of the global batch.
        num_labelled: |D_L|.
        num_unlabelled: |D_U|; 0 gives a batch of labelled images only.
        num_devices: how many devices share the batch; all hosts together.
        labelled: m_l, where it is not to be proportional (a full batch of labelled images is
            `labelled=batch_size`).
        micro_batches: in how many parts each device takes its rows, see `training.Runtime`.

    Returns:
        The `BatchSizes`.

    Raises:
        ValueError: with the nearest batch sizes that the devices and their micro-batches divide, where they
            do not divide both streams.

    Example:
        >>> compose_batch(128, 1_000, 9_000)
        BatchSizes(labelled=13, unlabelled=115)
        >>> compose_batch(128, 1_000, 9_000, num_devices=8, labelled=16)
        BatchSizes(labelled=16, unlabelled=112)
    """
    _validate.at_least("batch_size", batch_size, 1)
    _validate.at_least("num_labelled", num_labelled, 1, "Training needs labelled images.")
    _validate.at_least("num_unlabelled", num_unlabelled, 0)
    _validate.at_least("num_devices", num_devices, 1)
    _validate.at_least("micro_batches", micro_batches, 1)
    parts, who = num_devices * micro_batches, sharers(num_devices, micro_batches)
    if labelled is None:
        return _check_share(batch_size, num_labelled, num_unlabelled, parts, who)
    _validate.at_least("labelled", labelled, 1, "A batch needs at least one labelled image.")
    if labelled > batch_size:
        raise ValueError(f"Expected labelled <= batch_size={batch_size}, got labelled={labelled}.")
    if labelled < batch_size and num_unlabelled == 0:
        raise ValueError(
            f"A batch of {batch_size} with labelled={labelled} needs unlabelled images, but there are none; "
            f"give labelled={batch_size}."
        )
    return _check_explicit(batch_size, labelled, parts, who)
