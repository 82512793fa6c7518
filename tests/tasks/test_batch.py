"""A table is scored row by row in order; what cannot be read is counted, and a stopped run goes on to equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm_core.artifact import Interrupted, Silent
from llm_core.pipeline.batch import Row, Writes, scorer
from tasks.batch import Batch, batch, preview
from tasks.batch_results import FinishedChunks, ResultsError
from tasks.fetch import Fetched, fetch
from tasks.tables import TableError
from tests.tasks.tiny_model import publish

TEXTS = ["The state of our union", "", "One, two and three. " * 40, None, "One", "fellow citizens know it", 7] * 7
REASONS = {"empty": 14, "not_text": 7, "too_long": 7}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder = tmp_path_factory.mktemp("models") / "train"
    publish(folder)
    return fetch(str(folder))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    return path


def job(source: Path, name: str = "out.jsonl", **changes: Any) -> Batch:
    options = {"max_tokens": 6, "temperature": 0.9, "seed": 3}
    return Batch(source, source.with_name(name), **{"options": options, "batch_size": 2, **changes})


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_gets_what_it_gets_alone_and_the_counts_add_up(model: Fetched, source: Path) -> None:
    account = batch(job(source), model, Silent())
    assert account["records_in"] == len(TEXTS) == account["scored"] + sum(account["refused"].values())
    assert account["refused"] == REASONS
    rows, single = rows_of(source.with_name("out.jsonl")), scorer(model.folder, max_tokens=6, temperature=0.9, seed=3)
    for number, (text, row) in enumerate(zip(TEXTS, rows, strict=True)):
        assert (row["id"], row["text"], row["model"], row["digest"]) == (number, text, model.name, model.digest)
        if row["error"] is None:
            (alone,) = single.score([single.read(text)], [number])
            assert {key: row[key] for key in alone} == alone
        else:
            assert row["answer"] is row["num_tokens"] is row["finish_reason"] is None
    assert rows[2]["error"].startswith("too_long: this model's context is 48 tokens")
    assert sorted(path.name for path in source.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def die_after(monkeypatch: pytest.MonkeyPatch, num_batches: int) -> None:
    """The model stops answering after so many batches."""
    calls, score = iter(range(num_batches)), Writes.score

    def scores_or_dies(self: Writes, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        if next(calls, None) is None:
            raise Interrupted("here")
        return score(self, rows, numbers)

    monkeypatch.setattr(Writes, "score", scores_or_dies)


@pytest.fixture
def stopped(model: Fetched, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results that a stopped run left."""
    with monkeypatch.context() as dying:
        die_after(dying, 10)
        with pytest.raises(Interrupted):
            batch(job(source), model, Silent())
    assert not source.with_name("out.jsonl").exists()
    return source.with_name(".out.jsonl.partial")


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_run_that_stopped_goes_on_to_equal_bytes(
    model: Fetched, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "texts.jsonl"  # of one type, as Parquet wants it
    table.write_text("".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n, text in enumerate(TEXTS)))
    batch(job(table, f"whole-{name}"), model, Silent())
    with monkeypatch.context() as dying:
        die_after(dying, 10)
        with pytest.raises(Interrupted):
            batch(job(table, name), model, Silent())
    assert not table.with_name(name).exists()
    account = batch(job(table, name), model, Silent(), resume=True)
    assert 0 < account["resumed_at"] < len(TEXTS) == account["records_in"]
    assert table.with_name(name).read_bytes() == table.with_name(f"whole-{name}").read_bytes()


def test_a_line_that_was_cut_off_is_scored_again(model: Fetched, source: Path, stopped: Path) -> None:
    batch(job(source, "whole.jsonl"), model, Silent())
    stopped.write_bytes(stopped.read_bytes()[:-9])
    account = batch(job(source), model, Silent(), resume=True)
    assert account["resumed_at"] == 16 and account["refused"] == REASONS
    assert source.with_name("out.jsonl").read_bytes() == source.with_name("whole.jsonl").read_bytes()


