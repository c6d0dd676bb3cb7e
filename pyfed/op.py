"""The one abstraction of pyfed: an operation with a reference and any number of kernels."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Literal, ParamSpec

import torch
from torch.autograd import forward_ad

from pyfed.checks import BadValuesError, describe_bad_values, expect_one_device
from pyfed.errors import ArgumentError, BackendError

P = ParamSpec("P")
Backend = Literal["reference", "cpu", "cuda", "triton"]
BACKENDS: tuple[Backend, ...] = ("reference", "cpu", "cuda", "triton")
ORDER: dict[str, tuple[Backend, ...]] = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "triton", "reference"),
}
OPS: dict[str, Op] = {}


class _Library(torch.library.Library):
    """Refuses forward-mode derivatives, which gradients as PyTorch registers them take for zero."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **how: Any) -> None:
        """Register a kernel; one for autograd looks at its arguments first."""

        def checked(keys: Any, *args: Any) -> Any:
            _expect_no_tangents(op_name, args)
            return fn(keys, *args)

        chosen = checked if dispatch_key == "Autograd" else fn
        super().impl(op_name, chosen, dispatch_key, **how)  # type: ignore[no-untyped-call]


def _expect_no_tangents(op: str, args: tuple[Any, ...]) -> None:
    """Raise where a tensor carries a derivative of forward mode."""
    for value in args:
        if isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            raise ArgumentError(
                f"{op}: an argument has a forward-mode derivative, which the op does not have; "
                "differentiate by backward(), or detach the argument"
            )


_library: torch.library.Library = _Library("pyfed", "DEF")  # type: ignore[no-untyped-call]


def _backend_named(name: object) -> Backend | None:
    for backend in BACKENDS:
        if name == backend:
            return backend
    if name in ("", "auto"):
        return None
    raise ArgumentError(f"backend is {name!r}; it must be one of auto, {', '.join(BACKENDS)}")


_forced: ContextVar[Backend | None] = ContextVar("pyfed_backend")


def forced_backend() -> Backend | None:
    """The backend in force: of the innermost use_backend, else of PYFED_BACKEND, else None."""
    try:
        return _forced.get()
    except LookupError:
        return _backend_named(os.environ.get("PYFED_BACKEND", ""))


def use_backend(name: str) -> AbstractContextManager[None]:
    """Run the ops of this context on one backend, or raise where it cannot run.

    Args:
        name: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``"auto"`` for the
            fastest that can run. The environment variable PYFED_BACKEND sets the default.

    Raises:
        ArgumentError: no such backend.

    Example:
        >>> import torch, pyfed
        >>> one = torch.ones(1, 1, dtype=torch.int32)
        >>> with pyfed.use_backend("reference"):
        ...     pyfed.ops.field_matmul(one, one, pyfed.SOLINAS31)
        tensor([[1]], dtype=torch.int32)
    """
    return _forcing(_backend_named(name))


@contextmanager
def _forcing(backend: Backend | None) -> Iterator[None]:
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


class Kernel:
    """One implementation of an op, with the rule that tells when it can run."""

    def __init__(self, run: Callable[..., Any], when: Callable[..., str | None] | None) -> None:
        self.run = run
        self.when = when or (lambda *args: None)


