"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.doctor import Finding
from flows.supervisor import ServiceStatus

if TYPE_CHECKING:
    from tasks.clean_files import Cleaned

WIDTH_WITHOUT_TERMINAL = 150


def print_cleaned(cleaned: Cleaned, as_json: bool) -> None:
    """What became of the records, and where everything is."""
    places = {"output": str(cleaned.output), "quarantine": str(cleaned.quarantine), "report": str(cleaned.report)}
    if as_json:
        _print_json({**cleaned.accounts, **places})
        return
    counts = {"records in": cleaned.accounts["records_in"], "kept": cleaned.accounts["kept"]}
    rows = [(name, f"{count:,}") for name, count in (*counts.items(), *cleaned.accounts["rejected"].items())]
    console = _console()
    console.print(_table("Records", ("", "records"), rows))
    console.print(Text("\n".join(f"{name:<11} {place}" for name, place in places.items())), soft_wrap=True)


def print_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    """The end of a run: stages, version, scores, decision, served answer, and how to look further."""
    if as_json:
        _print_json(summary)
        return
    console = _console()
    rows = [
        (r["stage"], r["state"], f"{r['seconds']:.1f}", r["came_in"], r["went_out"], r["digest"][:12], r["because"])
        for r in summary["stages"]
    ]
    console.print(
        _table(f"Recipe {summary['recipe']}", ("stage", "state", "s", "in", "out", "digest", "because"), rows)
    )
    console.print(_score_table(summary["metrics"]))
    console.print(_paired_test(summary))
    if trial := summary.get("trial"):
        console.print(Panel(f"{trial['outcome']}: {trial['reason']}", title="tried in service", title_align="left"))
    for sample in summary["samples"]:
        console.print(
            Panel(Text(sample["prompt"], style="bold") + Text(sample["text"]), title="sample", title_align="left")
        )
    if summary["served"]:
        served = summary["served"]
        text = Text(served["prompt"], style="bold") + Text(served["answer"])
        title = f"answered over HTTP by {summary['line']}@{served['version']} in {served['seconds']} s"
        console.print(Panel(text, title=title, title_align="left"))
    console.print(
        f"version {summary['version']}, champion {summary['champion']}\n"
        "tidemill up      then Prefect is at http://127.0.0.1:4200, MLflow at http://127.0.0.1:5000,\n"
        "                 and the model server's playground at http://127.0.0.1:8000; tidemill down stops them\n"
        f"tidemill serve   only the model server;  tidemill lineage {summary['version']}   where this model came from"
    )


def print_plan(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """What a run would do."""
    print_rows("Dry run: nothing was written", rows, as_json)


def print_services(services: Sequence[ServiceStatus], as_json: bool) -> None:
    """The servers: state, address, process."""
    if as_json:
        _print_json([asdict(service) for service in services])
        return
    rows = [
        (
            s.name,
            s.state,
            s.url or "",
            str(s.pid or ""),
            _duration(s.uptime_seconds),
            _mebibytes(s.memory_bytes),
            str(s.restarts),
        )
        for s in services
    ]
    _console().print(_table("Services", ("service", "state", "address", "pid", "up for", "memory", "restarts"), rows))


def print_models(versions: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Registered versions."""
    plain = [
        {
            "name": version["line"],
            "version": version["number"],
            "aliases": version["aliases"],
            "run_id": version["run_id"],
            "artifact": version["tags"].get("tidemill.artifact"),
            "commit": version["tags"].get("git.commit"),
        }
        for version in versions
    ]
    print_rows("Models", plain, as_json)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A list of like things."""
    if as_json:
        _print_json(list(rows))
    elif rows:
        cells = [tuple(_cell(value) for value in row.values()) for row in rows]
        _console().print(_table(title, tuple(rows[0]), cells))
    else:
        print(f"{title}: none")


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """One thing's facts, a line each."""
    if as_json:
        _print_json(facts)
        return
    console = _console()
    for name, value in facts.items():
        if isinstance(value, list):
            console.print(f"[bold]{name}[/bold]: {len(value)}")
            for item in value[:20]:
                console.print(Text(f"  {_cell(item)}"))
            if len(value) > 20:
                console.print(f"  ... and {len(value) - 20} more (--json shows all)")
        else:
            console.print(Text(f"{name}: ", style="bold") + Text(_cell(value)))


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """What the doctor found."""
    if as_json:
        _print_json([asdict(finding) for finding in findings])
        return
    rows = [(finding.what, finding.state, finding.fact, finding.advice) for finding in findings]
    _console().print(_table("Doctor", ("what", "state", "found", "what to do"), rows))


def _score_table(metrics: Mapping[str, float]) -> Table:
    named = {
        "this model": metrics["bits_per_byte"],
        "xz primed with the training text": metrics["xz_primed_bits_per_byte"],
        "xz alone": metrics["xz_bits_per_byte"],
        "token 5-gram (Kneser-Ney)": metrics["ngram_bits_per_byte"],
        "token unigram": metrics["unigram_bits_per_byte"],
        "any token as likely": metrics["uniform_bits_per_byte"],
    }
    rows = [(name, f"{value:.4f}") for name, value in named.items()]
    rows.append(("this model's perplexity per token", f"{metrics['perplexity']:.1f}"))
    measured = f"{int(metrics['test_documents'])} held-out documents, {int(metrics['test_bytes']):,} bytes"
    return _table("Scores", (measured, "bits per byte"), rows)


def _paired_test(summary: Mapping[str, Any]) -> Panel | Text:
    decision = summary["decision"]
    if not decision:
        return Text("no decision: this version was made champion by hand")
    evidence = decision["evidence"]
    text = (
        f"{decision['outcome']}: {decision['reason']}\n"
        f"paired test over {evidence['documents']} documents, {evidence['resamples']:,} resamples: gain "
        f"{evidence['gain']:+.4f} bits per byte, interval {evidence['low']:+.4f} .. {evidence['high']:+.4f}"
    )
    if least := evidence.get("detectable_gain"):  # decisions of older versions have none
        text += f"\na true gain of {least:.4f} would have been found in 8 of 10 nights like this"
    return Panel(text, title="paired test", title_align="left")


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("s", "bits per byte") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _mebibytes(count: int | None) -> str:
    return f"{count / 2**20:.0f} MiB" if count else ""


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    print()
