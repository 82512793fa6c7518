from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llm_core.generate import ContextExceeded, Sampling
from llm_core.serving.answers import Answers
from llm_core.serving.engine import Busy, Draining, Engine
from llm_core.serving.hosting import Host
from llm_core.serving.jobs import Event, Failure, Finish, Job, Piece
from llm_core.serving.loaded import LoadedModel

Script = Callable[..., LoadedModel]


def job(model: LoadedModel, **values: Any) -> Job:
    defaults: dict[str, Any] = {
        "ids": model.encode_prompt("The"),
        "max_tokens": 8,
        "sampling": Sampling(temperature=0.0),
        "stop_ids": frozenset({model.tokenizer.end_id}),
    }
    return Job(model, **{**defaults, **values})


def run(engine: Engine, *jobs: Job) -> list[list[Event]]:
    """All events of the jobs, by job."""

    async def collect() -> list[list[Event]]:
        found: list[list[Event]] = [[] for _ in jobs]
        async for number, event in Answers(engine, jobs).events():
            found[number].append(event)
        return found

    return asyncio.run(asyncio.wait_for(collect(), 30))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def test_an_answer_is_its_text_and_why_it_ended(engine: Engine, script: Script) -> None:
    (events,) = run(engine, job(script("state of the union", ends=True), max_tokens=50))
    assert text_of(events) == "state of the union"
    assert isinstance(events[-1], Finish) and events[-1].reason == "stop"


def test_an_answer_cut_at_max_tokens_says_length_and_counts(engine: Engine, script: Script) -> None:
    (events,) = run(engine, job(script("The"), max_tokens=5))
    assert events[-1] == Finish("length", 5)


def test_characters_of_several_tokens_come_whole(engine: Engine, script: Script) -> None:
    text = "Zoë 😀 统一码"
    (events,) = run(engine, job(script(text, ends=True), max_tokens=60))
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    tokens = [token.id for event in events if isinstance(event, Piece) for token in event.tokens]
    assert len(tokens) == events[-1].num_tokens > len(pieces)  # type: ignore[union-attr]


def test_a_stop_string_ends_the_answer_before_it(engine: Engine, script: Script) -> None:
    (events,) = run(engine, job(script("one two three", ends=True), max_tokens=60, stop=("two",)))
    assert text_of(events) == "one "
    assert isinstance(events[-1], Finish) and events[-1].reason == "stop"


