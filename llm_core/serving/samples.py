"""What callers let the server keep: a sample of requests and answers, and what people thought of answers.

Nothing is kept without the caller's consent, and personal data is replaced by placeholders before anything is written.
Four files, private to their owner, hold one JSON object a line:

- ``samples.jsonl``: a share of the exchanges. `text` is the prompt, so that labelling and cleaning read the file as
  documents, and the drift of what is asked can be measured like that of any batch.
- ``feedback.jsonl``: exchanges that somebody judged, in the same form.
- ``corrections.jsonl``: exchanges that somebody knew a better answer to, which are preferences to be labelled too
  (`prompt`, `left` the answer, `right` the better one).
- ``ratings.jsonl``: every judgement, as numbers and ids only.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_core.serving.keys import KEY
from llm_core.serving.record_files import RecordFile

logger = logging.getLogger(__name__)

CONSENT_HEADER = "x-tidemill-consent"
CONSENT_KEY = "consent"
LONGEST_TEXT = 100_000
"""Characters of a text that are kept."""
REMEMBERED_CHARACTERS = 8_000_000
"""Exchanges that feedback can come to are remembered up to so much text."""
WORDS = ("text", "answer", "prompt", "left", "right")
"""Keys of a record under which people's words stand."""
MAX_WAITING = 1000
"""Records that wait to be written; what comes on top is dropped: answering never waits for this."""


def consents(headers: Mapping[str, str], metadata: Mapping[str, str]) -> bool:
    """Whether a request says that it may be kept: a header, or OpenAI's metadata."""
    return headers.get(CONSENT_HEADER) == "true" or metadata.get(CONSENT_KEY) == "true"


@dataclass(frozen=True)
class Exchange:
    """A request and its answer."""

    response_id: str
    version: str
    prompt: str
    answer: str
    messages: Sequence[Mapping[str, str]] = ()
    """The conversation before the answer, of chats."""

    @property
    def num_characters(self) -> int:
        return len(self.prompt) + len(self.answer) + sum(len(turn["content"]) for turn in self.messages)

    def record(self) -> dict[str, Any]:
        """As a document to label or to clean."""
        messages = {"messages": list(self.messages)} if self.messages else {}
        ids = {"response_id": self.response_id, "version": self.version}
        return {"text": self.prompt, "answer": self.answer, **messages, **ids}


@dataclass(frozen=True)
class Judgement:
    """What somebody thought of a response."""

    response_id: str
    rating: int | None = None
    """-1, 0 or 1."""
    stars: int | None = None
    """1 to 5."""
    correction: str | None = None
    """A better answer."""


class Samples:
    """Keeps exchanges and judgements in a folder. A thread redacts and writes, so that no answer waits for it."""

    def __init__(self, folder: Path, share: float = 0.0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"--sample {share}: give a share from 0 (feedback only) to 1 (every request)")
        self._share = share
        names = ("samples", "feedback", "corrections", "ratings")
        self._files = {name: RecordFile(folder / f"{name}.jsonl") for name in names}
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, Exchange] = OrderedDict()
        self._num_characters = 0
        self._waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(MAX_WAITING)
        self._writer = threading.Thread(target=self._write_all, name="samples", daemon=True)
        self._writer.start()

    def take(
        self,
        prompt: str,
        answer: str,
        version: str,
        response_id: str,
        consent: bool,
        messages: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Note an answered request, and keep it if it is one of the sample. Without consent nothing happens."""
        if not consent or not prompt.strip():
            return
        exchange = Exchange(response_id, version, prompt[:LONGEST_TEXT], answer[:LONGEST_TEXT], _to_answer(messages))
        self._remember(exchange)
        if _fraction(response_id) < self._share:
            self._write("samples", exchange.record())

    def judge(self, judgement: Judgement, key_id: str | None, consent: bool) -> list[str]:
        """Keep a judgement: its numbers always; its words, with the exchange, if both callers consented.

        Gives what is kept: rating, and exchange where the exchange is still remembered.
        """
        numbers = {name: value for name, value in asdict(judgement).items() if name != "correction"}
        better = (judgement.correction or "")[:LONGEST_TEXT]
        self._write("ratings", {**numbers, "corrected": bool(better), "key": key_id})
        with self._lock:
            exchange = self._remembered.get(judgement.response_id)
        if exchange is None or not consent:
            return ["rating"]
        record = {**exchange.record(), "rating": judgement.rating, "stars": judgement.stars}
        if better.strip() and exchange.answer.strip():
            preference = {"prompt": exchange.prompt, "left": exchange.answer, "right": better}
            self._write("corrections", {**record, **preference})
        else:
            self._write("feedback", record)
        return ["rating", "exchange"]

    def close(self) -> None:
        """Write what waits, and end."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()

    def _remember(self, exchange: Exchange) -> None:
        with self._lock:
            if earlier := self._remembered.pop(exchange.response_id, None):
                self._num_characters -= earlier.num_characters
            self._remembered[exchange.response_id] = exchange
            self._num_characters += exchange.num_characters
            while self._num_characters > REMEMBERED_CHARACTERS:
                _, oldest = self._remembered.popitem(last=False)
                self._num_characters -= oldest.num_characters

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self._waiting.put_nowait((name, {**record, "at": at}))
        except queue.Full:
            logger.warning("%s: a record is dropped, %d wait to be written", name, MAX_WAITING)

    def _write_all(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            name, record = waiting
            try:
                self._files[name].append(redacted(record))
            except OSError as problem:
                logger.warning("%s: a record is lost (%s)", self._files[name].path, problem)


def _fraction(response_id: str) -> float:
    """A number from 0 to 1 that follows from the id: whoever serves or repeats it, it is in the sample or not."""
    return int.from_bytes(hashlib.sha256(response_id.encode()).digest()[:8]) / 2**64


def _to_answer(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The turns before the answer, if they are ones that people can be shown to answer; else none."""
    turns = [{"role": turn["role"], "content": turn["content"][:LONGEST_TEXT]} for turn in messages]
    is_whole = bool(turns) and turns[-1]["role"] == "user" and all(turn["content"].strip() for turn in turns)
    return list(turns) if is_whole else []


def redacted(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with placeholders for personal data and secrets in all that people wrote."""
    from llm_core.config import Clean
    from llm_core.text.document import Document
    from llm_core.text.pii import PLACEHOLDERS, redact_pii

    cfg = Clean()

    def redact(text: str) -> str:
        text = KEY.sub(PLACEHOLDERS["key"], text)  # one of ours
        return redact_pii(Document(source="", start=0, end=0, sha256="", license="", text=text), cfg).text

    words: dict[str, Any] = {name: redact(record[name]) for name in WORDS if name in record}
    if "messages" in record:
        words["messages"] = [{**turn, "content": redact(turn["content"])} for turn in record["messages"]]
    return {**record, **words}
