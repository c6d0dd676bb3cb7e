"""Chunks on their way to a GPU: the next one is copied while this one is worked on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch


def staged(chunks: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """Chunks on a device; on the way to a GPU the next one is copied while this one is worked on.

    A chunk is good until the next one is asked for.

    Args:
        chunks: (…, elements), none longer than the first.
        device: where they are wanted.
    """
    if device.type != "cuda":
        for chunk in chunks:
            yield chunk.to(device)
        return
    chunks = iter(chunks)
    for chunk in chunks:
        if not chunk.is_cuda:  # and neither are the others
            chunks = itertools.chain([chunk], chunks)
            break
        yield chunk.to(device)
    line: Staging | None = None
    ahead: tuple[int, torch.Tensor] | None = None
    try:
        for chunk in chunks:
            if line is None:
                line = Staging(chunk, device)
            behind, ahead = ahead, line.send(chunk)
            if behind is not None:
                yield line.arrived(*behind)
                line.worked_on(behind[0])
        if line is not None and ahead is not None:
            yield line.arrived(*ahead)
    finally:
        if line is not None:
            line.wipe()


class Staging:
    """Two pinned buffers and two on a GPU that take turns, for chunks no longer than the first.

    Copies run on a stream of their own. One waits for the work that was submitted on what is in its
    buffer; that work waits for its copy.
    """

    def __init__(self, first: torch.Tensor, device: torch.device) -> None:
        count = first.numel()
        self._device = device
        self._pinned = [pinned(count, first.dtype) for _ in range(2)]
        self._there = [torch.empty(count, dtype=first.dtype, device=device) for _ in range(2)]
        self._copying = torch.cuda.Stream(device)
        # The buffers may be memory that work before them still uses.
        self._copying.wait_stream(torch.cuda.current_stream(device))
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._free = [torch.cuda.Event() for _ in range(2)]
        self._sent = 0

    def send(self, chunk: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Begin to copy a chunk; gives its slot, and where it will be."""
        slot, count = self._sent % 2, chunk.numel()
        self._sent += 1
        self._copied[slot].synchronize()  # the host waits until the pinned buffer has been read
        here = self._pinned[slot][:count].view(chunk.shape)
        here.copy_(chunk)
        there = self._there[slot][:count].view(chunk.shape)
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(self._free[slot])
            there.copy_(here, non_blocking=True)
            self._copied[slot].record(self._copying)
        return slot, there

    def arrived(self, slot: int, there: torch.Tensor) -> torch.Tensor:
        """The chunk, for work on the current stream."""
        torch.cuda.current_stream(self._device).wait_event(self._copied[slot])
        return there

    def worked_on(self, slot: int) -> None:
        """All work on what is in the slot has been submitted."""
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def wipe(self) -> None:
        """Overwrite what is left in the buffers, after the work on it."""
        torch.cuda.current_stream(self._device).wait_stream(self._copying)
        for event in self._copied:
            event.synchronize()
        for buffer in (*self._pinned, *self._there):
            buffer.zero_()


def pinned(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Host memory that a GPU can read by itself: (count,)."""
    return torch.empty(count, dtype=dtype, pin_memory=True)
