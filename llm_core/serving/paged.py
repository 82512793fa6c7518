"""Continuous batching: at every step each running answer gets a token, and prompts are read in chunks beside them.

An answer is admitted when the blocks for its prompt are free. When blocks run out while writing, the answer that came
last gives its own back and later reads its text again, with the same result to the bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_core.generate import Token
from llm_core.kernels import BLOCK_TOKENS, NativeDecoder, Precision, Rows, StepResult
from llm_core.serving.blocks import BlockPool, blocks_for, digests_of
from llm_core.serving.counts import Counts
from llm_core.serving.drawing import Draw, draw_tokens, prompt_tokens
from llm_core.serving.jobs import Answer

STEP_TOKENS = 256
"""Rows of a step: more make prompts faster, and the tokens of those who write beside them later."""


@dataclass(eq=False)
class Text:
    """An answer's tokens, prompt included, and where their keys and values are."""

    answer: Answer
    ids: list[int]
    draw: Draw
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    num_read: int = 0
    """Tokens whose keys and values are in the blocks."""
    prompt: list[Token] = field(default_factory=list)
    """The prompt's tokens behind the first, with log-probabilities, as far as they are known."""

    @property
    def num_left(self) -> int:
        """Tokens to read before the next one can be written."""
        return len(self.ids) - self.num_read

    @property
    def is_reading(self) -> bool:
        return self.num_left > 1

    @property
    def tells_prompt(self) -> bool:
        """Whether rows of the prompt are still asked for."""
        return self.answer.job.tells_prompt and len(self.prompt) < len(self.answer.job.ids) - 1


@dataclass(eq=False)
class Share:
    """What one step reads of a text."""

    text: Text
    num_tokens: int
    wanted: range = range(0)
    """Its rows among those whose logits are asked for."""


