"""API keys: who may ask the model server, and how much. Only salted hashes of them are kept, in one file.

A key is ``tm_ID_SECRET``. The id is public and says where to look; the secret has 256 random bits, so that one SHA-256
of it is enough: a slow hash (scrypt, Argon2) makes guessing a person's password dear, but nobody guesses 256 bits, and
it would cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

logger = logging.getLogger(__name__)

KEYS_FORMAT = 1
PRIVATE = 0o600
KEY = re.compile(r"tm_([0-9a-f]{12})_([0-9a-f]{64})")
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
DURATION = re.compile(r"([0-9]{1,5})([hdw])")
HOURS = {"h": 1, "d": 24, "w": 24 * 7}


class KeyFileError(ValueError):
    """A key file or key that cannot be used; the message names it and says what to do."""


class Limits(BaseModel):
    """What a key may use; what is not set is not limited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Of prompts and answers together."""
    tokens_per_day: int | None = Field(default=None, ge=1)
    """From midnight to midnight in UTC."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer of a request."""
    max_n: int | None = Field(default=None, ge=1)
    """Most answers of a request to one prompt."""
    models: tuple[str, ...] | None = None
    """Names of the lines that may be asked; None for all."""


class ApiKey(BaseModel):
    """A key as it is kept: without its secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=100)
    """Who or what uses it, for people."""
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of salt and secret."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: bool = False
    admin: bool = False
    """Whether it may also ask what concerns all callers, as /metrics tells it."""
    limits: Limits = Limits()

    def state(self, now: datetime) -> Literal["valid", "revoked", "expired"]:
        """Whether it opens anything now."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "valid"


class Fingerprint(NamedTuple):
    """Tells a file from what stood in its place before."""

    device: int
    inode: int
    modified_ns: int
    num_bytes: int


# What an unknown id is compared with, so that it takes as long as a known one. Nothing hashes to it.
NOBODY = ApiKey(id="0" * 12, name="nobody", salt="0" * 32, sha256="0" * 64, created=datetime.fromtimestamp(0, UTC))


class Keys:
    """The keys of a file at this moment: read again as soon as the file changed.

    A file that is gone or broken lets nobody in until it is mended, since nobody knows whom it would have revoked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Fingerprint | None = None
        self._keys: Mapping[str, ApiKey] = MappingProxyType({})
        self._problem: KeyFileError | None = None
        self.current()

    def current(self) -> Mapping[str, ApiKey]:
        """The keys by id; raises KeyFileError while the file cannot be used."""
        seen = _fingerprint(self._path)
        if seen != self._seen or (seen is None and self._problem is None):
            self._seen = seen
            self._load()
        if self._problem is not None:
            raise self._problem
        return self._keys

    def find(self, key: str) -> ApiKey | None:
        """The record of a key that is right, in whatever state; None for any other text, after the same work."""
        parts = KEY.fullmatch(key)
        key_id, secret = parts.groups() if parts else ("", "0" * 64)
        record = self.current().get(key_id, NOBODY)
        is_right = hmac.compare_digest(_hash(record.salt, secret), record.sha256)
        return record if is_right else None

    def _load(self) -> None:
        try:
            self._keys, self._problem = MappingProxyType(read_keys(self._path)), None
            logger.info("%s: %d API keys", self._path, len(self._keys))
        except KeyFileError as problem:
            self._keys, self._problem = MappingProxyType({}), problem
            logger.error("%s; nobody is let in", problem)


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by id; raises KeyFileError where it is missing, broken, or writable for others."""
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & OTHERS_WRITE:
                raise KeyFileError(f"{path}: others may write it, and so make keys; chmod 600 {path}")
            values = json.load(file)
    except OSError as problem:
        raise KeyFileError(f"{path}: no key file ({problem.strerror}); tidemill keys create NAME makes one") from None
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, KeyFileError):
            raise
        raise KeyFileError(f"{path}: is no JSON ({problem}); restore it from a backup") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != KEYS_FORMAT:
        raise KeyFileError(f"{path}: format {version!r}, this version reads {KEYS_FORMAT}; make a new file")
    return _parsed(path, values)


def create_key(
    path: Path, name: str, *, limits: Limits | None = None, expires: datetime | None = None, admin: bool = False
) -> tuple[ApiKey, str]:
    """Add a key to the file, which is made where there is none; give its record, and the key itself this once."""
    key_id, secret, salt = secrets.token_hex(6), secrets.token_hex(32), secrets.token_hex(16)
    now = datetime.now(UTC).replace(microsecond=0)
    with _changing(path) as keys:
        taken = next((each for each in keys.values() if each.name == name and each.state(now) == "valid"), None)
        if taken is not None:
            raise KeyFileError(f"{name}: is the name of key {taken.id}; revoke that one or choose another name")
        hashed = _hash(salt, secret)
        record = ApiKey(
            id=key_id,
            name=name,
            salt=salt,
            sha256=hashed,
            created=now,
            expires=expires,
            admin=admin,
            limits=limits or Limits(),
        )
        keys[key_id] = record
    return record, f"tm_{key_id}_{secret}"


def revoke_key(path: Path, name_or_id: str) -> ApiKey:
    """Revoke a key for good; a running server knows at its next request. Raises KeyFileError for an unknown one."""
    now = datetime.now(UTC)
    with _changing(path) as keys:
        live = [each for each in keys.values() if each.state(now) == "valid"]
        found = keys.get(name_or_id) or next((each for each in live if each.name == name_or_id), None)
        if found is None:
            names = ", ".join(sorted(each.name for each in live)) or "none"
            raise KeyFileError(f"{name_or_id}: no such key in {path}; valid ones are {names}")
        keys[found.id] = found.model_copy(update={"revoked": True})
    return keys[found.id]


def expiry(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """When a key ends: a duration (12h, 90d, 4w) from now, or a date, whose beginning in UTC is meant."""
    if duration := DURATION.fullmatch(text):
        return now().replace(microsecond=0) + timedelta(hours=int(duration[1]) * HOURS[duration[2]])
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise KeyFileError(f"--expires {text}: write a duration as in 90d, or a date as in 2027-01-31") from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when <= now():
        raise KeyFileError(f"--expires {text}: is over already; name a later time")
    return when


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys to change, which are written whole in the end; one process at a time."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), mode=PRIVATE):
        keys = read_keys(path) if path.exists() else {}
        yield keys
        plain = {"format": KEYS_FORMAT, "keys": [each.model_dump(mode="json") for each in keys.values()]}
        _write_private(path, json.dumps(plain, indent=1) + "\n")


def _write_private(path: Path, text: str) -> None:
    # mkstemp gives 0600 from the first moment.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _parsed(path: Path, values: dict[str, Any]) -> dict[str, ApiKey]:
    records = values.get("keys")
    if not isinstance(records, list):
        raise KeyFileError(f"{path}: keys is no list; restore it from a backup")
    keys = {}
    for number, record in enumerate(records):
        try:
            key = ApiKey.model_validate(record)
        except ValidationError as problem:
            first = problem.errors(include_input=False)[0]
            where = ".".join(map(str, ("keys", number, *first["loc"])))
            raise KeyFileError(f"{path}: {where}: {first['msg']}; correct it") from None
        if key.id in keys:
            raise KeyFileError(f"{path}: keys.{number}.id: {key.id} is there twice; take one out")
        keys[key.id] = key
    return keys


def _fingerprint(path: Path) -> Fingerprint | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Fingerprint(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}{secret}".encode()).hexdigest()
