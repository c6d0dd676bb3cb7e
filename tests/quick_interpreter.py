"""Triton's interpreter without work that it repeats: a third of the time it takes.

What it computes stays: values, types and errors come from the interpreter itself, and
tests/triton/test_quick_interpreter.py holds both ways against one another.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
from triton import language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

WORDS = {
    "int32": np.iinfo(np.int32),
    "uint32": np.iinfo(np.uint32),
    "int64": np.iinfo(np.int64),
    "uint64": np.iinfo(np.uint64),
}
"""Types that kernels compute in, which take part in no promotion among themselves."""


def make_quick() -> None:
    """Change the interpreter of this process, once."""
    interpreter._patch_lang = patched_once(interpreter._patch_lang)
    interpreter._get_np_dtype = remembered(interpreter._get_np_dtype)
    TritonSemantic.binary_op_type_checking_impl = quick_checking(
        TritonSemantic.binary_op_type_checking_impl
    )


def patched_once(patch: Any) -> Any:
    """Let device functions find ``triton.language`` as their kernel's launch has patched it.

    The interpreter replaces the members of ``triton.language`` by its own when a kernel is
    launched, and looks through all of them again, in vain, in each call of a ``@triton.jit``
    function.
    """
    patched: set[Any] = set()  # modules, while a kernel runs

    def patch_once(function: Any) -> Any:
        modules = {x for x in function.__globals__.values() if inspect.ismodule(x)}
        new = (modules & {interpreter.tl, interpreter.tl.core}) - patched
        if patched and not new:
            return interpreter._LangPatchScope()
        scope = patch(function)
        patched.update(new)
        restore = scope.restore

        def restored() -> None:
            patched.difference_update(new)
            restore()

        scope.restore = restored
        return scope

    return patch_once


def remembered(numpy_type: Any) -> Any:
    """Make no table of all types in each look-up of one."""
    of_scalar = functools.cache(numpy_type)

    @functools.wraps(numpy_type)
    def found(kind: Any) -> Any:
        scalar = kind.element_ty if type(kind) is tl.block_type else kind
        return of_scalar(scalar) if type(scalar) is tl.dtype else numpy_type(kind)

    return found


def quick_checking(check: Any) -> Any:
    """Find out at once that operands of one type and shape are what an operator takes.

    So are a block and an integer that its type holds.
    """

    @functools.wraps(check)
    def checked(self: Any, lhs: Any, rhs: Any, *rest: Any, **options: Any) -> Any:
        if type(lhs) is tl.tensor and len(rest) <= 2 and options.get("arithmetic_check", True):
            block, kind = lhs.handle.data, lhs.dtype
            if block.size > 1 and kind.name in WORDS:
                if type(rhs) is tl.tensor:
                    if rhs.handle.data.shape == block.shape and rhs.dtype == kind:
                        return lhs, rhs
                elif type(rhs) is int and WORDS[kind.name].min <= rhs <= WORDS[kind.name].max:
                    filled = _filled(rhs, block.shape, block.dtype)
                    return lhs, tl.tensor(interpreter.TensorHandle(filled, kind), lhs.type)
        return check(self, lhs, rhs, *rest, **options)

    return checked


@functools.lru_cache(maxsize=256)
def _filled(value: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> np.ndarray:
    filled = np.full(shape, value, dtype=kind)
    filled.setflags(write=False)
    return filled
