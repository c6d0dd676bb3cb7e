"""What adapted layers and heads of a PEFT model do while a bank runs it: all clients at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.lora.batches import Rows
from pyfed.ops.dropout import counter_dropout_op
from pyfed.ops.lora import lora_linear_op


class Frame:
    """What a bank's layers read during a pass: whose the rows are, and these clients' parameters.

    Attributes:
        rows: None outside a pass.
        leaves: key → (clients, *shape).
    """

    def __init__(self) -> None:
        self.rows: Rows | None = None
        self.leaves: Mapping[str, torch.Tensor] = {}

    def get(self, *keys: str) -> tuple[Rows, list[torch.Tensor]]:
        """The rows of this pass, and parameters."""
        assert self.rows is not None
        return self.rows, [self.leaves[key] for key in keys]


class BankedLayer:
    """One module of the PEFT model whose ``forward`` a bank replaces during its passes.

    Args:
        frame: of the bank.
        path: of the module in the PEFT model.
        module: the module itself.

    Attributes:
        parameters: key → (group in the arena, parameter of the model) of what clients have of their
            own.
        rate: of dropout.
    """

    rate = 0.0

    def __init__(self, frame: Frame, path: str, module: Any) -> None:
        self.frame, self.path, self.module = frame, path, module
        self.parameters: dict[str, tuple[str, nn.Parameter]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the module gives for the rows of all clients, each by its own parameters."""
        raise NotImplementedError


def _scaled(x: torch.Tensor, factor: torch.Tensor, rows: Rows) -> torch.Tensor:
    """X (samples, …, features) times each client's own factor (clients, features)."""
    if rows.equal:
        by_client = x.reshape(len(rows.counts), -1, x.shape[-1])
        return (by_client * factor[:, None]).view(x.shape)
    of_sample = factor.index_select(0, rows.owner)  # (samples, features)
    return x * of_sample.view(len(x), *[1] * (x.dim() - 2), x.shape[-1])


class BankedLora(BankedLayer):
    """A linear layer with LoRA, each client with its own A and B.

    Args:
        frame: of the bank.
        path: of the layer in the PEFT model.
        module: the layer of PEFT.
        adapter: name of the adapter.
        key: of the bank's dropout, derived for this layer.
        scale: s of each client, (clients,).
    """

    def __init__(
        self, frame: Frame, path: str, module: Any, adapter: str, key: Key, scale: torch.Tensor
    ) -> None:
        super().__init__(frame, path, module)
        a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        self.a, self.b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
        self.parameters = {self.a: ("a", a), self.b: ("b", b)}
        self.rate = float(getattr(module.lora_dropout[adapter], "p", 0.0))
        self.key = key.words(scale.device)
        self.scale = scale

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """base(x) + s_c · (drop(x) A_cᵀ) B_cᵀ for the rows of client c."""
        x = args[0]
        rows, (a, b) = self.frame.get(self.a, self.b)
        starts = rows.starts(rows.rows_of_sample(self.path, x))
        base: torch.Tensor = self.module.base_layer(*args, **kwargs)
        dtype = torch.promote_types(x.dtype, base.dtype)
        out, _ = lora_linear_op.torch_op(
            x.to(dtype),
            base.to(dtype),
            a,
            b,
            self.scale[rows.first : rows.last],
            starts,
            self.key if rows.dropped and self.rate else None,
            rows.streams,
            self.rate,
        )
        result: torch.Tensor = out.to(base.dtype)
        return result


