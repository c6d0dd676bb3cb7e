"""Pruned models as files: ordinary safetensors, and a compact form that leaves the zeros out.

Zeros spread over a matrix do not shrink an ordinary file: it stores them like any other number.
The compact form stores, of a tensor of n elements of b bytes with the part s of zeros, a bit for
each element and the others: n/8 + (1 - s)·n·b bytes. At s = 1/2 that is 56 % of the ordinary
bytes for 16-bit and 53 % for 32-bit weights. Nothing computes on that form: it is for disks and
wires, and a model that was read from it takes the memory and the time of a dense one.

The compact file is a safetensors file. A tensor that is smaller that way is replaced by
``<name>/bits``, a packed mask (8 elements a byte, the first in the lowest bit), and
``<name>/values``, the elements whose bit is set, in order. Here a set bit means that the element is
*stored*: its bits are not all 0, so -0.0 and NaN are stored, and every tensor comes back bit for
bit. Metadata: ``format`` = ``pyfed-compact``, ``version`` = ``1``, ``compact`` = JSON {name: shape}
and ``same`` = JSON {name: name of the tensor that it is tied to}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyfed.checks import expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.masks import bytes_of, mask_pack, mask_popcount, mask_unpack

_FORMAT, _VERSION = "pyfed-compact", "1"
_BITS, _VALUES = "/bits", "/values"
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_pruned(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a model as ordinary safetensors; its size does not depend on how much is pruned.

    Args:
        model: a Hugging Face model is written with its configuration, by ``save_pretrained``, and
            read by ``from_pretrained``; of any other module the tensors are written to
            ``model.safetensors``.
        folder: where to; made when missing.

    Returns:
        The folder.

    Raises:
        DtypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise DtypeError(f"save_pruned: model is {type(model).__name__}; it must be a module")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save = getattr(model, "save_pretrained", None)
    if callable(save):
        save(path)
    else:
        from safetensors.torch import save_model

        save_model(model, str(path / "model.safetensors"))
    return path


def save_compact(
    model: nn.Module | Mapping[str, torch.Tensor], path: str | os.PathLike[str]
) -> int:
    """Write a model with the zeros of its pruned tensors left out.

    Args:
        model: a module, whose state dict is written, or a state dict. Tensors of any floating
            dtype are made compact where that is smaller; all others are written as they are. Tied
            tensors are written once.
        path: of the file; an existing one is replaced once the new one is whole.

    Returns:
        The bytes of the file.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a name ends like those of the form, a tensor is not dense or not loaded, or
            ``path`` is a folder.
        FileNotFoundError: the folder that the file is to lie in is missing.

    Example:
        >>> import torch, tempfile
        >>> from pyfed.pruning import load_compact, save_compact
        >>> weight = torch.arange(512.0).view(8, 64)
        >>> weight[:, ::2] = 0
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save_compact({"w": weight}, folder + "/model.safetensors")
        ...     again = load_compact(folder + "/model.safetensors")
        >>> bool((again["w"] == weight).all()), size < weight.nbytes
        (True, True)
    """
    from safetensors.torch import save_file

    tensors = model.state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(tensors, Mapping):
        kind = type(tensors).__name__
        raise DtypeError(f"save_compact: model is {kind}; it must be a module or a state dict")
    target = Path(path)
    if target.is_dir():
        raise ArgumentError(f"save_compact: path is {target}, a folder; it must be of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save_compact: there is no folder {target.parent}; make it first")
    stored: dict[str, torch.Tensor] = {}
    compact: dict[str, list[int]] = {}
    same: dict[str, str] = {}
    memories: set[int] = set()
    owners: dict[tuple[Any, ...], str] = {}
    for name, value in tensors.items():
        _expect_storable(name, value)
        owner = owners.setdefault(_identity(name, value), name)
        if owner != name:
            same[name] = owner
            continue
        tensor = value.detach().cpu().contiguous()
        halves = _halves(tensor) if tensor.is_floating_point() else None
        if halves is None:
            # Views of one memory are written apart: the file's library refuses to share it.
            memory = tensor.untyped_storage().data_ptr()
            stored[name] = tensor.clone() if memory in memories else tensor
            memories.add(memory)
        else:
            stored[name + _BITS], stored[name + _VALUES] = halves
            compact[name] = list(tensor.shape)
    metadata = {"format": _FORMAT, "version": _VERSION}
    metadata |= {"compact": json.dumps(compact), "same": json.dumps(same)}
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(stored, str(partial), metadata)
        size = partial.stat().st_size
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return size


def load_compact(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read what :func:`save_compact` wrote, bit for bit.

    Args:
        path: of the file.

    Returns:
        The state dict, for ``model.load_state_dict``; tied tensors are one object.

    Raises:
        ArgumentError: the file is not exactly of that form: another format or version, a tensor
            missing or too many, bits and values that do not fit each other or the shape; or
            ``path`` is a folder.
        FileNotFoundError: there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise ArgumentError(f"load_compact: path is {path}, a folder; it must be of a file")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, f"it is no safetensors file ({error})") from None
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise _damaged(
            path,
            f"format and version are {metadata.get('format')!r} and {metadata.get('version')!r}; "
            f"they must be {_FORMAT!r} and {_VERSION!r}",
        )
    tensors = {}
    for name, shape in _table(path, metadata, "compact").items():
        bits, values = found.pop(name + _BITS, None), found.pop(name + _VALUES, None)
        tensors[name] = _whole(path, name, shape, bits, values)
    for name, tensor in found.items():
        if name in tensors or name.endswith((_BITS, _VALUES)):
            raise _damaged(path, f"{name!r} is there twice, or is no part of a tensor")
        tensors[name] = tensor
    own = set(tensors)
    for name, other in _table(path, metadata, "same").items():
        if name in own or not isinstance(other, str) or other not in own:
            raise _damaged(path, f"{name!r} cannot be tied to {other!r}")
        tensors[name] = tensors[other]
    return tensors


def _halves(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Packed bits of a float tensor, and its elements that are not +0; None where not smaller."""
    flat = tensor.reshape(-1).view(_INTEGER[tensor.element_size()])
    kept = flat != 0
    size = bytes_of(flat.numel()) + int(kept.sum()) * tensor.element_size()
    if size >= flat.numel() * tensor.element_size():
        return None
    return mask_pack(kept), flat[kept].view(tensor.dtype)


