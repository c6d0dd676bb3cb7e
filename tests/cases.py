"""Inputs on which the contract of ``test_every_op.py`` is checked: a few for every op.

Every case must run on every backend. Adding an op means adding its cases here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch

from bank_cases import BANK_MAKERS
from case import KEY, Case
from discrete_cases import discrete_gaussian
from encode_cases import quantize_encode, standard_encode
from lora_cases import LORA_MAKERS
from mask_cases import MASK_MAKERS
from mean_cases import masked_mean
from pairwise_cases import add_masks
from pyfed import MERSENNE31, SOLINAS31, Field
from selection_cases import mask_prune, mask_select
from sketch_cases import sketch
from upload_cases import decode_sum, quantize_mask
from wide_cases import WIDE_MAKERS

FIELDS = (SOLINAS31, MERSENNE31)
TINY = Field("tiny", 5)  # a candidate is rejected with probability 3/8


def residues(modulus: int, *shape: int) -> torch.Tensor:
    """Random residues, with the extremes among them."""
    values = torch.randint(0, modulus, shape, dtype=torch.int64)
    flat = values.view(-1)
    flat[::7], flat[3::7] = modulus - 1, 0
    return values.to(torch.int32)


def largest(modulus: int, *shape: int) -> torch.Tensor:
    """All residues p - 1."""
    return torch.full(shape, modulus - 1, dtype=torch.int32)


def _random_words() -> Iterator[Case]:
    for count, stream, start in (
        *((0, 0, 0), (1, 0, 0), (15, 1, 1), (16, 0, 16), (17, 3, 15), (1003, 0, 0)),
        *((37, 2**32 - 1, 2**35 + 13), (21, 5, 2**36 - 21)),
    ):
        name = f"count {count}, stream {stream}, start {start}"
        yield Case(name, (KEY, count), {"stream": stream, "start": start})
    yield Case("large", (KEY, 300_007), {"start": 9}, large=True)


def _random_residues() -> Iterator[Case]:
    for f in (*FIELDS, TINY):
        for count, stream, start in ((0, 0, 0), (1, 0, 0), (130, 1, 7), (33, 9, 2**36 - 33)):
            name = f"{f.name}, count {count}, stream {stream}, start {start}"
            yield Case(name, (KEY, count, f), {"stream": stream, "start": start})
        yield Case(f"{f.name}, large", (KEY, 200_003, f), {"start": 3}, large=True)
    # residue_rejections.json: these ranges hold second and third attempts.
    for f, start in ((SOLINAS31, 1335), (SOLINAS31, 21859138), (MERSENNE31, 761923131)):
        name = f"{f.name}, retries at {start}"
        yield Case(name, (KEY, 19, f), {"stream": 7, "start": start - 9})


def _field_matmul() -> Iterator[Case]:
    for f in FIELDS:
        for m, k, n in (
            *((0, 3, 2), (2, 0, 3), (3, 2, 0), (1, 1, 1), (3, 5, 7), (17, 33, 65), (2, 257, 9)),
            *((1, 70, 1), (65, 4, 3)),
        ):
            a, b = residues(f.modulus, m, k), residues(f.modulus, k, n)
            yield Case(f"{f.name}, ({m}, {k}) x ({k}, {n})", (a, b, f))
        extremes = largest(f.modulus, 5, 129), largest(f.modulus, 129, 4)
        yield Case(f"{f.name}, all p - 1", (*extremes, f))
        big = residues(f.modulus, 70, 131), residues(f.modulus, 131, 1003)
        yield Case(f"{f.name}, large", (*big, f), large=True)
        # Rows are shared out among threads, and the last tile is not half full.
        tall = residues(f.modulus, 1101, 300), residues(f.modulus, 300, 21)
        yield Case(f"{f.name}, large, narrow", (*tall, f), large=True)


def _field_sum() -> Iterator[Case]:
    for f in FIELDS:
        for shape in ((0, 5), (4, 0), (1,), (3,), (1, 1), (3, 7), (5, 2, 3), (33, 17), (2, 1001)):
            yield Case(f"{f.name}, {shape}", (residues(f.modulus, *shape), f))
        weights = torch.tensor([2**63 - 1, 0, f.modulus, 1, f.modulus - 1])
        x = residues(f.modulus, 5, 19)
        yield Case(f"{f.name}, int64 weights", (x, f), {"weights": weights})
        yield Case(f"{f.name}, int32 weights", (x, f), {"weights": weights.to(torch.int32).abs()})
        yield Case(f"{f.name}, listed weights", (x, f), {"weights": weights.tolist()})
        yield Case(f"{f.name}, all p - 1", (largest(f.modulus, 257, 9), f))
        heavy = {"weights": torch.full((257,), f.modulus - 1)}
        yield Case(f"{f.name}, all p - 1, weighted", (largest(f.modulus, 257, 9), f), heavy)
        big = residues(f.modulus, 21, 50_003)
        yield Case(f"{f.name}, large", (big, f), large=True)
        yield Case(f"{f.name}, large, weighted", (big, f), {"weights": list(range(21))}, large=True)


FLOATS = (
    *(0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, 0.25, 1e-30, -1e-30, 1.4e-45, -1.4e-45, 1.1e-38),
    *(3.999999, -3.999999, 4.0, -4.0, 4.0000005, -7.25, 3.4e38, -3.4e38, 0.1, -0.1, 1 / 3),
)


def _quantize() -> Iterator[Case]:
    special = torch.tensor(FLOATS)
    for f in FIELDS:
        for key in (None, KEY):
            how = {"key": key, "stream": 3, "start": 5}
            tag = f"{f.name}, {'random' if key else 'nearest'}"
            for shape in ((), (0,), (1,), (3, 0), (3, 5), (1003,)):
                yield Case(f"{tag}, {shape}", (torch.randn(shape), 2.0**13, 4.0, f), how)
            for scale in (2.0, 2.0**20, 2.0**-3):
                yield Case(f"{tag}, special values · {scale}", (special, scale, 4.0, f), how)
            for dtype in (torch.float16, torch.bfloat16):
                half = torch.randn(67).to(dtype)
                yield Case(f"{tag}, {dtype}", (half, 2.0**10, 1.0, f), how)
            big = torch.randn(200_003), 2.0**15, 3.0, f
            yield Case(f"{tag}, large", big, how, large=True)
    edge = {"key": KEY, "stream": 2**32 - 1, "start": 2**36 - len(FLOATS)}
    yield Case("last words of a stream", (special, 2.0**28, 3.99, SOLINAS31), edge)
    tiny_steps = special * 2.0**-97
    yield Case("scale 2^100", (tiny_steps, 2.0**100, 2.0**-96, SOLINAS31), {"key": KEY})


def _dequantize() -> Iterator[Case]:
    for f in FIELDS:
        half = (f.modulus - 1) // 2
        special = [0, 1, f.modulus - 1, half, half + 1, half - 1, 2**24, 2**24 + 1, 2**24 + 3]
        yield Case(f"{f.name}, special", (torch.tensor(special, dtype=torch.int32), 2.0**13, f))
        for shape in ((), (0,), (1,), (3, 5), (1003,)):
            yield Case(f"{f.name}, {shape}", (residues(f.modulus, *shape), 2.0**13, f))
        for scale in (2.0**-100, 2.0**100, 1.0):
            yield Case(f"{f.name}, scale {scale}", (residues(f.modulus, 33), scale, f))
        yield Case(f"{f.name}, large", (residues(f.modulus, 300_007), 2.0**13, f), large=True)


def _field_lift() -> Iterator[Case]:
    for f in (*FIELDS, TINY):
        yield Case(f"{f.name}, (3, 35)", (residues(f.modulus, 3, 35), f))


def _lagrange_encode() -> Iterator[Case]:
    for f in FIELDS:
        for length, shares, blocks, privacy, stream, start in (
            *((0, 3, 2, 1, 0, 0), (1, 1, 1, 0, 0, 0), (1, 4, 3, 1, 0, 0), (7, 5, 3, 2, 1, 1)),
            *((10, 3, 1, 2, 0, 2**36 - 10), (64, 6, 4, 0, 0, 0), (131, 17, 5, 6, 2**32 - 1, 77)),
            *((50, 0, 2, 1, 0, 0), (33, 2, 33, 4, 0, 15)),
        ):
            data = residues(f.modulus, length)
            matrix = residues(f.modulus, shares, blocks + privacy)
            args = data, matrix, KEY, f, blocks, stream, start
            yield Case(f"{f.name}, {length} in {blocks} + {privacy} to {shares}", args)
        data, matrix = largest(f.modulus, 99), largest(f.modulus, 7, 40)
        yield Case(f"{f.name}, all p - 1", (data, matrix, KEY, f, 33))
        half = torch.full((1, 41), (f.modulus - 1) // 2, dtype=torch.int32)
        for length, privacy in ((130, 0), (131, 1), (16, 2), (17, 3), (1024, 5), (1027, 40)):
            matrix, where = half[:, : 1 + privacy], (3, 2**36 - length)
            args = largest(f.modulus, length), matrix, KEY, f, 1, *where
            yield Case(f"{f.name}, {length} to one share, {privacy} random rows", args)
        data, matrix = residues(f.modulus, 100_003), residues(f.modulus, 1, 3)
        yield Case(f"{f.name}, large, one share", (data, matrix, KEY, f, 1), large=True)
        data, matrix = residues(f.modulus, 100_003), residues(f.modulus, 30, 20)
        yield Case(f"{f.name}, large", (data, matrix, KEY, f, 12), large=True)


def _lagrange_decode() -> Iterator[Case]:
    for f in FIELDS:
        for threshold, columns, blocks, length in (
            *((1, 0, 1, 0), (1, 1, 1, 1), (3, 1, 2, 1), (5, 7, 3, 20), (4, 8, 4, 32)),
            *((4, 8, 4, 0), (17, 35, 6, 208), (33, 3, 1, 2)),
        ):
            rows = residues(f.modulus, threshold, columns)
            matrix = residues(f.modulus, blocks, threshold)
            name = f"{f.name}, {threshold} x {columns} to {length} in {blocks}"
            yield Case(name, (rows, matrix, f, length))
        rows, matrix = largest(f.modulus, 70, 5), largest(f.modulus, 3, 70)
        yield Case(f"{f.name}, all p - 1", (rows, matrix, f, 15))
        rows, matrix = residues(f.modulus, 30, 5003), residues(f.modulus, 20, 30)
        yield Case(f"{f.name}, large", (rows, matrix, f, 100_059), large=True)


_MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "random_words": _random_words,
    "random_residues": _random_residues,
    "add_masks_": add_masks,
    "quantize_mask": quantize_mask,
    "decode_sum": decode_sum,
    "discrete_gaussian": discrete_gaussian,
    "field_matmul": _field_matmul,
    "field_sum": _field_sum,
    "quantize": _quantize,
    "dequantize": _dequantize,
    "field_lift": _field_lift,
    "lagrange_encode": lambda: chain(_lagrange_encode(), standard_encode()),
    "quantize_encode": quantize_encode,
    "lagrange_decode": _lagrange_decode,
    **MASK_MAKERS,
    "mask_select": mask_select,
    "mask_prune_": mask_prune,
    "masked_mean": masked_mean,
    **LORA_MAKERS,
    **BANK_MAKERS,
    "sketch": sketch,
}
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(20)
    CASES = {op: tuple(maker()) for op, maker in _MAKERS.items()}
    for op, maker in WIDE_MAKERS.items():
        CASES[op] += tuple(maker())
