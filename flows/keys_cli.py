"""`tidemill keys`: API keys of the model server. Mounted by flows/cli.py."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json, workspace

if TYPE_CHECKING:
    from llm_core.serving.keys import ApiKey

keys_app = typer.Typer(help="API keys of the model server.", no_args_is_help=True)

KeyFile = Annotated[
    Path | None, typer.Option("--file", help="The key file (default: keys/api.json in the workspace's home).")
]


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.", metavar="NAME")],
    rpm: Annotated[int | None, typer.Option(min=1, help="Most requests in a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Most tokens in a minute, prompts and answers.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Most tokens in a day (UTC).")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer of a request.")] = None,
    max_n: Annotated[int | None, typer.Option(min=1, help="Most answers of a request to one prompt.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A line that it may ask; may be repeated (default: all).", metavar="LINE")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, as in 12h, 90d or 4w, or until which date.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Let it also read /metrics.")] = False,
    file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once: only a hash of it is kept."""
    from flows import report
    from llm_core.serving.keys import Limits, create_key, expiry

    limits = Limits(
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        tokens_per_day=tokens_per_day,
        max_tokens=max_tokens,
        max_n=max_n,
        models=tuple(model) if model else None,
    )
    ends = expiry(expires) if expires else None
    record, key = create_key(_file(file), name, limits=limits, expires=ends, admin=admin)
    if as_json:
        report.print_facts({"key": key, **_facts(record)}, as_json)
        return
    print(key)
    print("keep it: it is not shown again", file=sys.stderr)


@keys_app.command("list")
def list_(file: KeyFile = None, as_json: Json = False) -> None:
    """List the keys with their states and limits."""
    from flows import report
    from llm_core.serving.keys import read_keys

    rows = [_facts(record) for record in read_keys(_file(file)).values()]
    report.print_rows("API keys", rows if as_json else [_row(facts) for facts in rows], as_json)


@keys_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.", metavar="NAME|ID")],
    file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a key for good; a running server refuses it from the next request on."""
    from flows import report
    from llm_core.serving.keys import revoke_key

    record = revoke_key(_file(file), name)
    if as_json:
        report.print_facts(_facts(record), as_json)
    else:
        print(f"{record.name} ({record.id}) is revoked")


def _file(given: Path | None) -> Path:
    return given or workspace().home / "keys" / "api.json"


def _facts(record: ApiKey) -> dict[str, Any]:
    """What may be known of a key: neither salt nor hash."""
    plain = record.model_dump(mode="json", exclude={"salt", "sha256", "revoked"})
    return {**plain, "state": record.state(datetime.now(UTC))}


def _row(facts: dict[str, Any]) -> dict[str, Any]:
    limits = {name: value for name, value in facts["limits"].items() if value is not None}
    told = ", ".join(f"{name} {'+'.join(v) if isinstance(v, list) else v}" for name, v in limits.items())
    dates = {name: (facts[name] or "never")[:10] for name in ("created", "expires")}
    return {"id": facts["id"], "name": facts["name"], "state": facts["state"], **dates, "limits": told or "none"}
