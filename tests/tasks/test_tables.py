"""Tables of every format are read by parts, come out with their values untouched, and broken ones are named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import json_rows, tables
from tasks.scored_tables import check_output, write_scored
from tasks.tables import TableError, open_table

ROWS: list[dict[str, Any]] = [
    {"text": f'row {number}, with "quotes"\nand 今天', "note": "" if number % 3 else "007", "n": str(number)}
    for number in range(25)
]
ADDED: dict[str, Any] = {"answer": "text", "score": "number", "vector": "vector"}


def results(count: int = len(ROWS)) -> Any:
    return ({"answer": f"a{n}", "score": n / 3, "vector": [n / 2, 1.0]} if n % 5 else no_result() for n in range(count))


def no_result() -> dict[str, Any]:
    return dict.fromkeys(ADDED)


def save_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def save_dataset(path: Path, rows: list[dict[str, Any]]) -> None:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(path))


SAVED: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "in.csv": save_csv,
    "in.tsv": save_csv,
    "in.jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows))),
    "in.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1, ensure_ascii=False)),
    "lines.json": lambda path, rows: path.write_text("\n" + "\n".join(map(json.dumps, rows)) + "\n"),
    "in.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4),
    "dataset": save_dataset,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_ROWS", 7)
    monkeypatch.setattr(json_rows, "PIECE_CHARACTERS", 11)


@pytest.mark.parametrize("name", SAVED)
def test_every_format_gives_its_rows_from_any_place(tmp_path: Path, name: str) -> None:
    SAVED[name](tmp_path / name, ROWS)
    table = open_table(tmp_path / name)
    survey = table.survey()
    assert (survey.columns, survey.num_rows) == (("text", "note", "n"), len(ROWS))
    assert list(table.rows()) == ROWS
    for start in (1, 7, 8, 24, 25, 99):
        assert list(table.rows(start, ["n"])) == [{"n": row["n"]} for row in ROWS[start:]]


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_the_same_rows_come_out_with_new_columns(tmp_path: Path, name: str, output: str) -> None:
    SAVED[name](tmp_path / name, ROWS)
    table = open_table(tmp_path / name)
    write_scored(table, table.survey().columns, tmp_path / output, ADDED, results())
    found = list(open_table(tmp_path / output).rows())
    expected = [{**row, **result} for row, result in zip(ROWS, results(), strict=True)]
    if output.endswith((".csv", ".tsv")):
        expected = [
            {key: value if isinstance(value, str) else json.dumps(value) if value else "" for key, value in row.items()}
            for row in expected
        ]
    assert found == expected
    assert [path.name for path in tmp_path.iterdir() if path.name not in (name, output)] == []


def test_parquet_keeps_its_types_and_leaves_notes_of_datasets_out(tmp_path: Path) -> None:
    import datasets

    table = pa.table(
        {
            "when": pa.array([datetime(2026, 1, 2, 3, 4), None], pa.timestamp("us")),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "raw": pa.array([b"\x00", b"\xff"], pa.binary()),
        }
    )
    noted = table.replace_schema_metadata({b"huggingface": b'{"info": {"features": {}}}', b"own": b"kept"})
    pq.write_table(noted, tmp_path / "in.parquet")
    source = open_table(tmp_path / "in.parquet")
    write_scored(source, source.survey().columns, tmp_path / "out.parquet", ADDED, results(2))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata == {b"own": b"kept"}
    assert datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path)).num_rows == 2


def test_typed_values_become_json(tmp_path: Path) -> None:
    rows = [{"day": date(2026, 1, 2), "nan": float("nan"), "list": [1, 2.5]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    source = open_table(tmp_path / "in.parquet")
    write_scored(source, source.survey().columns, tmp_path / "out.jsonl", {}, iter([{}]))
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"day": "2026-01-02", "nan": None, "list": [1, 2.5]}


def test_bytes_go_to_parquet_only(tmp_path: Path) -> None:
    pq.write_table(pa.table({"raw": [b"\xff"]}), tmp_path / "in.parquet")
    source = open_table(tmp_path / "in.parquet")
    with pytest.raises(TableError, match=r"the column 'raw' holds bytes, .*write \.parquet"):
        write_scored(source, ("raw",), tmp_path / "out.csv", {}, iter([{}]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]


def test_half_a_character_survives_as_an_escape(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a \\ud800 今"}\n')
    source = open_table(tmp_path / "in.jsonl")
    for name in ("out.jsonl", "out.csv"):
        write_scored(source, ("text",), tmp_path / name, {}, iter([{}]))
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == "a \ud800 今"
    assert (tmp_path / "out.csv").read_text() == "text\na \\ud800 今\n"


@pytest.mark.parametrize("count", [24, 26])
@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_table_that_changed_meanwhile_is_refused(tmp_path: Path, count: int, output: str) -> None:
    save_csv(tmp_path / "in.csv", ROWS)
    source = open_table(tmp_path / "in.csv")
    with pytest.raises(TableError, match="other rows than when it was scored"):
        write_scored(source, source.survey().columns, tmp_path / output, ADDED, results(count))
    assert not (tmp_path / output).exists()


def test_columns_that_a_few_rows_have_are_all_columns(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n' * 9 + '{"b": "x"}\n')
    source = open_table(tmp_path / "in.jsonl")
    assert source.survey().columns == ("a", "b")
    assert list(source.rows(8, ["a", "b"])) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    write_scored(source, ("a", "b"), tmp_path / "out.parquet", ADDED, results(10))
    found = pq.read_table(tmp_path / "out.parquet", columns=["a", "b"])
    assert found.to_pylist()[8:] == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"a,b\n1,2\n3\n", "line 3: 1 fields, the header has 2"),
        ("in.csv", b'a,b\n1,"2\n', "line 3: unexpected end of data|line 2: unexpected end of data"),
        ("in.csv", b"a,a\n1,2\n", "the column 'a' is there twice"),
        ("in.csv", b"", "empty; a table needs a header"),
        ("in.csv", b"a,b\n1,\xff\n", "not UTF-8"),
        ("in.jsonl", b'{"a": 1}\n\n{"a": \n', "line 3: not JSON"),
        ("in.jsonl", b"[1]\n", "line 1: a row must be an object, this is list"),
        ("in.json", b'[{"a": 1}, 2]', "row 1: a row must be an object"),
        ("in.json", b'[{"a": 1} {"a": 2}]', "row 1: a comma or the array's end is missing"),
        ("in.json", b'[{"a": 1}, {"a": 2', "row 1: not JSON"),
        ("in.json", b'[{"a": 1},', "row 1: a row must be an object"),
        ("in.json", b'[{"a": 1}] x', "something stands behind the array's end, after 1 rows"),
        ("in.json", b'"text"', "a JSON table is an array of objects"),
        ("in.json", b'[{"a": "\xff"}]', "can't decode byte 0xff"),
        ("in.parquet", b"PAR1 and so on", "not a sound Parquet file"),
        ("in.xlsx", b"", "not a table that is read here; give .csv"),
    ],
)
def test_a_broken_table_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message) as found:
        open_table(tmp_path / name).survey()
    assert str(tmp_path / name) in str(found.value)


def test_a_missing_table_and_a_folder_that_is_none_are_named(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    with pytest.raises(TableError, match="no such file or folder"):
        open_table(tmp_path / "no.csv")
    with pytest.raises(TableError, match="not a folder that `datasets` saved"):
        open_table(tmp_path).survey()
    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "all"))
    with pytest.raises(TableError, match="has the splits train; give one, as .*all/train"):
        open_table(tmp_path / "all").survey()
    assert open_table(tmp_path / "all" / "train").survey().num_rows == len(ROWS)


def test_rows_without_common_types_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n' * 9 + '{"a": "x"}\n')
    with pytest.raises(TableError, match=r"rows 7 to 9 do not fit Parquet's typed columns"):
        open_table(tmp_path / "in.jsonl").schema()


@pytest.mark.parametrize(
    ("output", "message"),
    [("out.xlsx", "must end with one of .csv"), ("in.csv", "would overwrite the input"), ("d.csv", "is a folder")],
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, output: str, message: str) -> None:
    save_csv(tmp_path / "in.csv", ROWS)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(TableError, match=message):
        check_output(tmp_path / output, tmp_path / "in.csv")