class Op:
    """An operation ``torch.ops.pyfed.<name>`` with a reference in plain torch, and kernels.

    Args:
        schema: name, arguments and result, as ``torch.library`` writes them.
        fake: gives an empty result of the right shape, dtype and device, for ``torch.compile``.
        reference: plain torch that is obviously right, on every device.
        describe: given the names and values of the arguments, tells which of them hold bad values;
            None when it finds none. Without it, residues and floats are looked at.
    """

    def __init__(
        self,
        schema: str,
        *,
        fake: Callable[..., Any],
        reference: Callable[..., Any],
        describe: Callable[[list[str], tuple[Any, ...]], str | None] | None = None,
    ) -> None:
        self.name = schema.split("(")[0]
        self.describe = describe or functools.partial(describe_bad_values, self.name)
        self.kernels: dict[Backend, Kernel] = {"reference": Kernel(reference, None)}
        _library.define(schema)
        _library.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyfed::{self.name}", fake, lib=_library)
        self.torch_op = getattr(torch.ops.pyfed, self.name).default
        aliases = [argument.alias_info for argument in self.torch_op._schema.arguments]
        self.written = [i for i, info in enumerate(aliases) if info is not None and info.is_write]
        OPS[self.name] = self

    def kernel(
        self, backend: Backend, when: Callable[..., str | None] | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a kernel. ``when(*args)`` gives None, or the reason why it cannot run."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.kernels[backend] = Kernel(run, when)
            return run

        return add

    def differentiable(
        self,
        backward: Callable[..., Any],
        keep: Callable[..., None] | None = None,
    ) -> None:
        """Give the op a gradient, as ``torch.library.register_autograd`` takes it.

        It is a backward one. A derivative of forward mode, as of ``torch.func.jvp``, is refused.

        Args:
            backward: given the context and the gradients of the results, those of the arguments.
            keep: given the context, the arguments and the result, saves what that needs.
        """
        torch.library.register_autograd(
            f"pyfed::{self.name}", backward, setup_context=keep, lib=_library
        )

    def public(self, prepare: Callable[P, tuple[Any, ...]]) -> PublicOp[P]:
        """Make the public function: ``prepare`` checks its arguments and gives the torch op's."""
        return PublicOp(self, prepare)

    def objection(self, backend: Backend, args: tuple[Any, ...]) -> str | None:
        """Why this backend cannot run on these arguments; None when it can."""
        if backend not in self.kernels:
            return f"{self.name} has no {backend} kernel"
        return self.kernels[backend].when(*args)

    def _order(self, args: tuple[Any, ...]) -> tuple[Backend, ...]:
        """The backends to try, in order: the forced one alone, else those of the device."""
        device = expect_one_device(self.name, args)
        forced = forced_backend()
        return (forced,) if forced else ORDER.get(device.type, ("reference",))

    def _run(self, *args: Any) -> Any:
        reason: str | None = None
        for backend in self._order(args):
            reason = self.objection(backend, args)
            if reason is None:
                try:
                    result = self.kernels[backend].run(*args)
                    for place in self.written:  # autograd then sees that it was changed
                        if args[place] is not None:
                            torch.autograd.graph.increment_version(args[place])
                    return result
                except BadValuesError as error:
                    names = [argument.name for argument in self.torch_op._schema.arguments]
                    told = self.describe(names, args)
                    raise ArgumentError(told or str(error)) from None
        # The reference can always run, so only a forced backend comes here.
        raise BackendError(f"{self.name}: backend {backend!r} cannot run: {reason}")

    def explain(self, *args: Any) -> str:
        """Which kernel would run on these arguments of the torch op, and why others would not."""
        lines, chosen = [], False
        order = self._order(args)
        for backend in (*order, *(b for b in BACKENDS if b not in order)):
            reason = self.objection(backend, args)
            if reason is None and not chosen and backend in order:
                chosen, reason = True, "runs"
            lines.append(f"{self.name}: {backend}: {reason or 'could run, but is not chosen'}")
        return "\n".join(lines)


class PublicOp(Generic[P]):
    """The public face of an op: checks its arguments, then calls the torch op.

    Calling it gives the result: the first, when the op gives several, of which the others are for
    its gradient; its first argument, when it only writes. ``explain``, called with the same
    arguments, tells which kernel would run, and why the others would not.
    """

    def __init__(self, op: Op, prepare: Callable[P, tuple[Any, ...]]) -> None:
        self.op = op
        self.prepare = prepare
        functools.update_wrapper(self, prepare)
        signature = inspect.signature(prepare)
        self.__signature__ = signature.replace(return_annotation="torch.Tensor")
        # help() shows no signature of an object, so the docstring begins with one.
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        short = inspect.Signature(plain)
        self.__doc__ = f"{prepare.__name__}{short}\n\n{inspect.cleandoc(prepare.__doc__ or '')}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        """Check the arguments and run the op."""
        given = self.prepare(*args, **kwargs)
        result = self.op.torch_op(*given)
        if result is None:
            result = given[0]
        found: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return found

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Which kernel would run on these arguments, and why the others would not."""
        return self.op.explain(*self.prepare(*args, **kwargs))
