"""The data report adds up, asks for nothing from outside, keeps private what is private, and takes any text."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean, Contract
from llm_core.text.document import CleanDocument, Rejection
from llm_core.text.profile import Profile, write_profiles
from llm_core.text.shards import DOCUMENTS, ShardWriter, shards
from llm_core.text.split import split_of
from tasks import data_plots
from tasks.data_report import data_report, metrics, summary_markdown

HOSTILE = "</pre><script>alert(1)</script><img src=https://example.com/x.png> \x00\x1b[31m \u202e\r\n & {{ 7 * 7 }}"
SECRET = "a dropped record, with the address jo@example.com"
NUM_KEPT, NUM_REJECTED = 60, 12
CLEAN = Clean(
    rules=("language", "pii"),
    contract=Contract(max_rejected_share=0.5, max_drift=0.9, languages=("en", "zh"), min_batch_documents=10),
)


class Page(HTMLParser):
    """Tags with their attributes, the text of every cell and every sample, and all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.samples: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "pre":
            self.samples.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self.samples.append("")
        elif tag == "table":
            self.rows.append([])  # what follows is in no cell

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()
        if self.samples:
            self.samples[-1] += data

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.tags if name == tag)

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


def clean_document(number: int, text: str) -> CleanDocument:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return CleanDocument(
        source=f"texts/{number}.txt",
        start=0,
        end=2 * len(text.encode()),
        sha256=sha256,
        license="free",
        text=text,
        language="zh" if number % 3 == 0 else "en",
        redactions="email=2 phone=1" if number % 10 == 0 else "",
        split=split_of(sha256, 0.3, 0.1),
        num_bytes=len(text.encode()),
    )


def publish(folder: Path, batches: list[Profile], documents: list[CleanDocument], cfg: Clean = CLEAN) -> Artifact:
    with Draft(folder, "documents", "clean", recipe={"clean": cfg.model_dump(mode="json")}) as out:
        with ShardWriter(out.path, CleanDocument, DOCUMENTS) as writer:
            for document in documents:
                writer.add(document, document.num_bytes)
        write_profiles(batches, out.path)
        return out.publish({"kept": len(documents)})


