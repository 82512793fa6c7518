"""Examples come from tables, are chosen by their content, and never stand in the training text."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pandas as pd
import pytest

from llm_core.evals.examples import ExamplesError, chosen, read_examples, require_keys, uncontaminated

ROWS = [{"prompt": f"question {number}", "references": [f"answer {number}"]} for number in range(20)]


def _write(folder: Path, suffix: str) -> str:
    name = f"table{suffix}"
    if suffix == ".jsonl":
        (folder / name).write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    elif suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(folder / name)
    else:
        pd.DataFrame([{"prompt": row["prompt"]} for row in ROWS]).to_csv(folder / name, index=False)
    return name


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_table_is_read_by_its_suffix(tmp_path: Path, suffix: str) -> None:
    found = read_examples(_write(tmp_path, suffix), tmp_path)
    assert [row["prompt"] for row in found] == [row["prompt"] for row in ROWS]
    assert suffix == ".csv" or found == ROWS


def test_another_table_than_the_run_began_with_is_refused(tmp_path: Path) -> None:
    name = _write(tmp_path, ".jsonl")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert read_examples(name, tmp_path, digest) == ROWS
    with (tmp_path / name).open("a") as file:
        file.write('{"prompt": "one more"}\n')
    with pytest.raises(ExamplesError, match=r"table\.jsonl: its sha256 is .* run it again"):
        read_examples(name, tmp_path, digest)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, r"missing\.jsonl: cannot be read"),
        ("table.txt", b"text", "is no table of examples"),
        ("table.jsonl", b'{"a": 1}\n{"a"', "line 2: no JSON"),
        ("table.jsonl", b"[1]", "line 1: a list, not an object"),
        ("table.jsonl", b"\n", "has no examples"),
        ("table.jsonl", b"\xff", "table.jsonl: "),
        ("table.parquet", b"PAR1", "table.parquet: "),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExamplesError, match=message):
        read_examples(name, tmp_path)


def test_a_row_without_what_its_suite_asks_for_is_refused() -> None:
    with pytest.raises(ExamplesError, match="t.jsonl, example 2: has prompt, not references; each needs prompt, ref"):
        require_keys([ROWS[0], {"prompt": "alone"}], ("prompt", "references"), "t.jsonl")


def test_the_choice_follows_from_content_alone() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert chosen(ROWS, 5) == chosen([*shuffled, ROWS[3]], 5)
    assert chosen(ROWS, 100) == chosen(shuffled, 100)
    assert len(chosen([*ROWS, *ROWS], 100)) == len(ROWS)


def test_thirteen_words_of_the_training_text_contaminate_an_example() -> None:
    words = [f"word{number}" for number in range(60)]
    training = [" ".join(words[:30]), " ".join(words[30:])]
    seen = {"prompt": " ".join(words[5:18]).upper(), "references": ["x"]}
    punctuated = {"prompt": "x", "references": [", ".join(words[40:53])]}
    short = {"prompt": " ".join(words[5:17])}
    across_documents = {"prompt": " ".join(words[24:36])}
    found = uncontaminated([seen, punctuated, short, across_documents], training)
    assert found == [short, across_documents]
