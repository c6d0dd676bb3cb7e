"""Dropout by counter: Philox's own answers, masks that depend on a place alone, and statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lora_oracles as oracles
from case import KEY
from contract import same_bits
from lora_cases import DTYPES, owners
from pyfed import Key, use_backend
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import counter_dropout
from pyfed.ops.dropout import philox_reference, threshold_of
from runs import Run, runs_of

DROPOUT_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("counter_dropout"))
# Random123, kat_vectors, philox4x32 with 10 rounds: counter, key, block.
KNOWN = (
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
)


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, block: str) -> None:
    """In the oracle, in Python integers and in NumPy; and in the reference."""
    wanted = hexes(block)
    assert list(oracles.philox(hexes(counter), hexes(key))) == wanted
    arrays = [np.array([word], dtype=np.uint64) for word in hexes(counter)]
    assert [int(word[0]) for word in oracles.philox(arrays, hexes(key))] == wanted
    tensors = [torch.tensor([word]) for word in hexes(counter)]
    made = philox_reference(
        (tensors[0], tensors[1], tensors[2], tensors[3]), torch.tensor(hexes(key))
    )
    assert [int(word) for word in made] == wanted


def ones(rows: int, features: int, run: Run) -> torch.Tensor:
    return torch.ones(rows, features, device=run.device)


@DROPOUT_RUNS
def test_a_word_equal_to_the_threshold_is_kept_and_one_below_it_dropped(op: str, run: Run) -> None:
    words = oracles.philox([0, 0, 0, 0], [word & 0xFFFFFFFF for word in KEY.words()[:2].tolist()])
    for place, word in enumerate(map(int, words)):
        with run.active():
            for above in (0, 1):  # both rates are exact in float64
                dropped = counter_dropout(ones(1, 4, run), (word + above) / 2**32, KEY)
                assert bool(dropped[0, place] == 0) == bool(above)


def test_the_threshold_is_the_nearest_word() -> None:
    assert threshold_of(0.3) == 1288490189  # 0.3 · 2^32 is 1288490188.8
    assert threshold_of(1 - 2.0**-40) == 2**32 - 1


@DROPOUT_RUNS
def test_every_element_is_decided_by_its_own_word(op: str, run: Run) -> None:
    """Counter: block low and high, stream low and high; one word after the other, in integers."""
    secret, rows, features = bytes(range(100, 132)), 5, 7
    key = [int.from_bytes(secret[i : i + 4], "little") for i in (0, 4)]
    for stream in (0, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 5 + 7 * 2**32):
        with run.active():
            streams = torch.tensor([stream], device=run.device)
            got = counter_dropout(ones(rows, features, run), 0.5, Key(secret), stream=streams)
        for element, value in enumerate(got.view(-1).tolist()):
            counter = [element // 4, 0, stream & 0xFFFFFFFF, stream >> 32]
            word = oracles.philox(counter, key)[element % 4]
            assert value == (2.0 if word >= 2**31 else 0.0), (stream, element)


@DROPOUT_RUNS
def test_a_client_drops_alike_alone_and_beside_others(op: str, run: Run) -> None:
    """Whatever the others have: rows, streams, nothing at all."""
    counts = (3, 0, 1, 8, 0, 5)
    streams = torch.tensor([9, 8, 2**40, 6, 5, 2**63 - 1], device=run.device)
    for features in (1, 3, 4, 33):
        x = torch.randn(sum(counts), features, device=run.device)
        client = owners(*counts).to(run.device)
        with run.active():
            together = counter_dropout(x, 0.3, KEY, client, len(counts), streams)
        for number, own in enumerate(counts):
            mine = client == number
            with run.active():
                alone = counter_dropout(x[mine], 0.3, KEY, stream=streams[number : number + 1])
            assert alone.shape[0] == own
            assert same_bits(together[mine], alone), (features, number)


@DROPOUT_RUNS
def test_an_int_is_the_stream_of_each_client_at_its_own_distance(op: str, run: Run) -> None:
    x = ones(6, 5, run)
    each = torch.tensor([7, 7 + 2**32, 7 + 2**33], device=run.device)
    with run.active():
        by_int = counter_dropout(x, 0.5, KEY, clients=3, stream=7)
        assert same_bits(by_int, counter_dropout(x, 0.5, KEY, clients=3, stream=each))
        split = torch.tensor([0, 0, 1, 1, 2, 2], device=run.device)
        assert same_bits(by_int, counter_dropout(x, 0.5, KEY, split, 3, 7))
        narrow = split.to(torch.int32)
        assert same_bits(by_int, counter_dropout(x, 0.5, KEY, narrow, 3, 7))


@DROPOUT_RUNS
def test_the_mask_is_that_of_the_rows_in_any_shape_and_dtype(op: str, run: Run) -> None:
    flat = ones(12, 5, run)
    with run.active():
        wanted = counter_dropout(flat, 0.3, KEY) == 0
        for shape in ((2, 6, 5), (3, 2, 2, 5), (1, 12, 5)):
            got = counter_dropout(flat.view(shape), 0.3, KEY)
            assert got.shape == shape
            assert torch.equal((got == 0).view(12, 5), wanted)
        for dtype in DTYPES:
            assert torch.equal(counter_dropout(flat.to(dtype), 0.3, KEY) == 0, wanted)
    with use_backend("reference"):
        assert torch.equal(counter_dropout(flat.double(), 0.3, KEY) == 0, wanted)


@DROPOUT_RUNS
def test_nothing_but_the_first_two_words_of_the_key_matters(op: str, run: Run) -> None:
    x = ones(8, 16, run)
    with run.active():
        wanted = counter_dropout(x, 0.5, KEY)
        for byte in range(32):
            secret = bytearray(KEY.reveal())
            secret[byte] ^= 128
            same = same_bits(counter_dropout(x, 0.5, Key(secret)), wanted)
            assert same == (byte >= 8), byte
            if run.interpreted and byte >= 8:
                break


@DROPOUT_RUNS
def test_a_rate_of_0_changes_no_bit(op: str, run: Run) -> None:
    special = [0.0, -0.0, 1.4e-45, math.inf, -math.inf, 3e38, 6e-8]
    for dtype in DTYPES:
        x = torch.tensor([special], device=run.device).to(dtype)
        with run.active():
            assert same_bits(counter_dropout(x, 0.0, KEY), x)


@DROPOUT_RUNS
def test_what_is_dropped_is_plus_0_and_what_is_kept_is_scaled_and_rounded_once(
    op: str, run: Run
) -> None:
    """Also what is NaN, infinite or negative; a product with 0 would be NaN or -0."""
    for dtype in DTYPES:
        x = torch.randn(40, 8, device=run.device).to(dtype)
        x[::3], x[1::3, ::2] = -x[::3].abs(), math.nan
        x[2::6] = -math.inf
        with run.active():
            got = counter_dropout(x, 0.3, KEY)
            kept = counter_dropout(torch.ones_like(x), 0.3, KEY) != 0
        scaled = (x.float() * torch.tensor(1 / (1 - 0.3), device=run.device)).to(dtype)
        assert same_bits(got[~kept], torch.zeros_like(got[~kept]))
        assert torch.equal(got[kept].nan_to_num(7), scaled[kept].nan_to_num(7))
        assert not kept.all() and kept.any()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_a_part_of_the_rate_is_dropped_and_the_mean_stays(rate: float) -> None:
    """Within 5 standard deviations; and neighbours, clients and steps have nothing in common."""
    rows, features, clients = 4000, 64, 4
    x = torch.ones(rows, features)
    masks = {
        stream: (counter_dropout(x, rate, KEY, clients=clients, stream=stream) != 0).double()
        for stream in (0, 1)
    }
    spread = math.sqrt(rate * (1 - rate))
    for mask in masks.values():
        assert abs(mask.mean() - (1 - rate)) < 5 * spread / math.sqrt(mask.numel())
        columns = (mask.mean(0) - (1 - rate)).abs().max()
        assert columns < 5.5 * spread / math.sqrt(rows)
    mean = counter_dropout(x, rate, KEY).double().mean()
    assert abs(mean - 1) < 5 * spread / (1 - rate) / math.sqrt(x.numel())
    first, other = masks[0] - (1 - rate), masks[1] - (1 - rate)
    each = first.view(clients, -1)
    pairs = (
        *((first[:, 1:], first[:, :-1]), (first[1:], first[:-1]), (first, other)),
        *((each[1:], each[:-1]), (first[:, 4:], first[:, :-4]), (first[:, ::2], first[:, 1::2])),
    )
    for one, two in pairs:
        together = (one * two).mean() / spread**2
        assert abs(together) < 5 / math.sqrt(one.numel())


@DROPOUT_RUNS
def test_the_gradient_is_dropped_by_the_same_mask_and_again_differentiable(
    op: str, run: Run
) -> None:
    how: dict[str, Any] = {"client": owners(0, 4, 2).to(run.device), "clients": 3, "stream": 3}
    for dtype in DTYPES:
        x = torch.randn(6, 9, device=run.device).to(dtype).requires_grad_()
        above = torch.randn(6, 9, device=run.device).to(dtype).requires_grad_()
        with run.active():
            out = counter_dropout(x, 0.3, KEY, **how)
            (grad,) = torch.autograd.grad(out, x, above, create_graph=True)
            assert same_bits(grad.detach(), counter_dropout(above.detach(), 0.3, KEY, **how))
            (second,) = torch.autograd.grad(grad, above, torch.ones_like(grad))
            assert same_bits(second, counter_dropout(torch.ones_like(grad), 0.3, KEY, **how))


def test_gradcheck_in_float64() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        return counter_dropout(x, 0.3, KEY, owners(2, 4), 2)

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_a_layer_that_is_computed_again_drops_alike() -> None:
    """Under checkpointing, with no state of a generator to keep."""
    x = torch.randn(8, 16, requires_grad=True)
    weight = torch.randn(16, 16, requires_grad=True)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return counter_dropout(torch.tanh(x @ weight), 0.5, KEY, clients=2)

    plain = torch.autograd.grad(layer(x).square().sum(), (x, weight))
    torch.manual_seed(1)
    again = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
    for one, other in zip(
        torch.autograd.grad(again.square().sum(), (x, weight)), plain, strict=True
    ):
        assert same_bits(one, other)


X = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": [1.0]}, DtypeError, "x is list; it must be a torch.Tensor"),
        ({"x": X.int()}, DtypeError, "x has dtype torch.int32; it must be torch.float32 or"),
        ({"x": torch.tensor(1.0)}, ArgumentError, r"x has shape \(\); it must be \(…, features\)"),
        ({"x": X.to_sparse()}, ArgumentError, "x has layout torch.sparse_coo; it must be dense"),
        ({"rate": 1}, ArgumentError, r"rate is 1; it must be in \[0, 1\)"),
        ({"rate": -0.1}, ArgumentError, r"rate is -0.1; it must be in \[0, 1\)"),
        ({"rate": math.nan}, ArgumentError, r"rate is nan; it must be in \[0, 1\)"),
        ({"rate": True}, DtypeError, "rate is bool; it must be a float"),
        ({"rate": "0.5"}, DtypeError, "rate is str; it must be a float"),
        ({"key": bytes(32)}, DtypeError, "key is bytes; it must be a pyfed.Key"),
        ({"clients": 0}, ArgumentError, r"clients is 0; it must be in \[1, "),
        ({"clients": 2.0}, DtypeError, "clients is float; it must be an int"),
        ({"clients": 3}, ArgumentError, "there are 4 rows and 3 clients; .* must split equally"),
        ({"client": [0] * 4}, DtypeError, "client is list; it must be a torch.Tensor"),
        ({"client": X[:, 0]}, DtypeError, "client has dtype torch.float32; it must be torch.int64"),
        ({"client": X.long()}, ArgumentError, r"client has 2 dimensions.*it must have 1"),
        ({"client": owners(3)}, ArgumentError, "client has 3 elements; there are 4 rows"),
        ({"client": torch.tensor([0, 1, 0, 1]), "clients": 2}, ArgumentError, "ascending order"),
        ({"client": owners(2, 2)}, ArgumentError, r"client holds numbers outside \[0, 1\)"),
        ({"client": owners(4) - 1}, ArgumentError, r"client holds numbers outside \[0, 1\)"),
        ({"stream": -1}, ArgumentError, r"stream is -1; it must be in \[0, "),
        ({"stream": 2**32}, ArgumentError, r"stream is 4294967296; it must be in \[0, "),
        ({"stream": 0.0}, DtypeError, "stream is float; it must be an int"),
        ({"stream": X[0]}, DtypeError, "stream has dtype torch.float32; it must be torch.int64"),
        ({"stream": owners(2)}, ArgumentError, "stream has 2 elements; there are 1 clients"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: Any, error: Any, words: str) -> None:
    given = {"x": X, "rate": 0.5, "key": KEY, **change}
    with pytest.raises(error, match=f"^counter_dropout: .*{words}"):
        counter_dropout(**given)
    assert counter_dropout(X, 0.5, KEY).shape == (4, 3)
