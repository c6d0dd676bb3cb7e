"""Which layers of a model are pruned: the linear ones inside its transformer blocks."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.selection_arguments import FLOATS
from pyfed.pruning.plan import PrunableLayer

_OP = "prunable_layers"


def prunable_layers(
    model: nn.Module, blocks: str | None = None, skip: Collection[str] = ()
) -> tuple[PrunableLayer, ...]:
    """Name the layers that are pruned, in the order of the model.

    These are the ``torch.nn.Linear`` layers, and the ``Conv1D`` layers of transformers, inside the
    blocks; embeddings and heads stay outside, and so do experts that are kept as one parameter of
    three dimensions. The blocks are the longest ``torch.nn.ModuleList``
    of modules of one class that is not itself inside such a list (so the experts of a block are
    not taken for blocks).

    Args:
        model: any module; of Hugging Face models causal ones and encoders.
        blocks: dotted name of the list of blocks; None finds it.
        skip: shell patterns of names that are left out, such as ``"*.k_proj"``; each must match a
            whole name.

    Returns:
        (name, shape, block) for each layer. The shape is (out, in); the weight of a ``Conv1D``,
        which is stored as (in, out), is seen transposed.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: there are no blocks or no layers, two lists are equally long, a pattern
            matches no layer, or a weight is shared by two layers, is computed from other tensors
            (weight normalisation, masks of torch.nn.utils.prune), or is not float32, float16 or
            bfloat16.

    Example:
        >>> import torch
        >>> from pyfed.pruning import prunable_layers
        >>> model = torch.nn.Module()
        >>> model.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        >>> prunable_layers(model)[1]
        PrunableLayer(name='blocks.1', shape=(4, 4), block=1)
    """
    name, found = find_blocks(model, blocks)
    linears = [
        (number, *pair)
        for number, block in enumerate(found)
        for pair in _linears(block, f"{name}.{number}")
    ]
    expect_patterns(_OP, skip)
    if linears:
        _expect_matches(skip, [layer for _, layer, _ in linears])
    layers, owners = [], dict[int, str]()
    for number, layer, module in linears:
        if any(fnmatchcase(layer, pattern) for pattern in skip):
            continue
        _expect_own_weight(_OP, layer, module)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if weight.dtype not in FLOATS or weight.is_meta:
            where = "on the meta device" if weight.is_meta else f"of dtype {weight.dtype}"
            raise ArgumentError(
                f"{_OP}: the weight of {layer} is {where}; it must be float32, float16 or "
                "bfloat16, and loaded"
            )
        other = owners.setdefault(id(weight), layer)
        if other != layer:
            raise ArgumentError(
                f"{_OP}: {other} and {layer} share one weight, which has one mask only; skip both"
            )
        rows, columns = matrix_of(module).shape
        layers.append(PrunableLayer(layer, (rows, columns), number))
    return _expect_every_block(layers, name, len(found))


def find_blocks(model: nn.Module, name: str | None = None) -> tuple[str, nn.ModuleList]:
    """The dotted name of the model's list of blocks, and the list."""
    if not isinstance(model, nn.Module):
        raise DtypeError(f"{_OP}: model is {type(model).__name__}; it must be a torch.nn.Module")
    if name is not None and not isinstance(name, str):
        kind = type(name).__name__
        raise DtypeError(f"{_OP}: blocks is {kind}; it must be a dotted name or None")
    if name is not None:
        return name, _named_blocks(model, name)
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and _is_uniform(module)
    }
    outer = {
        path: module
        for path, module in lists.items()
        if not any(path.startswith(other + ".") for other in lists if other != path)
    }
    longest = max((len(module) for module in outer.values()), default=0)
    candidates = [path for path, module in outer.items() if len(module) == longest]
    if len(candidates) != 1:
        found = f"has several, {candidates}" if candidates else "has none"
        raise ArgumentError(
            f"{_OP}: of lists of equal modules with linear layers, model {found}; name its blocks "
            "with blocks="
        )
    return candidates[0], outer[candidates[0]]


