"""Rates and quotas of API keys: requests and tokens by the minute, tokens by the day."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from llm_core.serving.keys import ApiKey
from llm_core.serving.usage import Usage

MINUTE, DAY = 60.0, 86_400.0
What = Literal["requests", "tokens", "tokens of the day"]


class Level(NamedTuple):
    """What is left of a limit."""

    what: What
    limit: int
    left: float


class Limited(Exception):  # noqa: N818 - nothing failed
    """A request too many."""

    def __init__(self, what: What, limit: int, wait_seconds: float, headers: dict[str, str]) -> None:
        super().__init__(what)
        self.what, self.limit, self.wait_seconds, self.headers = what, limit, wait_seconds, headers


class Bucket:
    """A token bucket: holds one minute's worth, fills steadily, and may be in debt for what was not known before."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._left, self._filled_at = float(per_minute), now

    def fill(self, per_minute: int, now: float) -> float:
        """What is left now; the rate may have changed since the last time."""
        seconds = max(now - self._filled_at, 0.0)  # clocks are set back at times
        self._left = min(self._left + seconds * per_minute / MINUTE, float(per_minute))
        self._filled_at = now
        return self._left

    def take(self, amount: float) -> None:
        """Take out what was used."""
        self._left -= amount


class Limiter:
    """Counts what keys use. An answer that was begun is finished: what it used too much is waited for afterwards."""

    def __init__(self, usage: Usage | None = None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.usage = usage or Usage(clock=clock)
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, What], Bucket] = {}

    def admit(self, key: ApiKey) -> dict[str, str]:
        """Count a request and tell in OpenAI's headers what is left; raises Limited for a request too many."""
        now = self._clock()
        with self._lock:
            levels = self._levels(key, now)
            over = next((level for level in levels if level.left < 1), None)
            if over is None:
                self._take(key, "requests", 1)
                levels = [level._replace(left=level.left - (level.what == "requests")) for level in levels]
        headers = _headers(levels)
        if over is not None:
            raise Limited(over.what, over.limit, _wait(over, now), headers)
        return headers

    def charge(self, key: ApiKey, tokens: int) -> None:
        """Count tokens that were used. Any thread may call it."""
        with self._lock:
            self._take(key, "tokens", tokens)
        self.usage.add(key.id, tokens)

    def keep_only(self, key_ids: Collection[str]) -> None:
        """Forget the rates of all other keys, so that memory follows the key file."""
        with self._lock:
            self._buckets = {place: bucket for place, bucket in self._buckets.items() if place[0] in key_ids}

    def _levels(self, key: ApiKey, now: float) -> list[Level]:
        """What is left of each limit that the key has, the quota first: it takes longest to come back."""
        levels = []
        if (quota := key.limits.tokens_per_day) is not None:
            levels.append(Level("tokens of the day", quota, quota - self.usage.today(key.id)))
        rates: Sequence[tuple[What, int | None]]
        rates = (("requests", key.limits.requests_per_minute), ("tokens", key.limits.tokens_per_minute))
        for what, rate in rates:
            if rate is not None:
                bucket = self._buckets.setdefault((key.id, what), Bucket(rate, now))
                levels.append(Level(what, rate, bucket.fill(rate, now)))
        return levels

    def _take(self, key: ApiKey, what: What, amount: int) -> None:
        if bucket := self._buckets.get((key.id, what)):
            bucket.take(amount)


def duration(seconds: float) -> str:
    """As OpenAI writes durations: 6m0s, 2s, 120ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _wait(over: Level, now: float) -> float:
    if over.what == "tokens of the day":
        return DAY - now % DAY
    return (1 - over.left) * MINUTE / over.limit


def _headers(levels: Sequence[Level]) -> dict[str, str]:
    headers = {}
    for what, limit, left in levels:
        if what != "tokens of the day":  # OpenAI has no name for it
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(math.floor(left), 0))
            headers[f"x-ratelimit-reset-{what}"] = duration((limit - left) * MINUTE / limit)
    return headers
