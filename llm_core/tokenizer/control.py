"""Control tokens that a model needs besides its tokenizer's: a mask, or the sentinels of spans that were cut out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken

from llm_core.tokenizer.errors import TokenizerError
from llm_core.tokenizer.tokenizer import TOKENIZER, TOKENIZER_CONFIG, read_rust


def copy_with_control_tokens(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy a tokenizer's files into a model's folder, with `names` behind its last id; without names as they are.

    A single name is the mask, as Hugging Face's classes expect it under ``mask_token``.
    """
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        shutil.copyfile(source / name, target / name)
    if not names:
        return
    rust = read_rust(source / TOKENIZER)
    first = 1 + max(rust.get_vocab().values())
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    found = [rust.token_to_id(name) for name in names]
    if found != list(range(first, first + len(names))):
        raise TokenizerError(f"{source / TOKENIZER}: {names[0]} is in it already; learn the tokenizer again")
    (target / TOKENIZER).write_text(rust.to_str(pretty=True) + "\n", encoding="utf-8")
    config = json.loads((source / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    if len(names) == 1:
        config["mask_token"] = names[0]
    config["additional_special_tokens"] = [*config.get("additional_special_tokens", ()), *names]
    content = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (target / TOKENIZER_CONFIG).write_text(content, encoding="utf-8")
