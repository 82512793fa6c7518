"""Conversations as a tuned model reads them: the ids of the chat template, and which of them it learns to write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_core.tokenizer import CHAT_TEMPLATE, TOKENIZER_CONFIG, TURN_END, TURN_START, Tokenizer, TokenizerError
from llm_core.tokenizer.bulk import Ids

Mask = npt.NDArray[np.bool_]
WRITER = "assistant"
"""The role whose words the model learns."""


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> tuple[Ids, Mask]:
    """Ids (T,) of messages ``{role, content}`` and the mask (T,) over the assistant's words and what ends its turns.

    The ids are those of CHAT_TEMPLATE's rendering, whose pieces between control tokens are encoded one by one as the
    server does. Text of a message that spells a control token stays text.
    """
    line_end = tokenizer.encode("\n")
    before_words = tokenizer.encode(f"{WRITER}\n")
    ids: list[int] = []
    marks: list[bool] = []
    for message in messages:
        is_learned = message["role"] == WRITER
        said = tokenizer.encode(f"{message['role']}\n{message['content']}")
        # The served prompt ends with `before_words`: the model writes what comes behind them.
        given = len(commonprefix([before_words, said])) if is_learned else len(said)
        ids += [tokenizer.special_ids[TURN_START], *said, tokenizer.special_ids[TURN_END], *line_end]
        marks += [False] * (1 + given) + [True] * (len(said) - given) + [is_learned] + [False] * len(line_end)
    return np.array(ids, tokenizer.dtype), np.array(marks, np.bool_)


def conversation_bytes(messages: Sequence[Mapping[str, str]]) -> int:
    """Size in UTF-8 of what `encode_conversation` encodes, control tokens left out."""
    return sum(len(f"{message['role']}\n{message['content']}\n".encode()) for message in messages)


def require_template(folder: Path) -> None:
    """Raise TokenizerError unless the server would render conversations of this folder's model as this module does."""
    path = folder / TOKENIZER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        config = {}
    except ValueError as problem:
        raise TokenizerError(f"{path}: not JSON ({problem}); fetch or make it again") from None
    if not isinstance(config, dict) or config.get("chat_template") != CHAT_TEMPLATE:
        raise TokenizerError(
            f"{path}: its chat template is not the one that tuning tokens are written with; take it over first, "
            f"with tidemill run --set tokenizer.source=folder --set tokenizer.folder={folder}"
        )
