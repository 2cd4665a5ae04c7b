"""What a service is made of is checked before it starts: settings, models, keys, parameters."""

import itertools

import numpy as np
import pytest

from jaxrobust.serving import Keys, Service, Settings, read_keys
from tests.serving.service_under_test import NAMES, served

KEY, ADMIN = "k" * 20, "a" * 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch": 0}, "max_batch >= 1"),
        ({"max_queue": 8, "max_batch": 32}, "A full batch must fit"),
        ({"max_wait_ms": -1}, "max_wait_ms >= 0"),
        ({"decode_seconds": 0}, "decode_seconds > 0"),
        ({"max_bytes_in_flight": 5, "max_bytes": 6}, "The largest body must fit"),
        ({"decode_threads": 1.5}, "integer decode_threads"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("most", [1, 2, 3, 16, 32, 33, 100])
def test_batch_sizes_begin_at_one_and_end_at_the_largest(most):
    sizes = Settings(max_batch=most, max_queue=128).batch_sizes
    assert sizes[0] == 1 and sizes[-1] == most and len(sizes) <= 5
    assert all(after <= 4.5 * before + 1 for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (8, 8, 2)}, "1 .grey. or 3 .colour. channels"),
        ({"class_names": (*NAMES[:9], NAMES[0])}, "all different"),
        ({"threshold": 1.5}, "threshold <= 1"),
        ({"card": {"loss": float("nan")}}, "Give null for NaN"),
        ({"card": {"folder": {1, 2}}}, "cannot be written as JSON"),
        ({"gallery": {"a": np.zeros((1, 8, 8, 1), np.uint8)}}, "give a threshold"),
        ({"threshold": 0.5, "gallery": {"a": np.zeros((1, 9, 8, 1), np.uint8)}}, "of 'a' in the gallery"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        served(**changes)


def test_a_queue_too_short_for_a_pair_is_refused():
    settings = Settings(max_batch=1, max_queue=1)
    Service(served(), settings=settings)
    with pytest.raises(ValueError, match="max_queue >= 2"):
        Service(served(threshold=0.5), settings=settings)


@pytest.fixture
def key_file(tmp_path):
    def write(text):
        file = tmp_path / "keys"
        file.write_text(text)
        return file

    return write


def test_keys_are_read_and_told_apart(key_file):
    keys = read_keys(key_file(f"# the shop\n{KEY}\n\n{ADMIN} admin\n"))
    assert keys.allows(KEY) and keys.allows(ADMIN)
    assert keys.allows(ADMIN, admin=True) and not keys.allows(KEY, admin=True)
    for wrong in ("", "k" * 19, "k" * 21, KEY.upper(), "\udc80" * 20):
        assert not keys.allows(wrong) and not keys.allows(wrong, admin=True)
    assert KEY not in repr(keys)


def test_every_key_is_compared_whole(key_file, monkeypatch):
    """In constant time: as many comparisons for the first key, the last, and none."""
    import hmac

    keys = read_keys(key_file("\n".join(f"{i:020d}" for i in range(5))))
    compared = []
    honest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or honest(a, b))
    for key in (f"{0:020d}", f"{4:020d}", "none of them"):
        compared.clear()
        keys.allows(key)
        assert len(compared) == 5 and all(len(a) == len(b) == 32 for a, b in compared)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no keys"),
        ("# nothing\n", "has no keys"),
        ("short\n", "line 1: a key has 5 characters"),
        (f"\ufeff{KEY}\n", "line 1: a key has letters that are not ASCII"),
        (f"{KEY}\n{'ä' * 20}\n", "line 2: a key has letters that are not ASCII"),
        (f"{KEY}\n{ADMIN} root\n", "line 2: expected KEY or `KEY admin`"),
    ],
)
def test_a_file_of_bad_keys_is_refused_without_telling_them(key_file, text, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_keys(key_file(text))
    assert ADMIN not in str(refused.value) and "short" not in str(refused.value)


def test_no_keys_are_false():
    assert not Keys()