def test_answers_take_turns_token_by_token(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(0)
    slow = script("a", gate=gate)
    order: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(3):
        engine.submit(job(slow, max_tokens=4), lambda event, number=number: order.put(number))
    gate.release(12)
    seen = [order.get(timeout=10) for _ in range(12)]
    # The first turn may begin before all three are there.
    assert all(sorted(seen[start : start + 3]) == [0, 1, 2] for start in (3, 6))


def test_a_cancelled_answer_stops_before_its_next_token(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(0)
    slow = script("a", gate=gate)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    answer = engine.submit(job(slow, max_tokens=60), events.put)
    gate.release(2)
    assert [type(events.get(timeout=10)) for _ in range(2)] == [Piece, Piece]
    engine.cancel(answer)
    gate.release(100)
    wait_until(lambda: engine.num_open == 0)
    assert slow.network.num_calls <= 3  # type: ignore[operator]


def test_leaving_the_stream_cancels_every_answer(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(3)
    slow = script("a", gate=gate)

    async def leave_after_first() -> None:
        answers = Answers(engine, [job(slow, max_tokens=None) for _ in range(3)])
        events = answers.events()
        await anext(events)
        await events.aclose()

    asyncio.run(leave_after_first())
    gate.release(300)
    wait_until(lambda: engine.num_open == 0)
    assert slow.network.num_calls <= 6  # type: ignore[operator]


def test_one_failing_answer_does_not_end_the_others(engine: Engine, model: LoadedModel, script: Script) -> None:
    broken = script("a")
    broken.network.forward = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    failed, fine = run(engine, job(broken), job(model))
    assert failed == [Failure("the answer could not be finished (ZeroDivisionError: division by zero)")]
    assert fine[-1] == Finish("length", 8)


def test_a_new_model_serves_new_answers_while_old_ones_finish(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(0)
    old, new = script("old", gate=gate), script("new", version="2")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    host = Host(["tiny"])
    host.first.install(old)
    engine.submit(job(old, max_tokens=3), events.put)
    host.first.install(new)
    assert host.first.champion is new and host.first.previous is old
    gate.release(3)
    found = [events.get(timeout=10)]
    while not isinstance(found[-1], Finish):
        found.append(events.get(timeout=10))
    assert text_of(found) and "oldoldold".startswith(text_of(found))


def test_a_full_queue_refuses_and_forgets_the_refused(script: Script) -> None:
    gate = threading.Semaphore(0)
    with Engine(max_open=3) as engine:
        slow = script("a", gate=gate, max_running=1)
        engine.submit(job(slow), lambda event: None)
        many = [job(slow) for _ in range(3)]
        with pytest.raises(Busy, match="3 answers are being written or wait"):
            run(engine, *many)
        gate.release(100)
        wait_until(lambda: engine.num_open == 0)
        assert slow.network.num_calls == 8  # type: ignore[operator]


def test_draining_refuses_new_answers_and_finishes_running_ones(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(0)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    slow = script("a", gate=gate)
    engine.submit(job(slow, max_tokens=2), events.put)
    engine.drain()
    with pytest.raises(Draining, match="shutting down"):
        engine.submit(job(slow), events.put)
    gate.release(2)
    assert [type(events.get(timeout=10)) for _ in range(3)] == [Piece, Piece, Finish]


def test_closing_tells_every_open_answer(script: Script) -> None:
    gate = threading.Semaphore(0)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    slow = script("a", gate=gate, max_running=1)
    with Engine() as engine:
        for _ in range(2):
            engine.submit(job(slow), events.put)
        threading.Timer(0.1, gate.release, [100]).start()
    found = [events.get(timeout=10)]
    while sum(isinstance(event, Failure) for event in found) < 2:
        found.append(events.get(timeout=10))
    assert all(event.kind == "shutdown" for event in found if isinstance(event, Failure))


def test_a_prompt_beyond_the_context_is_refused_at_once(engine: Engine, model: LoadedModel) -> None:
    with pytest.raises(ContextExceeded, match="context is 96 tokens"):
        engine.submit(job(model, ids=(1,) * 96), lambda event: None)


def wait_until(is_true: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(500):
        if is_true():
            return
        tick.wait(0.01)
    raise AssertionError("still not so after 5 seconds")


def test_spare_time_work_takes_nobodys_place_and_leaves_when_somebody_asks(script: Any) -> None:
    gate = threading.Semaphore(1)
    spare, real = script("a", gate=gate, version="2"), script("b", ends=True)
    with Engine(max_open=1) as engine:
        left = engine.submit(job(spare, max_tokens=50), lambda event: None, in_spare_time=True)
        assert engine.num_open == 0
        ended = threading.Event()
        engine.submit(job(real), lambda event: ended.set() if isinstance(event, Finish) else None)
        assert left.is_cancelled
        gate.release(5)
        assert ended.wait(10)
        for _ in range(500):
            if spare.runner.num_running == 0 and engine.num_open == 0:
                break
            threading.Event().wait(0.01)
        assert (spare.runner.num_running, engine.num_open) == (0, 0)
        gate.release(100)


def test_a_models_clock_stands_still_while_another_one_works(engine: Engine, script: Script) -> None:
    gate = threading.Semaphore(0)
    slow, quick = script("slow", gate=gate, version="2"), script("quick", version="3")
    answers = [engine.submit(job(model, max_tokens=4), lambda event: None) for model in (slow, quick)]
    for _ in range(4):
        threading.Event().wait(0.05)
        gate.release()
    for _ in range(500):
        if all(answer.times.ended for answer in answers):
            break
        threading.Event().wait(0.01)
    worked = [answer.times.worked_ended - answer.times.worked_before for answer in answers]
    assert worked[0] > 0.15 > 0.1 > worked[1]
    assert all(answer.times.ended - answer.times.asked > 0.15 for answer in answers)
