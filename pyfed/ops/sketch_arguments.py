"""The arguments of sketches: kinds of matrix, the public seed, noise, and where clients begin."""

from __future__ import annotations

from typing import Any

import torch

from pyfed.checks import INDICES, STREAMS, expect_device, expect_int, expect_key, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.ops.discrete import LARGEST_SIGMA

RADEMACHER, GAUSSIAN, COUNTSKETCH = 1, 2, 3
KINDS = {"rademacher": RADEMACHER, "gaussian": GAUSSIAN, "countsketch": COUNTSKETCH}
LARGEST_ROWS = 2**31
SMALLEST_NOISE, LARGEST_NOISE = 2.0**-100, 2.0**100
_POWERS = frozenset(2.0**exponent for exponent in range(-100, 101))


def sketch_seed(key: Key) -> int:
    """The public seed of a key's sketches: who has it can make G, and learns nothing of the key.

    It is the first 8 bytes, little-endian, of ``key.derive("sketch")``. As an int that a hash gives
    it cannot be part of a compiled graph: call it before ``torch.compile(..., fullgraph=True)``,
    where :func:`sketch` takes the seed, or the key itself.

    Args:
        key: the secret key, which also makes the noise.

    Returns:
        A number in [0, 2^64), which :func:`sketch` takes in place of the key.

    Raises:
        DtypeError: ``key`` is not a Key.

    Example:
        >>> import pyfed
        >>> pyfed.ops.sketch_seed(pyfed.Key(bytes(range(32))))
        4936491776470535570
    """
    expect_key("sketch_seed", key)
    return int.from_bytes(key.derive("sketch").reveal()[:8], "little")


@torch.library.custom_op("pyfed::sketch_seed", mutates_args=())
def _seed_words(key: torch.Tensor) -> torch.Tensor:
    """The public seed of a key's words, as an op, since the compiler traces no hash: int32 (2,)."""
    derived = Key(key.numpy().tobytes()).derive("sketch")
    return derived.words()[:2].clone()


@_seed_words.register_fake
def _(key: torch.Tensor) -> torch.Tensor:
    return key.new_empty(2)


