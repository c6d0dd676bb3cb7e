"""The bounds of the oracles of adapters, clipping and sketches are tight: who errs lies outside.

Each error here is one that a kernel could really have: a sum kept in bfloat16 or TF32, a result
that is rounded twice, a tail that is dropped, another client's factors, a mask from another place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bounds import BOUNDS
from case import Case, prepared, tensors_in
from cases import CASES
from contract import fits, written_by
from lora_oracles import flat
from pyfed.op import OPS

Wrong = Callable[..., Any]


def bfloat(t: torch.Tensor) -> torch.Tensor:
    return t.bfloat16().to(t.dtype)


def tf32(t: torch.Tensor) -> torch.Tensor:
    """Rounded to the 10 bits of TF32's mantissa."""
    return ((t.float().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut(t: torch.Tensor) -> torch.Tensor:
    """The last of the last dimension is lost."""
    kept = t.clone()
    kept[..., -1:] = 0
    return kept


def right(op: str, *args: Any) -> Any:
    return OPS[op].kernels["reference"].run(*args)


def changed(op: str, place: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Wrong:
    """The reference, with one argument changed."""

    def run(*args: Any) -> Any:
        return right(op, *args[:place], change(args[place]), *args[place + 1 :])

    return run


def parts(
    x: torch.Tensor, base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base and update of the output, both in float32, and hidden; (rows, …)."""
    zero = torch.zeros(base.shape)
    update, hidden = right("lora_linear", x.float(), zero, a, b, *rest)
    return base.float(), update, hidden


def rounded_before_the_base(*args: Any) -> Any:
    base, update, hidden = parts(*args)
    return (base + update.to(args[1].dtype).float()).to(args[1].dtype), hidden


def hidden_in_bfloat16(*args: Any) -> Any:
    base, b, scale, starts = args[1], *args[3:6]
    hidden = right("lora_linear", *args)[1]
    kept, out = bfloat(hidden), flat(base).float().clone()
    for client, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        out[first:last] += scale[client] * (kept[first:last] @ b[client].T)
    return out.to(base.dtype).view(base.shape), hidden


def next_clients(t: torch.Tensor) -> torch.Tensor:
    return t.roll(1, 0)


LINEAR: dict[str, Wrong] = {
    "hidden in bfloat16": hidden_in_bfloat16,
    "the update rounded before the base is added": rounded_before_the_base,
    "A in TF32": changed("lora_linear", 2, tf32),
    "B in bfloat16": changed("lora_linear", 3, bfloat),
    "the last input dropped": changed("lora_linear", 2, cut),
    "the last rank dropped": changed("lora_linear", 3, cut),
    "another client's A": changed("lora_linear", 2, next_clients),
    "another client's B": changed("lora_linear", 3, next_clients),
    "no scale": changed("lora_linear", 4, torch.ones_like),
    "another client's scale": changed("lora_linear", 4, next_clients),
    "another stream": changed("lora_linear", 7, lambda t: t + 1),
    "another key": changed("lora_linear", 6, lambda t: None if t is None else t.roll(1)),
    "a rate a little off": lambda *args: right("lora_linear", *args[:-1], args[-1] * 1.0001),
}


def gradient(change: Callable[[list[torch.Tensor]], object]) -> Wrong:
    def run(*args: Any) -> Any:
        results = [t.clone() for t in right("lora_linear_backward", *args)]
        change(results)
        return tuple(results)

    return run


def inner_in_bfloat16(*args: Any) -> Any:
    """What meets A and x was rounded before."""
    grad, x, a, b, hidden, scale, starts, *rest = args
    above = flat(grad).float()
    inner = torch.zeros(hidden.shape)
    for client, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        inner[first:last] = bfloat(above[first:last] @ b[client])
    eye = torch.eye(a.shape[1]).expand(len(a), -1, -1)
    dx, da, _ = right(
        "lora_linear_backward", inner, x.float(), a, eye, hidden, scale, starts, *rest
    )
    return dx.to(x.dtype), da, right("lora_linear_backward", *args)[2]


BACKWARD: dict[str, Wrong] = {
    "grad · B in bfloat16": inner_in_bfloat16,
    "x in bfloat16": changed("lora_linear_backward", 1, lambda t: bfloat(t.float()).to(t.dtype)),
    "hidden in TF32": changed("lora_linear_backward", 4, tf32),
    "the last output dropped": changed("lora_linear_backward", 0, cut),
    "another client's A": changed("lora_linear_backward", 2, next_clients),
    "another client's B": changed("lora_linear_backward", 3, next_clients),
    "no scale": changed("lora_linear_backward", 5, torch.ones_like),
    "another stream": changed("lora_linear_backward", 8, lambda t: t + 1),
    "dx without dropout": lambda *args: (
        right("lora_linear_backward", *args[:7], None, *args[8:])[0],
        *right("lora_linear_backward", *args)[1:],
    ),
    "dA not scaled again": lambda *args: (
        *right("lora_linear_backward", *args)[:1],
        right("lora_linear_backward", *args[:7], None, *args[8:])[1],
        right("lora_linear_backward", *args)[2],
    ),
    "the last client's dB forgotten": gradient(lambda results: results[2][-1:].zero_()),
    "dA off by 2^-12": gradient(lambda results: results[1].mul_(1 + 2.0**-12)),
}


def merged(update: Callable[..., torch.Tensor]) -> Wrong:
    """Base and an update that is wrong, (out, in) or transposed."""

    def run(base: torch.Tensor, a: Any, b: Any, scale: Any, transposed: bool) -> None:
        found = update(a.float(), b.float(), scale, base.dtype)
        base.copy_(base.float() + (found.T if transposed else found))

    return run


def rank_by_rank(base: torch.Tensor, a: Any, b: Any, scale: Any, transposed: bool) -> None:
    for k in range(len(scale)):
        right("lora_merge_", base, a[k : k + 1], b[:, k : k + 1], scale[k : k + 1], transposed)


MERGE: dict[str, Wrong] = {
    "each rank rounded to the dtype": rank_by_rank,
    "the update rounded before": merged(lambda a, b, s, d: ((b * s) @ a).to(d).float()),
    "factors in TF32": merged(lambda a, b, s, d: (b * s) @ tf32(a)),
    "b · scale in bfloat16": merged(lambda a, b, s, d: bfloat(b * s) @ a),
    "the last rank dropped": merged(lambda a, b, s, d: (cut(b) * s) @ a),
    "the last column dropped": merged(lambda a, b, s, d: (b * s) @ cut(a)),
    "no scale": merged(lambda a, b, s, d: b @ a),
    "one scale for all": merged(lambda a, b, s, d: (b * s[:1]) @ a),
}


def clipped(norm: Callable[[torch.Tensor], torch.Tensor], epsilon: float = 1e-6) -> Wrong:
    def run(grads: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        norms = norm(grads)
        factor = (limits / (norms + epsilon))[:, None]
        grads.copy_(torch.where(factor < 1, grads * factor, grads))
        return norms

    return run


def norm_in_order(grads: torch.Tensor) -> torch.Tensor:
    """Squares summed in float32, one after the other."""
    with np.errstate(over="ignore"):
        sums = np.add.accumulate(grads.numpy() ** 2, axis=1, dtype=np.float32)
    return torch.from_numpy(np.sqrt(sums[:, -1] if sums.size else np.zeros(len(sums), np.float32)))


def norm(grads: torch.Tensor) -> torch.Tensor:
    return grads.double().norm(dim=1).float()


def by_reciprocal(grads: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    norms = norm(grads)
    factor = (limits * (1 / (norms + 1e-6)))[:, None]
    grads.copy_(torch.where(factor < 1, grads * factor, grads))
    return norms


CLIP: dict[str, Wrong] = {
    "squares summed in float32": clipped(norm_in_order),
    "the last element dropped": clipped(lambda grads: norm(cut(grads))),
    "no epsilon": clipped(norm, 0.0),
    "a reciprocal instead of a quotient": by_reciprocal,
    "a neighbour's norm": clipped(lambda grads: norm(grads).roll(1)),
    "nothing clipped": lambda grads, limits: norm(grads),
}


def two_halves(x: torch.Tensor) -> torch.Tensor:
    """Split into two terms of bfloat16, which keep 16 of the 24 bits."""
    return bfloat(x) + bfloat(x - bfloat(x))


def all_but_last(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    """The last sample, or the last row of the matrix, is lost."""
    kept = x.clone()
    kept[..., -1:, :] = 0
    return right("sketch", kept, *rest)


def noise_of_another_stream(*args: Any) -> torch.Tensor:
    *sketched, noise_std, grid, transpose = args
    if noise_std == 0:
        return right("sketch", *args)
    zero, (*place, stream) = torch.zeros_like(args[0]), sketched[1:]
    noise = right("sketch", zero, *place, stream + 1, noise_std, grid, transpose)
    return right("sketch", *sketched, 0.0, grid, transpose) + noise


SKETCH: dict[str, Wrong] = {
    "x in TF32": changed("sketch", 0, tf32),
    "x in two terms of bfloat16": changed("sketch", 0, two_halves),
    "the last sample dropped": all_but_last,
    "another seed": changed("sketch", 1, lambda t: None if t is None else t.roll(1)),
    "another key": changed("sketch", 2, lambda t: None if t is None else t.roll(1)),
    "another stream": changed("sketch", 6, lambda stream: (stream + 7) % 2**31),
    "no noise": changed("sketch", 7, lambda noise_std: 0.0),
    "noise of another stream": noise_of_another_stream,
    "noise a little off": changed("sketch", 7, lambda noise_std: noise_std * 1.0001),
}

KERNELS = {
    "lora_linear": LINEAR,
    "lora_linear_backward": BACKWARD,
    "lora_merge_": MERGE,
    "segment_clip_": CLIP,
    "sketch": SKETCH,
}
RIGHT = (  # what is no error in a dtype
    ("the update rounded before the base is added", torch.float32),
    ("the update rounded before", torch.float32),
    ("each rank rounded to the dtype", torch.float32),
    ("x in bfloat16", torch.bfloat16),
)


def caught(op: str, wrong: Wrong, case: Case) -> bool:
    """Whether a result of the wrong kernel lies outside the bounds."""
    args, kwargs = case.on(op, "cpu")
    wanted = BOUNDS[op](*args, **kwargs)
    given = prepared(op, *args, **kwargs)
    got = [*tensors_in(wrong(*given)), *written_by(op, given)]
    return not all(map(fits, got, wanted))


def dtype_of(op: str, case: Case) -> torch.dtype:
    """Of the rows, the weight or the arena."""
    kind: torch.dtype = case.args[2 if op == "lora_linear_backward" else 0].dtype
    return kind


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in KERNELS for name in KERNELS[op]])
def test_a_kernel_that_errs_lies_outside_the_bounds(op: str, name: str) -> None:
    """In some small case of every dtype, so that no dtype's own rounding hides it."""
    for kind in {dtype_of(op, case) for case in CASES[op]}:
        cases = [c for c in CASES[op] if not c.large and dtype_of(op, c) == kind]
        found = any(caught(op, KERNELS[op][name], case) for case in cases)
        assert found == ((name, kind) not in RIGHT), kind


@pytest.mark.parametrize(
    ("op", "name"), [(op, n) for op in KERNELS if op != "segment_clip_" for n in KERNELS[op]]
)
def test_so_it_does_where_sums_are_long(op: str, name: str) -> None:
    large = [case for case in CASES[op] if case.large]
    assert any(caught(op, KERNELS[op][name], case) for case in large)


@pytest.mark.parametrize("op", KERNELS)
def test_the_reference_lies_within(op: str) -> None:
    assert not any(caught(op, OPS[op].kernels["reference"].run, case) for case in CASES[op])
