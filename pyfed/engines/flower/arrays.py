"""Models as Flower's ArrayRecords, bfloat16 among them, and as one vector of floats."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

from pyfed.errors import ArgumentError, DtypeError

FLOATS = ("float16", "bfloat16", "float32", "float64")

BFLOAT16 = "pyfed.bfloat16"
"""Serialisation of bfloat16, which numpy has no type for: its 16-bit words, little-endian."""


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Tensors as an ArrayRecord; bfloat16, which Flower refuses, goes by a view of its bits.

    Args:
        tensors: name → tensor of any dtype and device, such as a ``state_dict``.

    Raises:
        DtypeError: a value is no tensor.

    Example:
        >>> import torch
        >>> from pyfed.engines.flower import to_arrays, to_tensors
        >>> record = to_arrays({"w": torch.tensor([1.0, -2.5], dtype=torch.bfloat16)})
        >>> to_tensors(record)
        {'w': tensor([ 1.0000, -2.5000], dtype=torch.bfloat16)}
    """
    return ArrayRecord({name: _array(name, tensor) for name, tensor in tensors.items()})


def to_tensors(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """The tensors of an ArrayRecord that :func:`to_arrays`, or Flower itself, has made.

    Args:
        record: arrays of numpy's serialisation, or of the one for bfloat16 here.

    Returns:
        name → tensor on the CPU, in memory of its own.

    Raises:
        DtypeError: an array has another serialisation.
        ArgumentError: the bytes of an array are not what it tells.
    """
    return {name: _tensor(name, array) for name, array in record.items()}


def count_floats(record: Mapping[str, Array]) -> int:
    """The floats in a model: what ``length`` of a protocol must be."""
    return sum(_size(array) for _, array in _floats(record))


def flat_floats(
    record: Mapping[str, Array],
    like: Mapping[str, Array] | None = None,
    minus: bool = False,
) -> torch.Tensor:
    """The floats of a model in one vector, float32 (length,).

    Args:
        record: the model.
        like: takes only the floats that this model has, in its order.
        minus: whether the floats of ``like`` are subtracted.

    Raises:
        ArgumentError: ``record`` lacks an array of ``like``, or has it in another shape.
    """
    like = record if like is None else like
    flat = np.empty(count_floats(like), dtype=np.float32)
    at = 0
    for name, wanted in _floats(like):
        array = record.get(name)
        if array is None or array.shape != wanted.shape or array.dtype not in FLOATS:
            found = "is missing" if array is None else f"is {array.dtype} {tuple(array.shape)}"
            raise ArgumentError(
                f"the array {name!r} {found}; it must be floats of shape {tuple(wanted.shape)}, as "
                "in the model that the server sent"
            )
        piece = flat[at : at + _size(wanted)]
        if minus and "float64" in (array.dtype, wanted.dtype):
            piece[:] = (_tensor(name, array) - _tensor(name, wanted)).reshape(-1).numpy()
        elif minus:
            np.subtract(_values(name, array), _values(name, wanted), out=piece)
        else:
            piece[:] = _values(name, array)
        at += len(piece)
    return torch.from_numpy(flat)


def flat_votes(
    record: ArrayRecord, names: Iterable[str], like: Mapping[str, Array]
) -> torch.Tensor:
    """Masks behind one another, bool (length,).

    Args:
        record: a bool array for each name, True for a vote.
        names: of the arrays that are voted on, in order.
        like: the model, which has them in the same shapes.

    Raises:
        ArgumentError: a mask is missing, or has another dtype or shape.
    """
    pieces = []
    for name in names:
        mask, wanted = record.get(name), like.get(name)
        if mask is None or wanted is None or (mask.dtype, mask.shape) != ("bool", wanted.shape):
            found = "missing" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ArgumentError(
                f"the mask {name!r} is {found}; it must be a bool array in the shape of the weight"
            )
        pieces.append(_tensor(name, mask).reshape(-1))
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.bool)


def with_floats(record: ArrayRecord, flat: torch.Tensor) -> ArrayRecord:
    """The same model with other floats, from one vector; what is no float stays as it is."""
    arrays = dict(record.items())
    pieces = flat.split([_size(array) for _, array in _floats(record)])
    for (name, array), piece in zip(_floats(record), pieces, strict=True):
        tensor = piece.to(getattr(torch, array.dtype)).reshape(tuple(array.shape))
        arrays[name] = _array(name, tensor)
    return ArrayRecord(arrays)


def _floats(record: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    return ((name, array) for name, array in record.items() if array.dtype in FLOATS)


def _size(array: Array) -> int:
    if any(side < 0 for side in array.shape):
        raise ArgumentError(f"an array tells the shape {tuple(array.shape)}")
    return math.prod(array.shape)


def _array(name: str, tensor: torch.Tensor) -> Array:
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise DtypeError(f"to_arrays: {name!r} is {kind}; it must be a torch.Tensor")
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return Array(tensor.numpy())
    words = tensor.view(torch.int16).numpy().tobytes()
    return Array(dtype="bfloat16", shape=tuple(tensor.shape), stype=BFLOAT16, data=words)


def _tensor(name: str, array: Array) -> torch.Tensor:
    if array.stype not in (BFLOAT16, "numpy.ndarray"):
        raise DtypeError(
            f"the array {name!r} has the serialisation {array.stype!r}; it must be numpy's, or "
            "what to_arrays makes of bfloat16"
        )
    try:  # what a stranger sent may be anything
        if array.stype == BFLOAT16:
            words = torch.from_numpy(np.frombuffer(array.data, dtype="<i2").astype(np.int16))
            return words.view(torch.bfloat16).reshape(tuple(array.shape))
        values = array.numpy()
        if (str(values.dtype), values.shape) != (array.dtype, tuple(array.shape)):
            raise ValueError(f"it holds {values.dtype} of shape {values.shape}")
        return torch.from_numpy(values)
    except Exception as error:
        raise ArgumentError(
            f"the array {name!r} is no {array.dtype} of shape {tuple(array.shape)}: {error}"
        ) from error


def _values(name: str, array: Array) -> np.ndarray:
    """The floats of an array, float32 (size,), in place where they are float32 already."""
    if array.stype == "numpy.ndarray" and array.dtype == "float32":
        values = _in_place(array)
        if values is not None:
            return values
    return _tensor(name, array).reshape(-1).to(torch.float32).numpy()


def _in_place(array: Array) -> np.ndarray | None:
    """A view of the bytes behind numpy's header; None where they are laid out in another way."""
    file = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # numpy parses the header as Python, which may fail in any way
        return None
    size = len(array.data) - file.tell()
    plain = dtype == np.dtype("<f4") and shape == tuple(array.shape) and not columns_first
    if not plain or size != 4 * _size(array) or size == 0:
        return None
    return np.frombuffer(array.data, dtype=dtype, offset=file.tell())