class BankedVera(BankedLayer):
    """A linear layer with VeRA: projections shared by all, each client with its own λ_d and λ_b.

    Args:
        frame: of the bank.
        path: of the layer in the PEFT model.
        module: the layer of PEFT.
        adapter: name of the adapter.
        key: of the bank's dropout, derived for this layer.
        device: of the bank.
    """

    def __init__(
        self, frame: Frame, path: str, module: Any, adapter: str, key: Key, device: torch.device
    ) -> None:
        super().__init__(frame, path, module)
        self.adapter = adapter
        self.d, self.b = f"{path}.vera_lambda_d", f"{path}.vera_lambda_b"
        lambda_d, lambda_b = module.vera_lambda_d[adapter], module.vera_lambda_b[adapter]
        self.parameters = {self.d: ("a", lambda_d), self.b: ("b", lambda_b)}
        self.rate = float(getattr(module.vera_dropout[adapter], "p", 0.0))
        self.key = key.words(device)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """base(x) + λ_b ⊙ B(λ_d ⊙ A drop(x)) with the λ of the row's client."""
        x: torch.Tensor = args[0]
        rows, (d, b) = self.frame.get(self.d, self.b)
        starts = rows.starts(rows.rows_of_sample(self.path, x))
        base: torch.Tensor = self.module.base_layer(*args, **kwargs)
        x = x.to(d.dtype)
        if rows.dropped and self.rate:
            x = counter_dropout_op.torch_op(x, self.key, rows.streams, starts, self.rate)
        down = self.module.vera_A[self.adapter][:, : x.shape[-1]]
        up = self.module.vera_B[self.adapter][: base.shape[-1]]
        hidden = _scaled(F.linear(x, down.to(x)), d, rows)
        out = base + _scaled(F.linear(hidden, up.to(x)), b, rows)
        return out.to(base.dtype)


class BankedHead(BankedLayer):
    """A module that is trained as a whole (``modules_to_save``), each client with its own copy.

    Args:
        frame: of the bank.
        path: of the wrapper in the PEFT model.
        wrapper: of PEFT.
        adapter: name of the adapter.
    """

    def __init__(self, frame: Frame, path: str, wrapper: Any, adapter: str) -> None:
        super().__init__(frame, path, wrapper)
        self.head: nn.Module = wrapper.modules_to_save[adapter]
        self.local = {f"{path}.{name}": name for name, _ in self.head.named_parameters()}
        parameters = dict(self.head.named_parameters())
        self.parameters = {key: ("head", parameters[name]) for key, name in self.local.items()}
        self.dtypes = {key: parameter.dtype for key, (_, parameter) in self.parameters.items()}

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What each client's own copy gives for its samples."""
        rows, leaves = self.frame.get(*self.local)
        own = {
            name: leaf.to(self.dtypes[key])
            for (key, name), leaf in zip(self.local.items(), leaves, strict=True)
        }
        inputs = [value for value in (*args, *kwargs.values()) if self._by_sample(value, rows)]
        if not inputs:
            raise ArgumentError(
                f"ClientBank: head {self.path} is given no tensor whose dimension 0 is the "
                f"{rows.samples} samples of the batch; each sample must have a client"
            )
        if type(self.head) is nn.Linear and rows.equal and inputs[0].dim() > 1:
            return self._linear(inputs[0], own, len(rows.counts))
        # Unbound once: a select for each client would make as many gradients of the full size.
        copies = {name: value.unbind(0) for name, value in own.items()}
        outs = [
            self._call({name: some[client] for name, some in copies.items()}, span, rows, *call)
            for client, span, call in (
                (client, slice(*rows.edges[client : client + 2]), (args, kwargs))
                for client, count in enumerate(rows.counts)
                if count
            )
        ]
        return torch.cat(outs)

    @staticmethod
    def _linear(x: torch.Tensor, own: Mapping[str, torch.Tensor], clients: int) -> torch.Tensor:
        """The heads of all clients in one product: x (samples, …, in) → (samples, …, out)."""
        weight = own["weight"].mT  # (clients, in, out)
        by_client = x.reshape(clients, -1, x.shape[-1])
        if "bias" in own:
            out = torch.baddbmm(own["bias"][:, None], by_client, weight)
        else:
            out = torch.bmm(by_client, weight)
        return out.view(*x.shape[:-1], out.shape[-1])

    def _call(
        self,
        own: dict[str, torch.Tensor],
        span: slice,
        rows: Rows,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """One client's copy on its samples."""
        part = [value[span] if self._by_sample(value, rows) else value for value in args]
        named = {
            name: value[span] if self._by_sample(value, rows) else value
            for name, value in kwargs.items()
        }
        out = torch.func.functional_call(self.head, own, tuple(part), named)
        samples = span.stop - span.start
        if not isinstance(out, torch.Tensor) or out.dim() == 0 or out.shape[0] != samples:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise ArgumentError(
                f"ClientBank: head {self.path} gives {shape} for {samples} samples; it must give "
                "one tensor with the samples as dimension 0"
            )
        return out

    @staticmethod
    def _by_sample(value: object, rows: Rows) -> bool:
        return (
            isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == rows.samples
        )
