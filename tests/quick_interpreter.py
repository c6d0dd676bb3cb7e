"""Triton's interpreter without the work that it repeats in every call of a device function."""

from __future__ import annotations

import inspect
from typing import Any

from triton.runtime import interpreter


def patch_language_once() -> None:
    """Let device functions find ``triton.language`` as their kernel's launch has patched it.

    The interpreter replaces the members of ``triton.language`` by its own when a kernel is
    launched, and looks through all of them again, in vain, in each call of a ``@triton.jit``
    function: a fifth of all time in kernels that are made of small functions.
    """
    patch = interpreter._patch_lang
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

    interpreter._patch_lang = patch_once
