"""The two buffers of a stream: when they are filled, copied and overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyfed import FixedPoint, Key, LagrangeCode, chunks, staging
from pyfed.streaming import encode_stream, upload_stream

KEY = Key(bytes(range(32)))
FIXED = FixedPoint(clients=3)


def joined(parts: Iterator[tuple[int, torch.Tensor]]) -> tuple[list[int], torch.Tensor]:
    """Where the parts begin, and all of them side by side."""
    pieces = [(first, part.clone()) for first, part in parts]
    return [first for first, _ in pieces], torch.cat([part for _, part in pieces], dim=-1)


def test_a_stream_asks_for_a_piece_only_when_it_needs_it_and_holds_two_chunks_at_most() -> None:
    taken: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            taken.append(len(taken))
            yield torch.zeros(50)

    stream = upload_stream(FIXED, endless(), KEY, [], [], chunk=100)
    for number in range(5):
        first, part = next(stream)
        assert (first, len(part)) == (100 * number, 100)
        assert len(taken) <= 2 * (number + 1)
    stream.close()


def test_the_buffer_of_a_stream_is_overwritten_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[chunks.Regrouped] = []
    original = chunks.Regrouped.__init__

    def watched(self: chunks.Regrouped, *args: Any) -> None:
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(chunks.Regrouped, "__init__", watched)
    stream = upload_stream(FIXED, [torch.ones(30)] * 5, KEY, [], [], chunk=40)
    next(stream)
    buffer = made[0]._buffer
    assert buffer is not None
    assert buffer.any()
    stream.close()
    assert not buffer.any()


class FakeStream:
    """Runs what is put on it only when somebody waits for it, as a GPU may."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append(f"{self.name} waits for {event.name}")


class FakeEvent:
    """Counts its records, and tells what waits for which."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def record(self, stream: FakeStream) -> None:
        self.log.append(f"{stream.name} records {self.name}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


def test_copies_and_work_take_turns_in_both_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    work, names = FakeStream(log, "work"), iter(("copied0", "copied1", "free0", "free1"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(log, "copies"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: FakeEvent(log, next(names)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(staging, "pinned", lambda count, dtype: torch.zeros(count, dtype=dtype))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, device=None, **k: empty(*a, **k))
    given = [torch.full((4,), float(i)) for i in range(4)] + [torch.full((3,), 4.0)]
    got = []
    for part in staging.staged(iter(given), torch.device("cuda:0")):
        got.append(part.clone())
        log.append(f"work on {int(part[0])}")
    assert [t.tolist() for t in got] == [t.tolist() for t in given]
    for number in range(5):
        slot = number % 2
        seen = log.index(f"work on {number}")
        assert f"work waits for copied{slot}" in log[:seen]
        if number >= 2:  # before its copy, the slot's work of two chunks ago is waited for
            done = log.index(f"work on {number - 2}")
            between = log[done:seen]
            order = [
                f"work records free{slot}",
                f"host waits for copied{slot}",
                f"copies waits for free{slot}",
                f"copies records copied{slot}",
                f"work waits for copied{slot}",
            ]
            places = [between.index(entry) for entry in order]
            assert places == sorted(places)
            # ... and it begins before the work on the chunk in the other slot.
            assert done + places[3] < log.index(f"work on {number - 1}")


@pytest.mark.gpu
def test_a_stream_to_a_gpu_gives_the_same_bits() -> None:
    code, fixed = LagrangeCode(6, 3, 2), FixedPoint(clip=1.0, bits=16, clients=3)
    values = torch.randn(1_000_003)
    for size in (1000, 300_000):
        how: dict[str, Any] = {"fixed": fixed, "chunk": size}
        here = joined(encode_stream(code, values, KEY, **how))[1]
        there = joined(encode_stream(code, values, KEY, device="cuda", **how))[1]
        assert torch.equal(there.cpu(), here)
