from __future__ import annotations

import sqlite3
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llm_core.serving.keys import ApiKey, Limits
from llm_core.serving.limits import DAY, Limited, Limiter, duration
from llm_core.serving.usage import Usage

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key_with(key_id: str = "0123456789ab", **limits: int) -> ApiKey:
    created = datetime.fromtimestamp(NOON, UTC)
    return ApiKey(id=key_id, name="ci", salt="0" * 32, sha256="1" * 64, created=created, limits=Limits(**limits))


def refused(limiter: Limiter, key: ApiKey) -> Limited:
    with pytest.raises(Limited) as caught:
        limiter.admit(key)
    return caught.value


def test_requests_are_let_in_at_their_rate(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(requests_per_minute=6)
    left = [limiter.admit(key)["x-ratelimit-remaining-requests"] for _ in range(6)]
    assert left == ["5", "4", "3", "2", "1", "0"]
    late = refused(limiter, key)
    assert (late.what, late.limit, late.wait_seconds) == ("requests", 6, 10)
    assert late.headers["x-ratelimit-reset-requests"] == "1m0s"
    clock.now += 9.9
    refused(limiter, key)
    clock.now += 0.2
    limiter.admit(key)
    refused(limiter, key)


def test_tokens_that_were_not_known_before_are_waited_for(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(tokens_per_minute=600)
    assert limiter.admit(key)["x-ratelimit-remaining-tokens"] == "600"
    limiter.charge(key, 700)
    late = refused(limiter, key)
    assert late.what == "tokens" and late.wait_seconds == pytest.approx(10.1)
    assert late.headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now += 10.2
    limiter.admit(key)


def test_a_refused_request_uses_nothing_up(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(requests_per_minute=2, tokens_per_minute=60)
    limiter.admit(key)
    limiter.charge(key, 120)
    for _ in range(5):
        assert refused(limiter, key).what == "tokens"
    clock.now += 61
    assert limiter.admit(key)["x-ratelimit-remaining-requests"] == "1"


def test_a_days_quota_ends_at_midnight(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(tokens_per_day=100)
    limiter.admit(key)
    limiter.charge(key, 100)
    late = refused(limiter, key)
    assert (late.what, late.limit, late.wait_seconds) == ("tokens of the day", 100, DAY / 2)
    clock.now += DAY / 2
    limiter.admit(key)


def test_keys_have_limits_of_their_own_and_none_without_any(clock: Clock) -> None:
    limiter, one = Limiter(clock=clock), key_with(requests_per_minute=1)
    other, free = key_with("ba9876543210", requests_per_minute=1), key_with("f" * 12)
    limiter.admit(one)
    limiter.admit(other)
    refused(limiter, one)
    assert [limiter.admit(free) for _ in range(100)] == [{}] * 100


def test_a_changed_limit_counts_at_once(clock: Clock) -> None:
    limiter = Limiter(clock=clock)
    limiter.admit(key_with(requests_per_minute=100))
    assert limiter.admit(key_with(requests_per_minute=2))["x-ratelimit-remaining-requests"] == "1"


def test_a_clock_that_is_set_back_gives_and_takes_nothing(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(requests_per_minute=2)
    limiter.admit(key)
    clock.now -= 3600
    limiter.admit(key)
    refused(limiter, key)


def test_memory_follows_the_key_file(clock: Clock) -> None:
    limiter = Limiter(clock=clock)
    keys = [key_with(f"{number:012x}", requests_per_minute=1) for number in range(50)]
    for key in keys:
        limiter.admit(key)
    limiter.keep_only({keys[0].id})
    refused(limiter, keys[0])
    assert len(limiter._buckets) == 1


def test_charges_from_many_threads_add_up(clock: Clock) -> None:
    limiter, key = Limiter(clock=clock), key_with(tokens_per_day=10_000_000)
    threads = [threading.Thread(target=lambda: [limiter.charge(key, 1) for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limiter.usage.today(key.id) == 16_000


def test_what_was_used_today_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    path, key = tmp_path / "usage.db", key_with(tokens_per_day=100)
    before = Usage(path, clock)
    Limiter(before, clock).charge(key, 100)
    before.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert refused(Limiter(Usage(path, clock), clock), key).what == "tokens of the day"
    clock.now += DAY
    Limiter(Usage(path, clock), clock).admit(key)


def test_servers_that_share_the_file_share_the_quota(tmp_path: Path, clock: Clock) -> None:
    first, second = (Usage(tmp_path / "usage.db", clock) for _ in range(2))
    first.add("a", 5)
    second.add("a", 7)
    first.flush()
    second.flush()
    assert second.today("a") == 12
    first.add("a", 1)
    first.close()
    second.close()
    assert first.today("a") == 13 and Usage(tmp_path / "usage.db", clock).today("a") == 13


def test_what_is_used_is_on_disk_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_core.serving.usage.FLUSH_SECONDS", 0.05)
    usage, path = Usage(tmp_path / "usage.db"), tmp_path / "usage.db"
    usage.add("a", 5)
    for _ in range(200):
        if Usage(path).today("a") == 5:
            break
        threading.Event().wait(0.02)
    assert Usage(path).today("a") == 5
    usage.close()


def test_old_days_are_forgotten(tmp_path: Path, clock: Clock) -> None:
    usage = Usage(tmp_path / "usage.db", clock)
    for _ in range(3):
        usage.add("a", 1)
        usage.close()
        clock.now += 60 * DAY
    with sqlite3.connect(tmp_path / "usage.db") as connection:
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (2,)


def test_without_a_writable_place_counting_goes_on_in_memory(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    usage = Usage(tmp_path / "missing" / "usage.db", clock)
    for _ in range(2):
        usage.add("a", 5)
        usage.close()
    assert usage.today("a") == 10
    assert caplog.text.count("usage is counted in memory only") == 1
    clock.now += DAY
    assert usage.today("a") == 0 and not usage._pending


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s")])
def test_durations_are_written_as_at_openai(seconds: float, text: str) -> None:
    assert duration(seconds) == text