def two_nights() -> tuple[list[Profile], list[CleanDocument]]:
    texts = [f"document {number} " + HOSTILE + "word " * number * 7 for number in range(NUM_KEPT)]
    documents = [clean_document(number, text) for number, text in enumerate(texts)]
    batches = [Profile(name, contaminated=Counter(mmlu=0)) for name in ("night $1$", "<night 2>")]
    for number, document in enumerate(documents):
        batches[number * 2 // NUM_KEPT].add(document)
    for number in range(NUM_REJECTED):
        reason = ("too_short", "duplicate", "contaminated")[number % 3]
        batches[number % 2].reject(Rejection(reason, ""), 100, suites=("piqa",) if reason == "contaminated" else ())
    return batches, documents


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return publish(tmp_path_factory.mktemp("report") / "clean", *two_nights())


@pytest.fixture(scope="module")
def quarantine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Dropped records: a damaged one, one larger than the table takes, some alike, and a table's row without bytes."""
    folder = tmp_path_factory.mktemp("quarantine")
    raws: list[bytes | None] = [b"bad \xff\xfe bytes " + HOSTILE.encode(), None, *[SECRET.encode()] * 7, None]
    rows: list[dict[str, Any]] = [
        {"source": "mail/1.txt", "start": 0, "end": 9, "unit": "byte", "sha256": f"{number:064}", "raw": raw}
        | {"reason": "too_large" if raw is None else "too_short", "detail": "3 words, <50> needed"}
        for number, raw in enumerate(raws)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "quarantine-00000.parquet")
    (folder / f"{1:064}.bin").write_bytes(b"large record " * 10**6)
    return shards(folder, "quarantine")


@pytest.fixture(scope="module")
def report(cleaned: Artifact, quarantine: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_report(cleaned, quarantine, tmp_path_factory.mktemp("out") / "new" / "report.html", tokens=1_234_567)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_the_accounts_add_up(page: Page) -> None:
    outcomes = ["kept", "contaminated", "duplicate", "too_short"]
    assert [page.row(name)[1] for name in outcomes] == ["60", "4", "4", "4"]
    assert page.row("records in")[1] == str(NUM_KEPT + NUM_REJECTED)


def test_the_headline_has_what_is_asked_first(page: Page) -> None:
    assert [
        part for part in ("60documents kept", "72records in", "1.23 Mtokens", "2languages") if part not in page.text
    ] == []


def test_every_section_shows_its_numbers(page: Page) -> None:
    assert (page.row("email")[1], page.row("phone")[1]) == ("12", "6")
    assert (page.row("piqa")[1], page.row("mmlu")[1]) == ("4", "0")
    assert (page.row("zh")[1], page.row("en")[1]) == ("20", "40")
    assert sum(int(page.row(split)[1]) for split in ("train", "validation", "test")) == NUM_KEPT
    assert page.row("night $1$")[1:5] == ["36", "30", "2", "4"]
    assert page.row("lengths")[-1] == "0.900"


def test_nothing_is_asked_for_from_outside_and_nothing_runs(page: Page) -> None:
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"script", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags} == set()
    links = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href", "xlink:href")]
    assert [link for link in links if not str(link).startswith(("#", "data:"))] == []


def test_hostile_texts_and_names_are_shown_as_they_are(page: Page, report: Path) -> None:
    assert "</pre><script>alert(1)</script><img src=https://example.com/x.png>" in page.text
    assert "{{ 7 * 7 }}" in page.text and "bad \ufffd\ufffd bytes" in page.text and "<50> needed" in page.text
    assert "night $1$" in page.text and "newest: <night 2>" in page.text
    assert "␀␛[31m" in page.text
    assert re.search(r"[\x00-\x08\x0b-\x1f]", report.read_text(encoding="utf-8")) is None


def test_what_a_files_name_hides_is_spelled_out(tmp_path: Path) -> None:
    batch, document = Profile("0"), replace(clean_document(1, "text"), source="gpj\u202e\x1b\n.exe")
    batch.add(document)
    path = data_report(publish(tmp_path / "clean", [batch], [document]), [], tmp_path / "report.html")
    content = path.read_text(encoding="utf-8")
    assert r"<code>gpj\u202e\x1b\n.exe, bytes 0 to 8</code>" in content
    assert "1 document that was kept" in content and "dropped</h2>" not in content
    assert path.stat().st_mode & 0o777 == 0o600


def test_batch_names_in_plots_are_no_formulas(page: Page) -> None:
    assert "night $1$" in page.text.split("Records by outcome")[1].split("Length:")[0]


def test_plots_take_their_colours_from_the_page(report: Path) -> None:
    plots = re.findall(r"<svg.*?</svg>", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(plots) == 5
    for plot in plots:
        assert "var(--s0)" in plot and "var(--soft)" in plot
        assert re.findall(r"#0[0-9a-f]{5}\b", plot) == []


def test_twenty_documents_and_the_dropped_records_are_shown_and_long_ones_cut(page: Page) -> None:
    assert page.count("article") == 20 + 10
    assert "20 documents that were kept" in page.text and "10 records that were dropped" in page.text
    samples = page.samples[::2]
    cut = [sample for sample in samples if "in all" in sample]
    assert len(cut) > 3 and all(500 < len(sample) < 530 for sample in cut)
    assert [sample for sample in samples if sample.startswith("large record")][0].endswith(" … 12.4 MiB in all")
    assert samples.count(SECRET) == 7
    assert " … no original bytes in the quarantine" in samples


def test_the_report_with_dropped_records_is_its_owners_alone(report: Path, page: Page) -> None:
    assert report.stat().st_mode & 0o777 == 0o600
    assert SECRET in page.text and "Private: these are original records from the quarantine" in page.text


def test_a_report_without_a_quarantine_holds_no_dropped_record(cleaned: Artifact, tmp_path: Path) -> None:
    path = data_report(cleaned, None, tmp_path / "report.html")
    shown = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_mode & 0o444 == 0o444
    assert SECRET not in shown.text and "Private" not in shown.text and "tokens" not in shown.text
    assert shown.count("article") == 20


def test_a_public_report_is_made_private_when_it_is_written_anew(
    cleaned: Artifact, quarantine: list[Path], tmp_path: Path
) -> None:
    path = data_report(cleaned, None, tmp_path / "report.html")
    (tmp_path / ".report.html.draft").write_text("what a killed run left, for everyone to read")
    data_report(cleaned, quarantine, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_equal_artifacts_give_equal_bytes(
    report: Path, cleaned: Artifact, quarantine: list[Path], tmp_path: Path
) -> None:
    again = data_report(cleaned, quarantine, tmp_path / "again.html", tokens=1_234_567)
    assert again.read_bytes() == report.read_bytes()


def test_one_batch_has_no_history(tmp_path: Path) -> None:
    batches, documents = two_nights()
    artifact = publish(tmp_path / "clean", batches[:1], documents[:30])
    shown = Page(data_report(artifact, None, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No drift to show: there is one batch only." in shown.text
    assert shown.count("svg") == 1 and "Records by outcome" not in shown.text


def test_a_year_of_batches_stays_readable(tmp_path: Path) -> None:
    document = clean_document(1, "some words of text")
    batches = [Profile(f"night {number}") for number in range(365)]
    for batch in batches:
        batch.add(document)
    artifact = publish(tmp_path / "clean", batches, [document])
    shown = Page(data_report(artifact, None, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "The newest 30; 335 earlier ones are in the totals." in shown.text
    nights = [row[0] for row in shown.rows if row and row[0].startswith("night ")]
    assert nights == [f"night {number}" for number in range(364, 334, -1)]


def test_nothing_kept_is_still_a_report(tmp_path: Path, quarantine: list[Path]) -> None:
    batch = Profile("night 1")
    batch.reject(Rejection("too_short", ""), 7)
    artifact = publish(tmp_path / "clean", [batch], [])
    shown = Page(data_report(artifact, quarantine, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert shown.row("kept")[1] == "0" and shown.row("too_short")[1] == "1" and shown.count("svg") == 0
    assert "0 documents kept, at least 1 expected" in shown.text
    assert [name for name in metrics(artifact) if name.startswith("data/bytes_")] == []


def test_a_night_without_documents_has_no_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Sequence[float]] = {}
    stack = data_plots._stack
    monkeypatch.setattr(data_plots, "_stack", lambda axes, series: drawn.update(series) or stack(axes, series))
    night, silent_night = Profile("0"), Profile("1")
    for number, language in enumerate(("de", "en", "es", "fr", "it", "pt", "zh")):
        night.add(replace(clean_document(number, "text"), language=language))
    silent_night.reject(Rejection("duplicate", ""), 7)
    data_report(publish(tmp_path / "clean", [night, silent_night], []), None, tmp_path / "report.html")
    assert drawn["others"] == [2 / 7, 0] and drawn["en"] == [1 / 7, 0]


def test_a_broken_contract_is_the_first_thing_to_see(tmp_path: Path) -> None:
    batches, documents = two_nights()
    artifact = publish(tmp_path / "clean", batches, documents, Clean(contract=Contract(max_rejected_share=0.1)))
    shown = Page(data_report(artifact, None, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert shown.text.index("The data contract is broken in 3 places") < shown.text.index("documents kept")
    assert shown.row("records rejected, duplicates aside")[-1] == "broken"
    assert "Nothing was replaced" not in shown.text and "Rule language is not in the recipe" in shown.text
    told = summary_markdown(artifact)
    assert "The data contract is broken in 3 place(s):\n- batch night $1$: records rejected" in told


def test_the_summary_is_a_table_that_adds_up(cleaned: Artifact) -> None:
    told = summary_markdown(cleaned)
    assert told.startswith("| data | |\n|---|---:|\n| documents kept | 60 |\n| records in | 72 |\n")
    assert "| kept | 60 (83.3%) |\n| contaminated | 4 (5.6%) |" in told
    assert told.rstrip().endswith("The data keep their contract.")


def test_metrics_are_plain_numbers(cleaned: Artifact) -> None:
    found = metrics(cleaned)
    assert all(type(value) is float for value in found.values())
    assert (found["data/records_in"], found["data/documents"], found["data/redactions"]) == (72, 60, 18)
    assert (found["data/rejected_share"], found["data/duplicate_share"]) == (8 / 72, 4 / 72)
    assert 0 < found["data/drift_lengths"] <= 1 and found["data/bytes_p5"] < found["data/bytes_p95"]
