"""Which documents train a model and which ones test it."""

from __future__ import annotations

import hashlib

from llm_core.text.document import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Never change it: every document would move, and models would be tested on what they were trained on.
SALT = b"tidemill split"


def split_of(sha256: str, test_share: float, validation_share: float) -> Split:
    """The split of the document whose raw content has this sha256.

    It follows from the raw content alone, so no change of the cleaning rules and no new document moves it.
    """
    point = int.from_bytes(hashlib.sha256(SALT + bytes.fromhex(sha256)).digest()[:8], "big") / 2**64
    if point < test_share:
        return "test"
    return "validation" if point < test_share + validation_share else "train"
