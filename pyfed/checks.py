"""Checks of arguments, in one style of message: what it is, what it got, what it must be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from pyfed.errors import ArgumentError, DtypeError, PyfedError
from pyfed.fields import Field, WideField, plane_moduli
from pyfed.keys import Key

STREAMS = 2**32  # a stream is a 32-bit nonce word
INDICES = 2**36  # 2^32 blocks of 16 words

# Bits of the error word that kernels report.
BAD_RESIDUE, NOT_FINITE, ALL_REJECTED = 1, 2, 4
BAD_PADDING, TOO_MANY, BAD_COUNT, BAD_PLACE = 8, 16, 32, 64
_MEANING = {
    BAD_RESIDUE: "a residue lies outside [0, modulus)",
    NOT_FINITE: "a value is NaN or infinite",
    ALL_REJECTED: "16 candidates in a row for one residue were rejected",
    BAD_PADDING: "a bit behind the last element of a packed mask is set",
    TOO_MANY: "a total does not fit in the bit planes",
    BAD_COUNT: "a count or a weight lies outside its range",
    BAD_PLACE: "the indices are not ascending and in range, or do not fit the values",
}


class BadValuesError(ArgumentError):
    """A kernel on the CPU met bad values; the op then says which argument holds them."""


_SCALES = frozenset(2.0**exponent for exponent in range(-100, 101))
_words: dict[int, torch.Tensor] = {}


def expect_int(op: str, name: str, value: object, low: int, high: int) -> None:
    """Raise unless ``value`` is an integer in [low, high)."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be an int")
    if not low <= value < high:
        raise ArgumentError(f"{op}: {name} is {value}; it must be in [{low}, {high})")


def expect_numbers(op: str, name: str, values: object, end: int) -> list[int]:
    """``values``, in order, as a list; raises unless they are different integers in [0, end)."""
    if hasattr(values, "tolist"):  # a tensor or an array
        values = values.tolist()
    if not isinstance(values, Sequence):  # a set has no order that rows could follow
        kind = type(values).__name__
        raise DtypeError(f"{op}: {name} is {kind}; it must be a list in the order of rows")
    numbers = list(values)
    for number in numbers:
        expect_int(op, f"one of {name}", number, 0, end)
    if len(set(numbers)) != len(numbers):
        again = sorted({n for n in numbers if numbers.count(n) > 1})
        raise ArgumentError(f"{op}: {name} {again} are named more than once")
    return numbers


def expect_bool(op: str, name: str, value: object) -> None:
    """Raise unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a bool")


def expect_range(op: str, start: int, count: int) -> None:
    """Raise unless the generator can serve ``count`` indices from ``start`` on."""
    expect_int(op, "start", start, 0, INDICES + 1)
    if start + count > INDICES:
        raise ArgumentError(
            f"{op}: start + count is {start + count}; one stream has 2^36 indices: use another "
            "stream or key for the rest"
        )


def expect_tensor(
    op: str, name: str, value: object, dtypes: torch.dtype | tuple[torch.dtype, ...], dim: int = -1
) -> None:
    """Raise unless ``value`` is a strided tensor of such a dtype and, if given, dimension."""
    if not isinstance(value, torch.Tensor):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a torch.Tensor")
    allowed = dtypes if isinstance(dtypes, tuple) else (dtypes,)
    if value.dtype not in allowed:
        wanted = " or ".join(str(dtype) for dtype in allowed)
        raise DtypeError(f"{op}: {name} has dtype {value.dtype}; it must be {wanted}")
    if value.layout != torch.strided:
        raise ArgumentError(f"{op}: {name} has layout {value.layout}; it must be dense")
    if dim >= 0 and value.dim() != dim:
        raise ArgumentError(
            f"{op}: {name} has {value.dim()} dimensions, shape {tuple(value.shape)}; it must have "
            f"{dim}"
        )


def expect_field(op: str, field: object, wide: bool = False) -> None:
    """Raise unless ``field`` is a Field; a WideField is one only where ``wide`` says so."""
    if not isinstance(field, Field):
        raise DtypeError(f"{op}: field is {type(field).__name__}; it must be a pyfed.Field")
    if isinstance(field, WideField) and not wide:
        raise ArgumentError(
            f"{op}: field is {field.name}, which has two planes; it must be one prime field, such "
            "as SOLINAS31"
        )


def expect_residues(op: str, name: str, value: object, field: Field, dim: int = -1) -> None:
    """Raise unless ``value`` is an int32 tensor of a plane's dimension, with planes if any.

    Args:
        op: what the message names.
        name: of the argument.
        value: the tensor.
        field: of its elements; over a WideField the first axis counts the two planes.
        dim: dimensions of a plane; -1: any.
    """
    wide = bool(field.lead)
    expect_tensor(op, name, value, torch.int32, -1 if wide else dim)
    assert isinstance(value, torch.Tensor)
    if wide and dim >= 0 and value.dim() != dim + 1:
        raise ArgumentError(
            f"{op}: {name} has {value.dim()} dimensions, shape {tuple(value.shape)}; it must have "
            f"{dim + 1}, the first for the 2 planes of {field.name}"
        )
    if wide and (value.dim() == 0 or value.shape[0] != 2):
        raise ArgumentError(
            f"{op}: {name} has shape {tuple(value.shape)}; over {field.name} its first axis must "
            "hold the 2 planes"
        )


def expect_key(op: str, key: object) -> None:
    """Raise unless ``key`` is a Key."""
    if not isinstance(key, Key):
        raise DtypeError(f"{op}: key is {type(key).__name__}; it must be a pyfed.Key")


def expect_scale(op: str, scale: object) -> None:
    """Raise unless ``scale`` is a power of two from 2^-100 to 2^100, so that scaling is exact."""
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise DtypeError(f"{op}: scale is {type(scale).__name__}; it must be a float")
    if scale not in _SCALES:  # a look-up is what torch.compile can trace
        raise ArgumentError(
            f"{op}: scale is {scale}; it must be a power of two from 2^-100 to 2^100"
        )


def expect_device(op: str, device: object) -> torch.device:
    """``device`` as a torch.device; raises unless it names one that is here."""
    if not isinstance(device, str | torch.device):
        kind = type(device).__name__
        raise DtypeError(f"{op}: device is {kind}; it must be a str or a torch.device")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ArgumentError(f"{op}: device is {device!r}; torch knows no such device") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"{op}: device is {str(device)!r}; torch finds no CUDA device here")
    return found


def expect_one_device(op: str, tensors: Iterable[object]) -> torch.device:
    """The device that all the tensors share; raises when they do not.

    Of a list that is among them the first alone is looked at: an op that takes thousands of tensors
    looks at them once, where it takes their addresses.
    """
    every = [given[0] if isinstance(given, list) and given else given for given in tensors]
    devices = {t.device for t in every if isinstance(t, torch.Tensor)}
    if len(devices) != 1:
        found = ", ".join(sorted(str(device) for device in devices)) or "none"
        raise ArgumentError(f"{op}: the tensors are on {found}; they must be on one device")
    return devices.pop()


def raise_for(op: str, word: int) -> None:
    """Raise what the bits of an error word say; nothing when it is 0."""
    reasons = [text for bit, text in _MEANING.items() if word & bit]
    if reasons:
        error = BadValuesError if word & ~ALL_REJECTED else PyfedError
        raise error(f"{op}: " + "; ".join(reasons))


def error_word(device: torch.device) -> torch.Tensor:
    """The sticky error word of a CUDA device: int32 tensor of shape (1,)."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _words:
        _words[index] = torch.zeros(1, dtype=torch.int32, device=torch.device("cuda", index))
    return _words[index]


