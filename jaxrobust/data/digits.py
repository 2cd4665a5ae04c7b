"""scikit-learn's handwritten digits, which come with the package."""

import numpy as np

from jaxrobust.data import _decode, _sets


def load_digits(
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> _sets.Dataset:
    """1,797 handwritten digits, 8x8, grey (UCI optdigits, Alpaydin and Kaynak, 1998), from scikit-learn.

    Its 17 grey levels 0 .. 16 are spread over 0 .. 255.

    Args:
        seed: which images of each class are held out for testing.
        test_fraction: the share of each class held out.
        size: resize to this height and width in pixels.
        channels: convert to 1 (grey) or 3 (colour).

    Returns:
        The `Dataset`, with 10 classes.
    """
    from sklearn.datasets import load_digits as read_digits

    _decode.check_channels(channels)
    bunch = read_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    images = _decode.fit(images, _decode.parse_size(size), channels)
    everything = _sets.ImageSet(images, bunch.target.astype(np.int32))
    train, test = _sets.hold_out(everything.labels, test_fraction, seed)
    return _sets.make_dataset(
        "digits",
        _sets.take_set(everything, train),
        _sets.take_set(everything, test),
        tuple(str(digit) for digit in range(10)),
        "digits",
    )