def matrix_of(module: nn.Module) -> torch.Tensor:
    """The weight of a prunable layer as its matrix (out, in), sharing its memory; no gradient."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach() if isinstance(module, nn.Linear) else weight.detach().t()


def module_of(model: nn.Module, layer: PrunableLayer) -> nn.Module:
    """The module of a layer; raises unless it is there, with that shape and a weight of its own."""
    try:
        module = model.get_submodule(layer.name)
    except AttributeError:
        raise ArgumentError(f"model has no layer {layer.name!r}; it must be the planned one") from (
            None
        )
    kind, wanted = type(module).__name__, f"a matrix of shape {layer.shape}"
    if not isinstance(module, _linear_classes()):
        raise ArgumentError(
            f"model has {kind} as {layer.name!r}; it must be a linear layer with {wanted}"
        )
    _expect_own_weight("model", layer.name, module)
    shape = tuple(matrix_of(module).shape)
    if shape != layer.shape:
        raise ArgumentError(
            f"model has {kind} with a matrix of shape {shape} as {layer.name!r}; it must have "
            f"{wanted}"
        )
    return module


def expect_patterns(op: str, skip: object) -> None:
    """Raise unless ``skip`` is a collection of strings."""
    if isinstance(skip, str) or not isinstance(skip, Collection):
        shown = repr(skip) if isinstance(skip, str) else type(skip).__name__
        raise DtypeError(f"{op}: skip is {shown}; it must be a tuple of patterns")
    for pattern in skip:
        if not isinstance(pattern, str):
            kind = type(pattern).__name__
            raise DtypeError(f"{op}: skip holds a {kind}; it must be a tuple of patterns")


def _expect_matches(skip: Collection[str], names: Sequence[str]) -> None:
    """Raise unless every pattern matches a name: one that does not is a slip."""
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            last = names[0].rpartition(".")[2]
            raise ArgumentError(
                f"{_OP}: skip pattern {pattern!r} matches no layer; it must match whole names, "
                f"such as '*.{last}' does; layers are {some}"
            )


def _expect_own_weight(op: str, name: str, module: nn.Module) -> None:
    """Raise unless the weight is a parameter of the module.

    Where it is made of other tensors before each use (torch.nn.utils.parametrize, its older
    weight_norm and spectral_norm, torch.nn.utils.prune), what is written to it is lost.
    """
    if module._parameters.get("weight") is None:
        raise ArgumentError(
            f"{op}: layer {name}: its weight is parametrised (computed from other tensors); remove "
            "that first"
        )


def _named_blocks(model: nn.Module, name: str) -> nn.ModuleList:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ArgumentError(f"{_OP}: blocks is {name!r}; the model has no such module") from None
    if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) == 0:
        raise ArgumentError(
            f"{_OP}: blocks is {name!r}, which is {type(module).__name__}; it must be a ModuleList "
            "that is not empty"
        )
    return module  # type: ignore[return-value]


def _is_uniform(modules: nn.ModuleList) -> bool:
    """Whether the modules are of one class, and hold linear layers."""
    one_class = len({type(module) for module in modules}) == 1
    return one_class and any(True for module in modules for _ in _linears(module, ""))


def _linear_classes() -> tuple[type[nn.Module], ...]:
    """Linear, and Conv1D of transformers: a model that has one has imported its home."""
    home = sys.modules.get("transformers.pytorch_utils")
    return (nn.Linear,) if home is None else (nn.Linear, home.Conv1D)


def _linears(block: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    classes = _linear_classes()
    for path, module in block.named_modules(prefix=prefix):
        if isinstance(module, classes):
            yield path, module


def _expect_every_block(
    layers: list[PrunableLayer], name: str, blocks: int
) -> tuple[PrunableLayer, ...]:
    """``layers``; raises unless every block has one."""
    without = sorted(set(range(blocks)) - {layer.block for layer in layers})
    if without:
        raise ArgumentError(
            f"{_OP}: blocks {without} of {name} have no layer to prune; each must have one"
        )
    return tuple(layers)
