"""API keys: read from a file, compared in constant time."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

ADMIN = "admin"
_LEAST = 16


@dataclass(frozen=True)
class Keys:
    """SHA-256 of the keys, and of those that may reload the model.

    A key is looked for among all of them, each compared to its end, so that the time tells neither how much
    of a key was right nor which one it was.
    """

    digests: tuple[tuple[bytes, bool], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def allows(self, key: str, *, admin: bool = False) -> bool:
        """Whether the key is one of them (one that may reload)."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = False
        for digest, may in self.digests:
            found |= hmac.compare_digest(given, digest) & (may or not admin)
        return found


def read_keys(path: str | os.PathLike) -> Keys:
    """Reads a file with one key a line; `KEY admin` may reload the model. `#` begins a comment line.

    Raises:
        ValueError: for a file without keys, a key that is short enough to guess or not ASCII, a word that is
            not `admin`; the message names the line and not the key.
        OSError: where the file cannot be read.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words[0]) < _LEAST:
            raise ValueError(
                f"{path}, line {number}: a key has {len(words[0])} characters, expected >= {_LEAST}. Make "
                "one: python -c 'import secrets; print(secrets.token_urlsafe())'."
            )
        # What a header cannot carry never matches; a mark of byte order is such a letter.
        if not words[0].isascii() or not words[0].isprintable():
            raise ValueError(
                f"{path}, line {number}: a key has letters that are not ASCII, which no header carries. Take "
                "others; if you see none, save the file as UTF-8 without a byte order mark."
            )
        if words[1:] not in ([], [ADMIN]):
            raise ValueError(f"{path}, line {number}: expected KEY or `KEY {ADMIN}`; names go into comments.")
        found.append((hashlib.sha256(words[0].encode()).digest(), len(words) > 1))
    if not found:
        raise ValueError(f"{path} has no keys: one a line, `KEY` or `KEY {ADMIN}`.")
    return Keys(tuple(found))
