"""Blocks of the key/value cache: who uses them, and which of them hold the beginning of a text that comes again.

A full block is known by a digest of its tokens and of all before them, so equal beginnings of prompts share blocks. A
block that nobody uses keeps its content until its place is needed, the longest unused first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from llm_core.kernels import BLOCK_TOKENS


class BlockPool:
    """A fixed number of blocks, counted by use."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._users = [0] * num_blocks
        self._digest: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        # In the order in which they will be taken: those without content first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that can be taken, remembered content included."""
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """So many blocks to write into, or none at all where there are fewer."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._forget(block)
            self._users[block] = 1
        return taken

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest beginning of these, in order; each has one user more."""
        found: list[int] = []
        for digest in digests:
            block = self._known.get(digest)
            if block is None:
                break
            self._users[block] += 1
            self._free.pop(block, None)
            found.append(block)
        return found

    def name(self, block: int, digest: bytes) -> None:
        """Remember what a full block holds; of equal blocks the first one is found."""
        if digest not in self._known:
            self._known[digest] = block
            self._digest[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each; the ends of texts are taken again before their beginnings."""
        for block in reversed(blocks):
            self._users[block] -= 1
            assert self._users[block] >= 0, f"block {block} was released twice"
            if not self._users[block]:
                self._free[block] = None
                if block not in self._digest:
                    self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        if digest := self._digest.pop(block, None):
            del self._known[digest]


def digests_of(ids: Sequence[int], before: Sequence[bytes] = ()) -> list[bytes]:
    """The digests of the full blocks of a text, of which those `before` are known already."""
    digests = list(before)
    for start in range(len(digests) * BLOCK_TOKENS, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        tokens = array("q", ids[start : start + BLOCK_TOKENS]).tobytes()
        digests.append(hashlib.sha256((digests[-1] if digests else b"") + tokens).digest())
    return digests


def blocks_for(num_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // BLOCK_TOKENS)
