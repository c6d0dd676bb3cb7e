"""Random projections G·x whose matrix is made on the fly and never stored, with noise."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from pyfed import native
from pyfed.checks import NOT_FINITE, expect_tensor, report
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.clients import check_starts
from pyfed.ops.discrete import discrete_gaussian_op, snap_
from pyfed.ops.sketch_arguments import (
    describe,
    describe_values,
    expect_flag,
    expect_kind,
    expect_noise,
    expect_sizes,
    sketch_words,
)
from pyfed.ops.sketch_matrix import Matrix, noise_reference


def _shape(
    x: torch.Tensor, starts: torch.Tensor | None, rows: int, transpose: bool
) -> tuple[int, ...]:
    """The result's shape; ``rows`` are those of a sketch, or all samples of a transposed one."""
    if transpose or starts is None:
        return rows, x.shape[-1]
    return len(starts) - 1, rows, x.shape[-1]


def _starts(starts: torch.Tensor | None, samples: int, like: torch.Tensor) -> torch.Tensor:
    """Where clients' samples begin: as given, which is checked, or those of a single client."""
    if starts is None:
        return torch.arange(2, device=like.device) * samples
    check_starts("sketch", starts, samples)
    return starts


def _finished(
    out: torch.Tensor, key: torch.Tensor | None, noise_std: float, grid: float, stream: int
) -> torch.Tensor:
    """With a grid the multiples of it nearest to ``out``, plus discrete Gaussian ones.

    The sums, which noise is to hide, and the noise are wiped wherever they were.
    """
    if grid == 0 or out.numel() == 0:
        return out
    for number, client in enumerate(out.view(-1, *out.shape[-2:])):
        noise = discrete_gaussian_op.torch_op(
            key, noise_std / grid, client.numel(), stream + number, 0
        )
        wide = snap_(client.to(torch.float64), noise.reshape(client.shape), grid)
        client.copy_(wide)
        wide.zero_()
    return out


def _sketch_reference(
    x: torch.Tensor,
    seed: torch.Tensor | None,
    key: torch.Tensor | None,
    starts: torch.Tensor | None,
    rows: int,
    kind: int,
    stream: int,
    noise_std: float,
    grid: float,
    transpose: bool,
) -> torch.Tensor:
    report("sketch", ~torch.isfinite(x), NOT_FINITE)
    samples, height = (rows, x.shape[-2]) if transpose else (len(x), rows)
    edges = _starts(starts, samples, x).tolist()
    wide = x.to(torch.float64)
    found = []
    for client, (first, last) in enumerate(itertools.pairwise(edges)):
        matrix = Matrix(seed, key, kind, stream + client)
        g = matrix.block((0, height), (0, last - first), height).to(torch.float64)
        if transpose:
            found.append(g.T @ (wide if starts is None else wide[client]))
            continue
        product = (g @ wide[first:last]).to(torch.float32)
        if noise_std > 0 and grid == 0:
            assert key is not None
            std = torch.tensor(noise_std, dtype=torch.float32, device=x.device)
            product += std * noise_reference(key, height, x.shape[1], stream + client)
        found.append(product)
    if transpose:
        return torch.cat(found).to(torch.float32)
    out = found[0] if starts is None else torch.stack(found)
    return _finished(out, key, noise_std, grid, stream)


def _sketch_fake(
    x: torch.Tensor,
    seed: torch.Tensor | None,
    key: torch.Tensor | None,
    starts: torch.Tensor | None,
    rows: int,
    kind: int,
    stream: int,
    noise_std: float,
    grid: float,
    transpose: bool,
) -> torch.Tensor:
    return x.new_empty(_shape(x, starts, rows, transpose))


sketch_op = Op(
    "sketch(Tensor x, Tensor? seed, Tensor? key, Tensor? starts, SymInt rows, int kind, int stream,"
    " float noise_std, float grid, bool transpose) -> Tensor",
    fake=_sketch_fake,
    reference=_sketch_reference,
    describe=describe,
)


@sketch_op.kernel("cpu", lambda x, *rest: native.cpu_reason(x))
def _sketch_cpu(
    x: torch.Tensor,
    seed: torch.Tensor | None,
    key: torch.Tensor | None,
    starts: torch.Tensor | None,
    rows: int,
    kind: int,
    stream: int,
    noise_std: float,
    grid: float,
    transpose: bool,
) -> torch.Tensor:
    out = torch.empty(_shape(x, starts, rows, transpose), dtype=torch.float32)
    samples, height = (rows, x.shape[-2]) if transpose else (len(x), rows)
    edges = _starts(starts, samples, x).contiguous()
    if x.shape[-1] > 0:
        clients, secret = len(edges) - 1, seed is None
        size = native._C.sketch_workspace(
            *(clients, samples, x.shape[-1], height, kind, secret, transpose),
            torch.get_num_threads(),
        )
        dense = [None if t is None else t.contiguous() for t in (seed, key)]
        native.run(
            *("sketch", out.device, x.contiguous(), edges, clients, samples, x.shape[-1], height),
            *(kind, *dense, noise_std if grid == 0 else 0.0, stream, transpose, out),
            torch.empty(size, dtype=torch.float32),
        )
    return _finished(out, key, noise_std, grid, stream)