def _whole(path: Any, name: str, shape: Any, bits: Any, values: Any) -> torch.Tensor:
    """The tensor of its parts, which are checked."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise _damaged(path, f"the shape of {name!r} is {shape}")
    length = 1
    for extent in shape:
        length *= extent
    if bits is None or values is None:
        raise _damaged(path, f"{name!r} lacks its bits or its values")
    if bits.dtype != torch.uint8 or bits.shape != (bytes_of(length),):
        raise _damaged(path, f"the bits of {name!r} do not fit shape {shape}")
    if not values.is_floating_point() or values.dim() != 1:
        raise _damaged(path, f"the values of {name!r} are no row of floats")
    try:
        count = int(mask_popcount(bits, length))
    except ArgumentError:
        raise _damaged(path, f"{name!r} has a bit set behind its last element") from None
    words = values.view(_INTEGER[values.element_size()])
    if count != words.numel() or not bool((words != 0).all()):
        raise _damaged(path, f"the values of {name!r} are not those of its {count} set bits")
    flat = torch.zeros(length, dtype=words.dtype)
    flat[mask_unpack(bits, length)] = words
    return flat.view(values.dtype).view(shape)


def _table(path: Any, metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A JSON object of the metadata."""
    try:
        table = json.loads(metadata.get(name, ""))
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise _damaged(path, f"its table {name!r} is not a JSON object")
    return table


def _expect_storable(name: object, value: object) -> None:
    if not isinstance(name, str):
        raise DtypeError(f"save_compact: a name is {type(name).__name__}; it must be a str")
    if name.endswith((_BITS, _VALUES)):
        raise ArgumentError(
            f"save_compact: {name!r} ends in {_BITS} or {_VALUES}; no tensor may have such a name"
        )
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        raise DtypeError(f"save_compact: {name!r} is {kind}; it must be a torch.Tensor")
    expect_tensor("save_compact", name, value, value.dtype)
    if value.is_meta:
        raise ArgumentError(f"save_compact: {name!r} is on the meta device; it must be loaded")


def _identity(name: str, value: torch.Tensor) -> tuple[Any, ...]:
    """What two tensors have in common that are one; an empty one is itself only."""
    if value.numel() == 0:
        return (name,)
    return value.data_ptr(), value.device, value.dtype, value.shape, value.stride()


def _damaged(path: Any, reason: str) -> ArgumentError:
    return ArgumentError(f"load_compact: {os.fspath(path)} is not a file of save_compact: {reason}")