def test_a_stopped_run_is_neither_overwritten_nor_mixed_with_another(
    model: Fetched, source: Path, stopped: Path
) -> None:
    kept = stopped.read_bytes()
    with pytest.raises(ResultsError, match="go on with --resume, or remove the file"):
        batch(job(source), model, Silent())
    with pytest.raises(ResultsError, match="was begun with max_tokens 6, this is 5"):
        batch(job(source, options={"max_tokens": 5}), model, Silent(), resume=True)
    other = Fetched("demo@9", "f" * 64, model.folder)
    with pytest.raises(ResultsError, match="was begun with model .*, this is 'demo@9'"):
        batch(job(source), other, Silent(), resume=True)
    source.write_text(source.read_text() + '{"text": "more"}\n')
    with pytest.raises(ResultsError, match="was begun with input"):
        batch(job(source), model, Silent(), resume=True)
    assert stopped.read_bytes() == kept


def test_two_runs_never_write_one_output(model: Fetched, source: Path, stopped: Path) -> None:
    about = json.loads(stopped.read_text().splitlines()[0])
    with FinishedChunks(source.with_name("out.jsonl"), about, resume=True):  # noqa: SIM117
        with pytest.raises(ResultsError, match="another run is writing this output"):
            batch(job(source), model, Silent(), resume=True)
    assert stopped.exists()


def test_a_run_that_fails_at_once_leaves_nothing(model: Fetched, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after(monkeypatch, 0)
    with pytest.raises(Interrupted):
        batch(job(source), model, Silent())
    assert [path.name for path in source.parent.iterdir()] == ["in.jsonl"]


def test_a_preview_reads_every_row_and_writes_nothing(model: Fetched, source: Path) -> None:
    found = preview(job(source), model)
    assert (found["records_in"], found["refused"], found["columns"]) == (len(TEXTS), REASONS, ["text"])
    assert found["adds"] == ["answer", "num_tokens", "finish_reason", "model", "digest", "error"]
    assert [path.name for path in source.parent.iterdir()] == ["in.jsonl"]


def test_a_question_and_its_context_are_two_columns(tmp_path: Path) -> None:
    publish(tmp_path / "train", "bert", "question_answering")
    model = fetch(str(tmp_path / "train"))
    rows = [("who ?", text) for text in ("One, two and three.", "fellow citizens know it", " ")]
    (tmp_path / "in.csv").write_text("answer,q,c\n" + "".join(f'x,{q},"{c}"\n' for q, c in rows))
    cfg = job(tmp_path / "in.csv", "out.parquet", columns=("q", "c"), options={}, column_prefix="model_")
    account = batch(cfg, model, Silent())
    assert account["refused"] == {"empty": 1} and account["task"] == "question-answering"
    found, made = pq.read_table(tmp_path / "out.parquet").to_pylist(), scorer(tmp_path / "train")
    for row, texts in zip(found[:2], rows, strict=False):
        (alone,) = made.score([made.read(*texts)], [0])
        assert (row["answer"], row["model_answer"]) == ("x", alone["answer"])
        assert row["model_score"] == pytest.approx(alone["score"])
    assert found[2]["model_error"] == "empty: context is empty" and found[2]["model_answer"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ("body",)}, r"no column 'body'; it has id, text; name one with --column"),
        ({"columns": ("id", "text")}, "--column: text-generation reads prompt, so give 1, not 2"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"task": "text-classification", "options": {}}, "a causal_lm model cannot do text-classification"),
        ({"name": "out.txt"}, "must end with one of"),
        ({"name": "out.parquet"}, "do not fit Parquet's typed columns"),
    ],
)
def test_what_does_not_fit_is_named_before_any_work(
    model: Fetched, source: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        batch(job(source, **changes), model, Silent())
    assert [path.name for path in source.parent.iterdir()] == ["in.jsonl"]


def test_a_column_of_the_table_is_never_replaced(model: Fetched, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,answer\nOne,1\n")
    with pytest.raises(TableError, match="has a column 'answer', which scoring would add; give a --column-prefix"):
        batch(job(tmp_path / "in.csv"), model, Silent())


def test_the_column_may_have_the_tasks_own_name(model: Fetched, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("prompt\nOne\n")
    assert batch(job(tmp_path / "in.csv"), model, Silent())["scored"] == 1
