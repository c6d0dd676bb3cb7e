"""The quick ways that the tests give Triton's interpreter change nothing that it computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import pyfed
from pyfed import Key, ops

pytest.importorskip("triton")

from triton import language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

CHECK = TritonSemantic.binary_op_type_checking_impl
if not hasattr(CHECK, "__wrapped__"):
    pytest.skip("Triton is compiled here", allow_module_level=True)

SCALARS = [
    *(tl.int1, tl.int8, tl.uint8, tl.int16, tl.uint16, tl.int32, tl.uint32, tl.int64, tl.uint64),
    *(tl.float16, tl.bfloat16, tl.float32, tl.float64),
]
NUMBERS = [
    True,
    1.5,
    float("nan"),
    *(s * 2**b - o for b in (0, 31, 32, 63, 64) for s in (1, -1) for o in (0, 1)),
]


def block(scalar: Any, shape: tuple[int, ...]) -> Any:
    data = np.arange(np.prod(shape)).reshape(shape).astype(interpreter._get_np_dtype(scalar))
    return tl.tensor(interpreter.TensorHandle(data, scalar), tl.block_type(scalar, list(shape)))


def single(scalar: Any) -> Any:
    data = np.array([3]).astype(interpreter._get_np_dtype(scalar))
    return tl.tensor(interpreter.TensorHandle(data, scalar), scalar)


def outcome(check: Any, *operands: Any, **options: Any) -> Any:
    """Types and bytes of what both operands become, or the error."""
    try:
        both = check(interpreter.interpreter_semantic, *operands, **options)
    except Exception as error:
        return type(error), str(error)
    return [
        (str(x.type), x.shape, str(x.handle.dtype), x.handle.data.dtype, x.handle.data.tolist())
        for x in both
    ]


@pytest.mark.parametrize("options", [{}, {"div_or_mod": True}, {"arithmetic_check": False}])
def test_operands_become_what_the_interpreter_makes_of_them(options: dict[str, bool]) -> None:
    blocks = [block(s, shape) for s in SCALARS for shape in ((4,), (2, 4), (1,))]
    others = [*blocks, *map(single, SCALARS), *NUMBERS]
    quick = 0
    for pair in itertools.chain(
        itertools.product(blocks, others), itertools.product(others, blocks)
    ):
        wanted = outcome(CHECK.__wrapped__, *pair, **options)
        got = outcome(CHECK, *pair, **options)
        assert repr(got) == repr(wanted), pair
        quick += got[0] not in (TypeError, ValueError)
    assert quick > 100


def test_types_of_numpy_are_those_of_the_interpreter() -> None:
    find = interpreter._get_np_dtype
    pointer = tl.pointer_type(tl.int32)
    for kind in (*SCALARS, *(tl.block_type(s, [4]) for s in (*SCALARS, pointer)), pointer):
        assert find(kind) == find.__wrapped__(kind)


def test_the_language_is_itself_again_after_a_kernel() -> None:
    before = {module: dict(vars(module)) for module in (tl, tl.tensor, tl.math)}
    with pyfed.use_backend("triton"):
        words = ops.random_words(Key(bytes(32)), 64)
    with pyfed.use_backend("reference"):
        assert torch.equal(words, ops.random_words(Key(bytes(32)), 64))
    for module, members in before.items():
        assert all(vars(module)[name] is value for name, value in members.items())
