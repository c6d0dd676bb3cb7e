"""CPU kernels leave no secret on the stack and none in the scratch memory that they are given.

A kernel runs in a thread of its own; the thread then waits while another one looks through its
stack, for secret words that buffers or spilled registers left there.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field, Key, native
from pyfed.ops.discrete import FIRST_ATTEMPT, discrete_gaussian_op
from pyfed.ops.field import product_reference
from pyfed.ops.random import (
    NOISE,
    PADDING,
    RESIDUES,
    ROUNDING,
    domain,
    residues_reference,
    words_reference,
)
from pyfed.ops.sketch_matrix import Matrix, noise_reference, row_words
from runs import simd_level, simd_levels

libc = ctypes.CDLL(None)
if native._C is None or sys.platform != "linux" or not hasattr(libc, "pthread_getattr_np"):
    pytest.skip("needs the compiled kernels and glibc's threads", allow_module_level=True)
libc.pthread_self.restype = ctypes.c_void_p

KEY = Key(bytes(range(0x41, 0x61)))
OTHER = Key(bytes(range(0x81, 0xA1)))
FIELDS = pytest.mark.parametrize("f", (SOLINAS31, MERSENNE31), ids=("solinas31", "mersenne31"))
EVERY_LEVEL = pytest.mark.parametrize("simd", simd_levels())
BY_CHANCE = 2
"""Some thousand words against as many secrets: one is equal by chance once in 400 times, and more
than two once in 10^8. A kernel that leaves something leaves more."""


def stack_of_this_thread() -> tuple[int, int]:
    """Where the stack of the calling thread begins, without its guard, and its size."""
    room = ctypes.create_string_buffer(256)
    assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), room) == 0
    start, size, guard = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    libc.pthread_attr_getstack(room, ctypes.byref(start), ctypes.byref(size))
    libc.pthread_attr_getguardsize(room, ctypes.byref(guard))
    libc.pthread_attr_destroy(room)
    assert start.value is not None
    return start.value + guard.value, size.value - guard.value


def stack_after(call: Callable[[], object]) -> np.ndarray:
    """The words of the stack of a thread that ran ``call``: uint32."""
    place: list[tuple[int, int]] = []
    ran, looked = threading.Event(), threading.Event()

    def body() -> None:
        try:
            place.append(stack_of_this_thread())
            call()
        finally:
            ran.set()
            looked.wait()

    before = threading.stack_size(2 << 20)
    thread = threading.Thread(target=body)
    thread.start()
    threading.stack_size(before)
    ran.wait()
    words = np.frombuffer(ctypes.string_at(*place[0]), dtype=np.uint32)
    looked.set()
    thread.join()
    return words


def found(words: np.ndarray, *secrets: torch.Tensor) -> int:
    """How many words are among the secret ones, but for numbers as small as counts are.

    Each is counted once: halves of addresses lie on a stack many times.
    """
    wanted = np.concatenate([s.reshape(-1).numpy().astype(np.int64) for s in secrets])
    wanted = wanted[np.abs(wanted) >= 2**20]
    return int(np.isin(np.unique(words), (wanted & 0xFFFFFFFF).astype(np.uint32)).sum())


def run(name: str, *args: object, threads: int = 1) -> None:
    """Call a compiled kernel as it is."""
    raw = [native._pointer(a) for a in args]
    assert getattr(native._C, f"{name}_cpu")(*raw, threads) == 0


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int32)


def drawn(f: Field, *shape: int) -> torch.Tensor:
    return torch.randint(0, f.modulus, shape).to(torch.int32)


def centred(values: torch.Tensor, p: int) -> torch.Tensor:
    return torch.where(values > (p - 1) // 2, values.to(torch.int64) - p, values.to(torch.int64))


def test_what_lies_on_the_stack_is_found() -> None:
    secret = drawn(SOLINAS31, 300)

    def leave() -> None:
        start, size = stack_of_this_thread()
        ctypes.memmove(start + size // 2, secret.data_ptr(), 1200)

    assert found(stack_after(leave), secret) >= 300
    assert found(stack_after(lambda: None), secret) <= BY_CHANCE


@EVERY_LEVEL
def test_keystream_and_key(simd: str) -> None:
    key, out = KEY.words(), empty(700)
    secret = words_reference(key, 5, 700, [0, 3, domain(0)])
    with simd_level(simd):
        stack = stack_after(lambda: run("random_words", key, 5, 700, 3, out))
    assert torch.equal(out.to(torch.int64) & 0xFFFFFFFF, secret)
    assert found(stack, secret, key) <= BY_CHANCE


@EVERY_LEVEL
@pytest.mark.parametrize("p", [SOLINAS31.modulus, 1610612741], ids=("few", "many"))
def test_residues_and_key(simd: str, p: int) -> None:
    key, out = KEY.words(), empty(700)
    secret = residues_reference(key, 5, 700, 0, 3, RESIDUES, p)
    with simd_level(simd):
        stack = stack_after(lambda: run("random_residues", key, 5, 700, 3, p, out))
    assert torch.equal(out, secret)
    assert found(stack, secret, key) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
def test_masks_of_pairs_and_their_keys(simd: str, f: Field) -> None:
    keys, signs = torch.stack([KEY.words(), OTHER.words()]), torch.tensor([1, -1]).int()
    x, p = drawn(f, 700), f.modulus
    masks = [residues_reference(key, 5, 700, 0, 3, RESIDUES, p) for key in keys]
    wanted = (x + masks[0] - masks[1]) % p
    with simd_level(simd):
        stack = stack_after(lambda: run("add_masks", x, 700, keys, signs, 2, p, 3, 5))
    assert torch.equal(x, wanted)
    sums = (masks[0] - masks[1]) % p
    assert found(stack, *masks, sums, sums - p, keys) <= BY_CHANCE


@EVERY_LEVEL
def test_words_of_discrete_noise(simd: str) -> None:
    key, attempts = KEY.words(), range(FIRST_ATTEMPT, FIRST_ATTEMPT + 12)
    words = [words_reference(key, 5, 700, [0, 3, domain(NOISE, attempt=a)]) for a in attempts]
    with simd_level(simd):
        stack = stack_after(lambda: discrete_gaussian_op.kernels["cpu"].run(key, 1e3, 700, 3, 5))
    assert found(stack, torch.stack(words), key) <= BY_CHANCE


@EVERY_LEVEL
def test_words_that_round(simd: str) -> None:
    key, values, out = KEY.words(), torch.rand(700), empty(700)
    secret = words_reference(key, 5, 700, [0, 3, domain(ROUNDING)])
    args = (values, 700, 2.0**10, 1.0, SOLINAS31.modulus, key, 3, 5, out)
    with simd_level(simd):
        stack = stack_after(lambda: run("quantize", *args))
    assert found(stack, secret, key) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
@pytest.mark.parametrize("weighted", [False, True])
def test_sums(simd: str, f: Field, weighted: bool) -> None:
    x, out = drawn(f, 3, 700), empty(700)
    weights = drawn(f, 3) if weighted else None
    with simd_level(simd):
        stack = stack_after(lambda: run("field_sum", x, weights, 3, 700, f.modulus, out))
    assert found(stack, out, x, x[:1], x[:2].sum(0), x.sum(0)) <= BY_CHANCE


NUMBERS = ("shares", "blocks", "privacy", "length")
PANELS = [(7, 3, 2, 101), (9, 2, 1, 1), (20, 5, 260, 1300)]
SHAPES = pytest.mark.parametrize(NUMBERS, PANELS)


def scratch_of(kept_rows: int, threads: int) -> torch.Tensor:
    """Scratch memory in which every word is -1, which no residue is, centred or not."""
    size = native._C.product_workspace(kept_rows, threads)
    return torch.full((size,), -(2**31), dtype=torch.int32)


def is_clean(scratch: torch.Tensor) -> bool:
    """Whether all that was written was overwritten, and something was."""
    return bool(((scratch == 0) | (scratch == -(2**31))).all()) and bool((scratch == 0).any())


@EVERY_LEVEL
@FIELDS
@pytest.mark.parametrize(NUMBERS, [*PANELS, (1, 1, 3, 700), (1, 1, 260, 1300)])
def test_shares_and_padding(
    simd: str, f: Field, shares: int, blocks: int, privacy: int, length: int
) -> None:
    key, p, columns = KEY.words(), f.modulus, -(-length // blocks)
    data, matrix = drawn(f, length), drawn(f, shares, blocks + privacy)
    rows = range(max(0, privacy - 3), privacy)
    random = torch.stack([residues_reference(key, 9, columns, r, 3, PADDING, p) for r in rows])
    for threads in (1, 2):
        out, scratch = empty(shares, columns), scratch_of(0, threads)
        args = (data, length, matrix, shares, blocks, privacy, key, 3, 9, p, out, scratch)
        with simd_level(simd):
            stack = stack_after(lambda: run("lagrange_encode", *args, threads=threads))  # noqa: B023
        assert shares * blocks == 1 or is_clean(scratch)  # a single share needs no panels
        secrets = (out, centred(out, p), random, centred(random, p), data, centred(data, p), key)
        assert found(stack, *secrets) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
@SHAPES
def test_decoded_values(
    simd: str, f: Field, shares: int, blocks: int, privacy: int, length: int
) -> None:
    p, columns = f.modulus, -(-length // blocks)
    rows, matrix = drawn(f, shares, columns), drawn(f, blocks, shares)
    for threads in (1, 2):
        out, scratch = empty(length), scratch_of(blocks, threads)
        args = (rows, columns, matrix, blocks, shares, length, p, out, scratch)
        with simd_level(simd):
            stack = stack_after(lambda: run("lagrange_decode", *args, threads=threads))  # noqa: B023
        assert is_clean(scratch)
        assert found(stack, out, centred(out, p), rows, centred(rows, p)) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
def test_products(simd: str, f: Field) -> None:
    p = f.modulus
    a, b = drawn(f, 9, 300), drawn(f, 300, 37)
    out, scratch = empty(9, 37), scratch_of(0, 1)
    with simd_level(simd):
        stack = stack_after(lambda: run("field_matmul", a, b, 9, 300, 37, p, out, scratch))
    assert torch.equal(out, product_reference(a, b, p))
    assert is_clean(scratch)
    assert found(stack, out, centred(out, p), a, b, centred(a, p), centred(b, p)) <= BY_CHANCE


ROWS, SAMPLES, FEATURES = 70, 520, 21
UNTOUCHED = -(2.0**70)


def sketched(
    kind: int, transpose: int, noise_std: float, threads: int
) -> tuple[Callable[[], None], torch.Tensor, torch.Tensor]:
    """A call of the kernel, its result and its scratch; the same x each time."""
    like = torch.Generator().manual_seed(20)
    x = torch.randn(ROWS if transpose else SAMPLES, FEATURES, generator=like)
    out = torch.empty(SAMPLES if transpose else ROWS, FEATURES)
    starts, size = torch.tensor([0, SAMPLES]), (1, SAMPLES, FEATURES, ROWS, kind)
    scratch = torch.full((native._C.sketch_workspace(*size, 1, transpose, threads),), UNTOUCHED)

    def call() -> None:
        source = (None, KEY.words(), noise_std, 3, transpose)
        run("sketch", x, starts, *size, *source, out, scratch, threads=threads)

    return call, out, scratch


@EVERY_LEVEL
@pytest.mark.parametrize("transpose", [0, 1])
@pytest.mark.parametrize("kind", [1, 2, 3], ids=("rademacher", "gaussian", "countsketch"))
def test_secret_matrices_and_noise(simd: str, kind: int, transpose: int) -> None:
    key, std = KEY.words(), 0.0 if transpose else 0.5
    g = Matrix(None, key, kind, 3)
    places = (2, SAMPLES) if kind == 3 else (ROWS, {1: -(-SAMPLES // 32), 2: SAMPLES}[kind])
    noise = noise_reference(key, ROWS, FEATURES, 3)
    noise_words = row_words(key, (0, ROWS), (0, FEATURES + 1), 3, domain(NOISE))
    floats = [noise, std * noise, *([g.block((0, ROWS), (0, SAMPLES), ROWS)] if kind == 2 else [])]
    secrets = [g.words((0, places[0]), (0, places[1])), noise_words, key]
    for threads in (1, 2):
        bare, sums, _ = sketched(kind, transpose, 0.0, threads)
        call, _, scratch = sketched(kind, transpose, std, threads)
        with simd_level(simd):
            bare()
            stack = stack_after(call)
        assert bool(((scratch == 0) | (scratch == UNTOUCHED)).all())
        assert kind == 3 or bool((scratch == 0).any())
        hidden = floats if transpose else [*floats, sums]  # sums are what noise is to hide
        bits = [values.contiguous().view(torch.int32) for values in hidden]
        assert found(stack, *secrets, *bits) <= BY_CHANCE
