"""Op and use_backend: which kernel is chosen, and what is said when none is."""

from __future__ import annotations

import asyncio
import pydoc
import threading
from collections.abc import Iterator

import pytest
import torch

from pyfed import ops, use_backend
from pyfed.checks import BAD_COUNT, raise_for
from pyfed.errors import ArgumentError, BackendError
from pyfed.op import OPS, Op, forced_backend

ONE = torch.ones(1)


@pytest.fixture(scope="module")
def toy() -> Iterator[Op]:
    """An op that adds a number telling which kernel ran."""
    op = Op(
        "toy_for_tests(Tensor x, int n) -> Tensor",
        fake=lambda x, n: torch.empty_like(x),
        reference=lambda x, n: x + 1,
    )
    yield op
    del OPS[op.name]


@pytest.fixture(autouse=True)
def no_kernels(toy: Op) -> None:
    toy.kernels = {"reference": toy.kernels["reference"]}


def test_an_op_works_with_its_reference_alone(toy: Op) -> None:
    assert float(toy.torch_op(ONE, 0)) == 2
    assert float(torch.ops.pyfed.toy_for_tests(ONE, 0)) == 2


def test_the_first_kernel_that_can_run_is_chosen(toy: Op) -> None:
    toy.kernel("cpu", when=lambda x, n: None if n else "n is 0")(lambda x, n: x + 10)
    toy.kernel("triton")(lambda x, n: x + 100)
    assert float(toy.torch_op(ONE, 1)) == 11
    assert float(toy.torch_op(ONE, 0)) == 2  # an automatic choice falls to the next
    assert toy.explain(ONE, 0).splitlines() == [
        "toy_for_tests: cpu: n is 0",
        "toy_for_tests: reference: runs",
        "toy_for_tests: cuda: toy_for_tests has no cuda kernel",
        "toy_for_tests: triton: could run, but is not chosen",
    ]


def test_a_forced_backend_runs_or_says_why_not(toy: Op) -> None:
    toy.kernel("cpu", when=lambda x, n: None if n else "n is 0")(lambda x, n: x + 10)
    with use_backend("cpu"):
        assert float(toy.torch_op(ONE, 1)) == 11
        with pytest.raises(BackendError, match="'cpu' cannot run: n is 0"):
            toy.torch_op(ONE, 0)
    with use_backend("cuda"), pytest.raises(BackendError, match="has no cuda kernel"):
        toy.torch_op(ONE, 1)
    with use_backend("reference"):
        assert float(toy.torch_op(ONE, 1)) == 2


def test_one_kernel_may_serve_two_backends(toy: Op) -> None:
    @toy.kernel("cpu")
    @toy.kernel("cuda")
    def both(x: torch.Tensor, n: int) -> torch.Tensor:
        return x + 5

    for backend in ("cpu", "cuda"):
        with use_backend(backend):
            assert float(toy.torch_op(ONE, 1)) == 6


def test_use_backend_nests_and_is_undone_by_an_error() -> None:
    assert forced_backend() is None
    with use_backend("reference"):
        with use_backend("cpu"):
            assert forced_backend() == "cpu"
            with use_backend("auto"):
                assert forced_backend() is None
        assert forced_backend() == "reference"
        with pytest.raises(KeyError), use_backend("cpu"):
            raise KeyError
        assert forced_backend() == "reference"
    assert forced_backend() is None


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"'tpu'; it must be one of auto, reference, cpu"):
        use_backend("tpu").__enter__()


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFED_BACKEND", "reference")
    assert forced_backend() == "reference"
    with use_backend("auto"):
        assert forced_backend() is None
    monkeypatch.setenv("PYFED_BACKEND", "fast")
    with pytest.raises(ArgumentError, match="backend is 'fast'"):
        forced_backend()


def test_threads_and_tasks_have_backends_of_their_own() -> None:
    seen: dict[str, object] = {}

    def look() -> None:
        seen["thread"] = forced_backend()

    async def task(name: str) -> None:
        with use_backend(name):
            await asyncio.sleep(0)
            seen[name] = forced_backend()

    async def both() -> None:
        await asyncio.gather(task("cpu"), task("reference"))

    with use_backend("triton"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        asyncio.run(both())
    assert seen == {"thread": None, "cpu": "cpu", "reference": "reference"}


def test_public_functions_keep_their_name_and_docstring() -> None:
    functions = {name: getattr(ops, name) for name in ops.__all__ if name in OPS}
    assert functions
    for name, function in functions.items():
        assert function.__name__ == name == function.op.name
        for part in ("Args:", "Returns:", "Raises:", "Example:"):
            assert part in function.__doc__, f"{name} lacks {part}"


@pytest.fixture(scope="module")
def writer() -> Iterator[Op]:
    """An op that adds n to its argument in place."""
    op = Op(
        "writer_for_tests_(Tensor(a!) x, int n) -> Tensor",
        fake=lambda x, n: x.new_empty(x.shape),
        reference=lambda x, n: x.data.add_(n).clone(),  # .data: as a kernel, past autograd
    )
    yield op
    del OPS[op.name]


def test_an_argument_that_a_kernel_writes_counts_as_changed(writer: Op) -> None:
    """Autograd then refuses to use what it has kept of it; other arguments are not touched."""
    x, y = torch.ones(3), torch.ones(3, requires_grad=True)
    kept = (x * y).sum()
    before = x._version
    writer.torch_op(x, 4)
    assert writer.written == [0]
    assert (x.tolist(), x._version) == ([5.0] * 3, before + 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_an_argument_that_is_not_written_does_not_count_as_changed(toy: Op) -> None:
    before = ONE._version
    toy.torch_op(ONE, 0)
    assert (toy.written, ONE._version) == ([], before)


def test_the_message_for_bad_values_is_the_ops_own() -> None:
    """``describe`` gets the arguments by name; where it finds nothing, the error bit's stands."""
    seen = []

    def refuse(x: torch.Tensor, n: int) -> torch.Tensor:
        raise_for("refuser_for_tests", BAD_COUNT)
        return x

    def describe(names: list[str], args: tuple[object, ...]) -> str | None:
        seen.append(dict(zip(names, args, strict=True)))
        return f"n is {args[1]}" if args[1] else None

    op = Op(
        "refuser_for_tests(Tensor x, int n) -> Tensor",
        fake=refuse,
        reference=refuse,
        describe=describe,
    )
    try:
        with pytest.raises(ArgumentError, match=r"^n is 7$"):
            op.torch_op(ONE, 7)
        with pytest.raises(
            ArgumentError, match="refuser_for_tests: a count or a weight lies outside"
        ):
            op.torch_op(ONE, 0)
    finally:
        del OPS[op.name]
    assert [list(names) for names in seen] == [["x", "n"]] * 2


def test_an_unknown_backend_is_refused_when_it_is_named() -> None:
    """Not only when the context is entered."""
    with pytest.raises(ArgumentError, match="backend is 'bogus'; it must be one of auto"):
        use_backend("bogus")


def test_help_begins_with_the_signature() -> None:
    shown = pydoc.render_doc(ops.mask_select, renderer=pydoc.plaintext)
    wanted = (
        "mask_select(counts, shape, sparsity, group='layer', ties=None, weight=None, score=None"
    )
    assert wanted in shown
    assert "Select, in every group" in shown