def outside(values: torch.Tensor, moduli: tuple[int, ...]) -> torch.Tensor:
    """Which numbers are no residues; of two moduli each is for a plane, the leading axis."""
    if len(moduli) == 1:
        return (values < 0) | (values >= moduli[0])
    planes = [outside(plane, (prime,)) for plane, prime in zip(values, moduli, strict=True)]
    return torch.stack(planes)


def describe_bad_values(op: str, names: list[str], args: tuple[object, ...]) -> str | None:
    """Which tensor holds a NaN, an infinity or a number outside [0, modulus); None: no tensor.

    Args:
        op: what the message names.
        names: the names of the op's arguments.
        args: the arguments; ``modulus``, a field's code, is among them.
    """
    code = args[names.index("modulus")]
    assert isinstance(code, int)
    moduli = plane_moduli(code)
    for name, value in zip(names, args, strict=True):
        if not isinstance(value, torch.Tensor) or name == "key":
            continue
        is_float = value.is_floating_point()
        bad = ~torch.isfinite(value) if is_float else outside(value, moduli)
        if bad.any():
            first = torch.nonzero(bad)[0].tolist()
            wrong = "NaN or infinite"
            if not is_float:
                wrong = f"outside [0, {moduli[first[0] if len(moduli) > 1 else 0]})"
            return (
                f"{op}: in {name} {int(bad.sum())} of {value.numel()} elements are {wrong}; the "
                f"first is {value[tuple(first)].item()} at index {tuple(first)}"
            )
    return None


@contextlib.contextmanager
def naming(op: str, name: str, values: torch.Tensor, modulus: int) -> Iterator[None]:
    """Where a part of ``values`` is refused for a bad element, tell its place in the whole.

    Args:
        op: what the message names.
        name: of the argument.
        values: the whole, of residues.
        modulus: the field's code.
    """
    try:
        yield
    except ArgumentError:
        text = describe_bad_values(op, [name, "modulus"], (values, modulus))
        if text is None:
            raise
        raise ArgumentError(text) from None


def report(op: str, bad: torch.Tensor, bit: int) -> None:
    """Tell of bad elements from plain torch: raise on CPU, set the sticky bit on CUDA.

    Args:
        op: what the message names.
        bad: bool tensor of any shape, True where an element is bad.
        bit: the error bit that it means.
    """
    if bad.device.type == "cuda":
        error_word(bad.device).bitwise_or_(bad.any().to(torch.int32) * bit)
    elif bool(bad.any()):
        raise_for(op, bit)


def check() -> None:
    """Raise what CUDA kernels have noticed since the last call, and forget it.

    Kernels on CUDA do not wait for their own value checks (a residue outside the field, a NaN);
    they set a word on the device. This reads it, which waits for the device. On a machine without
    CUDA it does nothing: kernels on the CPU raise at once.

    Raises:
        ArgumentError: some input of an earlier op was invalid, so its output is meaningless.
    """
    for index, word in _words.items():
        seen = int(word.item())
        if seen:
            word.zero_()
            raise_for(f"a CUDA kernel on cuda:{index}", seen)