def expect_kind(op: str, kind: object) -> int:
    """The number of a kind of matrix; raises where there is none of that name."""
    if not isinstance(kind, str):
        raise DtypeError(f"{op}: kind is {type(kind).__name__}; it must be a str")
    if kind not in KINDS:
        raise ArgumentError(f"{op}: kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    return KINDS[kind]


def expect_flag(op: str, name: str, value: object) -> None:
    """Raise unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a bool")


def sketch_words(
    op: str, key: object, public: bool, noisy: bool, device: torch.device | str
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The words of the public seed, and those of the key where they are wanted.

    Args:
        op: what messages name.
        key: a Key; for a public matrix without noise also an int, the seed.
        public: whether G comes from the seed.
        noisy: whether noise is wanted too.
        device: where the words are to be.
    """
    expect_flag(op, "public", public)
    where = expect_device(op, device)
    if isinstance(key, int) and not isinstance(key, bool):
        if not public:
            raise ArgumentError(f"{op}: key is an int; a secret matrix needs a pyfed.Key")
        if noisy:
            raise ArgumentError(
                f"{op}: key is an int, which is the public seed; noise needs a pyfed.Key"
            )
        if not 0 <= key < 2**64:
            raise ArgumentError(f"{op}: key is {key}; as a seed it must be in [0, 2^64)")
        halves = [(half ^ 2**31) - 2**31 for half in (key & 0xFFFFFFFF, key >> 32)]
        return torch.tensor(halves, dtype=torch.int32, device=where), None
    expect_key(op, key)
    assert isinstance(key, Key)
    seed = _seed_words(key.words()).to(where) if public else None
    return seed, key.words(where) if noisy or not public else None


def expect_noise(op: str, noise_std: object, noise: object, grid: object) -> tuple[float, float]:
    """The standard deviation, and the grid of discrete noise, which is 0 for continuous."""
    if not isinstance(noise, str):
        raise DtypeError(f"{op}: noise is {type(noise).__name__}; it must be a str")
    if noise not in ("gaussian", "discrete"):
        raise ArgumentError(f"{op}: noise is {noise!r}; it must be 'gaussian' or 'discrete'")
    if isinstance(noise_std, bool) or not isinstance(noise_std, int | float):
        raise DtypeError(f"{op}: noise_std is {type(noise_std).__name__}; it must be a float")
    if noise_std != 0 and not SMALLEST_NOISE <= noise_std <= LARGEST_NOISE:
        raise ArgumentError(f"{op}: noise_std is {noise_std}; it must be 0 or in [2^-100, 2^100]")
    if noise == "gaussian":
        if grid is not None:
            raise ArgumentError(f"{op}: grid is {grid}; noise 'gaussian' has none")
        return float(noise_std), 0.0
    if isinstance(grid, bool) or not isinstance(grid, int | float):
        kind = type(grid).__name__
        raise DtypeError(f"{op}: grid is {kind}; discrete noise needs one, a power of two")
    if grid not in _POWERS:
        raise ArgumentError(f"{op}: grid is {grid}; it must be a power of two in [2^-100, 2^100]")
    if not 0 < noise_std <= grid * LARGEST_SIGMA:
        raise ArgumentError(
            f"{op}: noise_std is {noise_std}; discrete noise on a grid of {grid} needs one above 0 "
            f"and at most {grid * LARGEST_SIGMA}"
        )
    return float(noise_std), float(grid)


def expect_sizes(
    op: str, x: torch.Tensor, rows: object, stream: int, transpose: bool, starts: object
) -> None:
    """Raise unless x, the rows of the result, the clients and their streams fit."""
    clients = 1 if starts is None else _clients(op, starts, x)
    grouped = transpose and starts is not None
    if x.dim() != 2 + grouped:
        height = "rows of G" if transpose else "samples"
        wanted = f"({'clients, ' if grouped else ''}{height}, features)"
        raise ArgumentError(f"{op}: x has shape {tuple(x.shape)}; it must be {wanted}")
    if grouped and len(x) != clients:
        raise ArgumentError(f"{op}: x has {len(x)} clients; starts has {clients}")
    if transpose:
        expect_int(op, "rows", rows, 0, INDICES + 1)
        expect_int(op, "x.shape[-2]", x.shape[-2], 1, LARGEST_ROWS + 1)
    else:
        expect_int(op, "rows", rows, 1, LARGEST_ROWS + 1)
    expect_int(op, "stream", stream, 0, STREAMS)
    if stream + clients > STREAMS:
        raise ArgumentError(
            f"{op}: stream is {stream}; with {clients} clients it must be at most "
            f"{STREAMS - clients}"
        )


def _clients(op: str, starts: object, like: torch.Tensor) -> int:
    """How many clients the starts name, whose values are not looked at here."""
    expect_tensor(op, "starts", starts, torch.int64, 1)
    assert isinstance(starts, torch.Tensor)
    if len(starts) < 2:
        raise ArgumentError(
            f"{op}: starts has {len(starts)} elements; it must have one for each client and the end"
        )
    if starts.device != like.device:
        raise ArgumentError(f"{op}: starts is on {starts.device}; x is on {like.device}")
    return len(starts) - 1


def describe_values(name: str, x: torch.Tensor) -> str | None:
    """What is said of values that are not finite; None when all are."""
    bad = torch.nonzero(~torch.isfinite(x))
    if not len(bad):
        return None
    first = tuple(bad[0].tolist())
    return (
        f"sketch: in {name} {len(bad)} of {x.numel()} elements are NaN or infinite; the first is "
        f"{x[first].item()} at index {first}"
    )


def describe(names: list[str], args: tuple[Any, ...]) -> str | None:
    """What an op says of values of x that are not finite, and of starts that do not fit."""
    x, starts = (args[names.index(name)] for name in ("x", "starts"))
    samples = args[names.index("rows")] if args[names.index("transpose")] else len(x)
    return describe_values("x", x) or (
        f"sketch: starts is {starts.tolist()}; it must be ascending from 0 to {samples}, the "
        "number of samples"
    )