@sketch_op.kernel("triton", lambda x, *rest: native.triton_reason(x))
def _sketch_triton(
    x: torch.Tensor,
    seed: torch.Tensor | None,
    key: torch.Tensor | None,
    starts: torch.Tensor | None,
    rows: int,
    kind: int,
    stream: int,
    noise_std: float,
    grid: float,
    transpose: bool,
) -> Any:
    from pyfed.triton_kernels import sketch as kernels

    shape = _shape(x, starts, rows, transpose)
    samples, height = (rows, x.shape[-2]) if transpose else (len(x), rows)
    edges = _starts(starts, samples, x)
    if x.shape[-1] == 0:
        return torch.empty(shape, dtype=torch.float32, device=x.device)
    dense = (None if t is None else t.contiguous() for t in (x, seed, key, edges))
    with native.TritonReport("sketch", x.device) as word:
        out = kernels.sketch(
            *dense, samples, height, kind, stream, noise_std if grid == 0 else 0.0, transpose, word
        )
    return _finished(out.view(shape), key, noise_std, grid, stream)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, seed, key, starts, _, kind, stream, _, _, transpose = inputs
    ctx.save_for_backward(seed, key if seed is None else None, starts)
    ctx.height = x.shape[-2]
    ctx.settings = kind, stream, transpose


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """The transposed matrix times the gradient, which no noise touches."""
    kind, stream, transpose = ctx.settings
    try:
        dx = sketch_op.torch_op(
            *(grad, *ctx.saved_tensors, ctx.height, kind, stream, 0.0, 0.0, not transpose)
        )
    except ArgumentError as error:  # which knows the gradient as x
        told = describe_values("the gradient of the result", grad)
        raise ArgumentError(told or str(error)) from None
    return (dx, *[None] * 9)


sketch_op.differentiable(_backward, _keep)


@sketch_op.public
def sketch(
    x: torch.Tensor,
    rows: int,
    key: Key | int,
    kind: str = "rademacher",
    noise_std: float = 0.0,
    stream: int = 0,
    public: bool = True,
    *,
    noise: str = "gaussian",
    grid: float | None = None,
    transpose: bool = False,
    starts: torch.Tensor | None = None,
) -> tuple[Any, ...]:
    """Multiply by a random matrix that is never stored: G x + noise, or Gᵀ x.

    G (rows, samples) has E[GᵀG] = rows · I, whatever its kind: independent signs; independent
    standard normals; or, for a count sketch, in each column one entry ±√rows at a uniform row. An
    entry depends on the key, the stream, its row and its column alone, and is the same number on
    every device. The noise is independent of it, and never public: ChaCha20 makes it from the key.

    The sums are float32, added in any order: each is off by at most γ Σ_j abs(G[r, j] x[j, f]) with
    γ = n u / (1 - n u), n = samples + 2, u = 2^-24, and noise of standard deviation s by 2 u more
    of what it is; and 2^-133 for each abs(G[r, j]) more, as numbers below 2^-110 lose bits on
    tensor cores. It is differentiable in ``x``, backward; the gradient is the transposed sketch.

    Args:
        x: float32 (samples, features); with ``transpose`` (rows of G, features), and with
            ``starts`` too (clients, rows of G, features).
        rows: of G, from 1 to 2^31; with ``transpose`` the number of samples, which is at most 2^36.
        key: the secret key. For a public G without noise also an int in [0, 2^64): the public
            seed, which :func:`sketch_seed` gives.
        kind: ``"rademacher"``, ``"gaussian"`` or ``"countsketch"``.
        noise_std: the standard deviation of the noise added to each element; 0, or from 2^-100 to
            2^100. Only 0 with ``transpose``.
        stream: which of the key's 2^32 matrices, and noises.
        public: whether G comes from the public seed (by Philox) or from the secret key itself (by
            ChaCha20), so that nobody without it knows G.
        noise: ``"gaussian"``, in float32; or ``"discrete"``, where the result is
            grid · (round(G x / grid) + D), D :func:`discrete_gaussian` of parameter
            noise_std / grid, and G x the float32 sum, with its error.
        grid: of discrete noise, a power of two.
        transpose: multiply by Gᵀ.
        starts: int64 (clients + 1,), ascending from 0 to the number of samples: x holds the samples
            of many clients, one after another. Client i's matrix is that of stream + i, its columns
            counted from its own first sample.

    Returns:
        float32 (rows, features), with ``starts`` (clients, rows, features); transposed (samples,
        features).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, shapes do not fit, noise is asked with a mere
            seed, or ``x`` holds NaN or infinity or ``starts`` does not ascend to the number of
            samples (on CUDA these are told of by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> key = pyfed.Key(bytes(range(32)))
        >>> pyfed.ops.sketch(torch.ones(100, 2), 3, key)
        tensor([[26., 26.],
                [ 6.,  6.],
                [ 4.,  4.]])

    Source: Dhakal et al., "Coded federated learning" (arXiv 2002.09574), section III, for sketches
    of a client's samples; Clarkson and Woodruff, "Low rank approximation and regression in input
    sparsity time", STOC 2013, for count sketches, here times √rows.
    """
    op = "sketch"
    expect_tensor(op, "x", x, torch.float32)
    number = expect_kind(op, kind)
    expect_flag(op, "transpose", transpose)
    std, step = expect_noise(op, noise_std, noise, grid)
    expect_sizes(op, x, rows, stream, transpose, starts)
    if transpose and std > 0:
        raise ArgumentError(f"{op}: noise_std is {std}; a transposed sketch has no noise")
    if step > 0 and x.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            f"{op}: x requires grad, and noise 'discrete' rounds, which has no useful gradient; "
            "pass x.detach()"
        )
    seed, secret = sketch_words(op, key, public, std > 0, x.device)
    return x, seed, secret, starts, rows, number, stream, std, step, transpose
