"""The keys of a stream: alive until its last chunk, and copied nowhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyfed
from pyfed import SOLINAS31, FixedPoint, Key
from pyfed.errors import ArgumentError
from pyfed.streaming import decode_stream, encode_stream, upload_stream
from test_streaming import CODE, FIXED, KEY, MINE, joined


@pytest.mark.parametrize("which", ["encode", "round", "mask"])
def test_a_key_that_is_wiped_during_a_stream_makes_no_chunk(which: str) -> None:
    """Its words would be 0, and known to all; one that was 0 from the beginning may serve."""
    for raw in (bytes(range(32)), bytes(32)):
        key, values = Key(raw), torch.zeros(30)
        if which == "encode":
            stream = encode_stream(CODE, values.int(), key, chunk=10)
        else:
            own, masks = (key, [MINE]) if which == "round" else (None, [MINE, key])
            stream = upload_stream(FIXED, values, own, masks, [1] * len(masks), chunk=10)
        next(stream)
        key.wipe()
        if any(raw):
            with pytest.raises(ArgumentError, match="stream: a key was wiped before the last"):
                next(stream)
        else:
            assert len(list(stream)) == 2


def test_a_stream_leaves_no_copy_of_its_masks_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []
    stack = torch.stack

    def recorded(tensors: Any, *rest: Any, **how: Any) -> torch.Tensor:
        made.append(stack(tensors, *rest, **how))
        return made[-1]

    monkeypatch.setattr(torch, "stack", recorded)
    keys, signs = [KEY, MINE], [1, -1]
    stream = upload_stream(FIXED, torch.zeros(30), None, keys, signs, chunk=10)
    keys.clear()  # what was given is what counts
    signs.clear()
    got = joined(stream)[1]
    assert len(made) == 3
    assert not any(words.any() for words in made)
    assert torch.equal(
        got, pyfed.ops.add_masks_(torch.zeros(30).int(), [KEY, MINE], [1, -1], SOLINAS31)
    )


@pytest.mark.parametrize("end", ["exhausted", "closed", "raised"])
def test_a_fresh_key_is_wiped_however_a_stream_ends(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Key] = []
    monkeypatch.setattr(Key, "generate", lambda: made.append(Key(bytes(range(32)))) or made[-1])
    source = torch.zeros(30, dtype=torch.int32)
    source[25] = -(end == "raised")
    stream = encode_stream(CODE, source, chunk=10)
    next(stream)
    assert len(made) == 1
    assert made[0] == KEY
    if end == "raised":
        with pytest.raises(ArgumentError, match="element 25"):
            list(stream)
    elif end == "closed":
        stream.close()
    else:
        list(stream)
    assert made[0].reveal() == bytes(32)


def test_decoded_residues_are_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    decode = FixedPoint.decode

    def watched(self: FixedPoint, residues: torch.Tensor, weight: int = 1) -> torch.Tensor:
        seen.append(residues)
        assert residues.all()
        return decode(self, residues, weight)

    monkeypatch.setattr(FixedPoint, "decode", watched)
    shares = CODE.encode(torch.full((30,), 9, dtype=torch.int32), KEY)
    floats = joined(decode_stream(CODE, shares, range(3), 30, fixed=FIXED, chunk=10))[1]
    assert torch.equal(floats, torch.full((30,), 9 / FIXED.scale))
    assert len(seen) == 3
    assert not any(residues.any() for residues in seen)