class PagedRunner:
    """All answers of one model version; one thread steps it."""

    can_constrain = True
    is_idle = False
    trouble: str | None = None

    def __init__(self, decoder: NativeDecoder, max_running: int, threads: int = 1) -> None:
        self.counts = Counts()
        self._decoder, self._max_running, self._threads = decoder, max_running, threads
        self._pool = BlockPool(decoder.num_blocks)
        self._running: list[Text] = []
        self._waiting: deque[Text] = deque()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def cache_usage(self) -> float:
        """Share of the blocks that answers hold, from 0 to 1."""
        return 1 - self._pool.num_free / self._pool.num_blocks

    @property
    def num_bytes(self) -> int:
        """Packed weights, and all blocks once they were used."""
        return self._decoder.num_bytes

    @property
    def precision(self) -> Precision:
        """Of weights, keys and values."""
        return self._decoder.precision

    def logits_of(self, ids: Sequence[int]) -> np.ndarray:
        """The logits (V) behind a text, computed beside all answers; it needs free blocks."""
        blocks = self._pool.take(blocks_for(len(ids)))
        assert blocks is not None, "a model is compared before it serves"
        count = len(ids)
        places, text = np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
        rows = Rows(np.array(ids, np.int32), places, text, np.array([blocks], np.int32))
        result = self._decoder.step(rows, np.array([count - 1], np.int32), self._threads)
        self._pool.release(blocks)
        return result.logits[0]

    def add(self, answer: Answer) -> None:
        """Take an answer in; it runs as soon as there is room."""
        self._waiting.append(Text(answer, list(answer.job.ids), Draw(answer.job)))

    def step(self) -> None:
        """Read and write one step's tokens; answers that are complete or cancelled leave."""
        self._drop_cancelled()
        self._make_room()
        shares = self._shares()
        if shares:
            self._run(shares)

    def fail_all(self, message: str, is_shutdown: bool = False) -> None:
        """End every answer with an error."""
        texts, self._running, self._waiting = [*self._running, *self._waiting], [], deque()
        for text in texts:
            self._pool.release(text.blocks)
            text.answer.fail(message, is_shutdown)

    def close(self) -> None:
        """Nothing is held outside of this process."""

    def _drop_cancelled(self) -> None:
        for text in [text for text in self._running if text.answer.is_cancelled]:
            self._leave(text)
        if any(text.answer.is_cancelled for text in self._waiting):
            self._waiting = deque(text for text in self._waiting if not text.answer.is_cancelled)

    def _leave(self, text: Text) -> None:
        self._running.remove(text)
        self._pool.release(text.blocks)

    def _make_room(self) -> None:
        """A block for each running answer that needs one, in the order of their coming; the last ones give way."""
        for text in list(self._running):
            while text in self._running and len(text.blocks) * BLOCK_TOKENS < len(text.ids):
                if taken := self._pool.take(1):
                    text.blocks += taken
                else:
                    self._preempt(self._running[-1])

    def _preempt(self, text: Text) -> None:
        self._leave(text)
        text.blocks, text.num_read = [], 0
        self._waiting.appendleft(text)
        text.answer.num_preempted += 1
        self.counts.preemptions += 1

    def _shares(self) -> list[Share]:
        """What this step reads: a token of each answer that writes, then chunks of prompts."""
        shares = [Share(text, 1) for text in self._running if not text.is_reading]
        budget = STEP_TOKENS - len(shares)
        for text in [*(text for text in self._running if text.is_reading), *self._admitted()]:
            if budget > 0:
                shares.append(Share(text, min(text.num_left, budget)))
                budget -= shares[-1].num_tokens
        return shares

    def _admitted(self) -> list[Text]:
        """Answers that wait and for which there is room now, in the order of their coming."""
        admitted: list[Text] = []
        held: list[Text] = []
        while self._waiting and len(self._running) < self._max_running:
            text = self._waiting.popleft()
            if any(other.is_reading and other.answer.job.ids is text.answer.job.ids for other in self._running):
                held.append(text)  # what its sibling reads will be remembered
            elif self._admit(text):
                admitted.append(text)
            else:
                held.append(text)
                break
        self._waiting.extendleft(reversed(held))
        return admitted

    def _admit(self, text: Text) -> bool:
        # The last token is always read: its logits are needed. So is a prompt whose logits are asked for.
        text.digests = digests_of(text.ids, text.digests)
        known = [] if text.tells_prompt else self._pool.find(text.digests[: (len(text.ids) - 1) // BLOCK_TOKENS])
        taken = self._pool.take(blocks_for(len(text.ids)) - len(known))
        if taken is None:
            self._pool.release(known)
            return False
        text.blocks, text.num_read = known + taken, len(known) * BLOCK_TOKENS
        text.answer.begin(text.num_read)
        self.counts.prompt_tokens += len(text.ids)
        self.counts.cached_tokens += text.num_read
        self._running.append(text)
        return True

    def _run(self, shares: Sequence[Share]) -> None:
        wanted: list[int] = []
        row = 0
        for share in shares:
            text, row = share.text, row + share.num_tokens
            # All of a prompt that is told, else the one before the next token.
            count = share.num_tokens if text.tells_prompt else int(share.num_tokens == text.num_left)
            share.wanted = range(len(wanted), len(wanted) + count)
            wanted += range(row - count, row)
        result = self._decoder.step(_rows(shares), np.array(wanted, np.int32), self._threads)
        self.counts.steps += 1
        for share in shares:
            self._keep(share, result)
        self._write([share for share in shares if not share.text.num_left], result)

    def _keep(self, share: Share, result: StepResult) -> None:
        """Note what was read, and remember the blocks that are full now."""
        text = share.text
        if text.tells_prompt:
            text.prompt += prompt_tokens(text.answer.job, result, share.wanted, text.num_read)
        before, text.num_read = text.num_read // BLOCK_TOKENS, text.num_read + share.num_tokens
        if text.num_read // BLOCK_TOKENS > before:
            text.digests = digests_of(text.ids[: text.num_read], text.digests)
            for place in range(before, text.num_read // BLOCK_TOKENS):
                self._pool.name(text.blocks[place], text.digests[place])

    def _write(self, shares: Sequence[Share], result: StepResult) -> None:
        """The next token of each text that is read to its end."""
        rows = np.array([share.wanted[-1] for share in shares], np.int64)
        texts = [share.text for share in shares]
        for text, token in zip(texts, draw_tokens([text.draw for text in texts], rows, result), strict=True):
            if not self._take(text, token):
                self._leave(text)

    def _take(self, text: Text, token: Token) -> bool:
        """Give the answer its next token; False when that was the last."""
        answer = text.answer
        if not math.isfinite(token.logprob):
            answer.fail(f"the model's output holds NaN or infinity; {answer.job.model.name} must not serve")
            return False
        if answer.job.tells_prompt and len(text.ids) == len(answer.job.ids):
            answer.tell_prompt(tuple(text.prompt))
        if not answer.limit:
            return answer.finish("length")
        text.ids.append(token.id)
        text.draw.note(token.id)
        self.counts.written_tokens += 1
        return answer.take(token)


def _rows(shares: Sequence[Share]) -> Rows:
    """A step's rows as the kernel takes them."""
    ids: list[int] = []
    for share in shares:
        ids += share.text.ids[share.text.num_read : share.text.num_read + share.num_tokens]
    counts = np.array([share.num_tokens for share in shares])
    starts = np.array([share.text.num_read for share in shares])
    before = np.cumsum(counts) - counts
    places = np.arange(len(ids)) + np.repeat(starts - before, counts)
    tables = np.zeros((len(shares), max(len(share.text.blocks) for share in shares)), np.int32)
    for table, share in zip(tables, shares, strict=True):
        table[: len(share.text.blocks)] = share.text.blocks
    numbers = np.repeat(np.arange(len(shares)), counts)
    return Rows(np.array(ids, np.int32), places.astype(np.int32), numbers.astype(np.int32), tables)
