"""Optimisers of a bank: a step for every client that took part, each by its own numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.bank_numbers import PerClient, per_client
from pyfed.ops import bank_adamw_, bank_sgd_, segment_clip_

if TYPE_CHECKING:
    from pyfed.lora.bank import ClientBank


class BankOptimizer:
    """What optimisers of a bank share.

    Args:
        bank: whose parameters it moves.
        lr: learning rate.
        weight_decay: see the optimisers.
        max_norm: of each client's gradient over all that it trains; None: gradients stay.

    Attributes:
        lr: may be set between steps.
        weight_decay: likewise.
        max_norm: likewise.
        state: name → arena (clients, length).
        steps: group → how many steps each client has taken of it, int64 (clients,) on the CPU.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        bank: ClientBank,
        lr: PerClient,
        weight_decay: PerClient,
        max_norm: PerClient | None,
    ) -> None:
        from pyfed.lora.bank import ClientBank

        kind = type(self).__name__
        if not isinstance(bank, ClientBank):
            raise DtypeError(f"{kind}: bank is {type(bank).__name__}; it must be a ClientBank")
        self.bank, self.lr, self.weight_decay, self.max_norm = bank, lr, weight_decay, max_norm
        self.state = {name: torch.zeros_like(bank.arena.data) for name in self.names}
        self.steps = {
            group: torch.zeros(bank.clients, dtype=torch.int64) for group in bank.arena.spans
        }
        self._try_numbers()

    def _try_numbers(self) -> None:
        """Raise now what a step would raise about learning rates and the like."""
        like = self.bank.arena.data[:, :1].clone()
        if self.max_norm is not None:
            segment_clip_(like.clone(), self._here("max_norm"))
        none = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self._move(like, like, {name: like.clone() for name in self.names}, none)

    def _here(self, name: str) -> float | torch.Tensor:
        """A setting where the bank is."""
        value = getattr(self, name)
        return per_client(type(self).__name__, name, value, self.bank.arena.data.device)

    def _move(
        self,
        params: torch.Tensor,
        grads: torch.Tensor,
        state: dict[str, torch.Tensor],
        steps: torch.Tensor,
    ) -> None:
        """Move the parameters of some columns; clients whose step is 0 stay."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self) -> torch.Tensor | None:
        """Move the clients that took part since ``bank.zero_grad()``; all else keeps its bits.

        Returns:
            With ``max_norm``: norms of the gradients before clipping, (clients,); else None.

        Raises:
            ArgumentError: a client's gradient is not finite, or a setting is out of range. No
                parameter and no moment is changed then.
        """
        bank, arena = self.bank, self.bank.arena
        bank.expect_finite_gradients()
        norms = None
        if self.max_norm is not None:
            norms = segment_clip_(arena.grad, self._here("max_norm"))
        active = bank.taking_part.to(torch.int64)
        for groups, first, last in self._runs():
            steps = (self.steps[groups[0]] + 1) * active
            self._move(
                arena.data[:, first:last],
                arena.grad[:, first:last],
                {name: memory[:, first:last] for name, memory in self.state.items()},
                steps.to(arena.data.device),
            )
            for group in groups:
                self.steps[group] += active
        return norms

    def _runs(self) -> Iterable[tuple[list[str], int, int]]:
        """The columns that train, in as few pieces as frozen groups and step counts leave."""
        runs: list[tuple[list[str], int, int]] = []
        for group, (first, last) in self.bank.arena.spans.items():
            if group not in self.bank.arena.trainable:
                continue
            if runs and runs[-1][2] == first:
                groups, start, _ = runs[-1]
                if torch.equal(self.steps[groups[0]], self.steps[group]):
                    runs[-1] = ([*groups, group], start, last)
                    continue
            runs.append(([group], first, last))
        return runs

    def reset(self, clients: Iterable[int] | None = None) -> None:
        """Forget moments and step counts.

        Args:
            clients: whose; None: of all.

        Raises:
            ArgumentError: there is no such client.
        """
        chosen = list(range(self.bank.clients)) if clients is None else list(clients)
        for client in chosen:
            expect_int("reset", "client", client, 0, self.bank.clients)
        for memory in self.state.values():
            memory[chosen] = 0
        for steps in self.steps.values():
            steps[chosen] = 0

    def state_dict(self) -> dict[str, Any]:
        """Moments, step counts and settings. Tensors are views."""
        return {
            "kind": type(self).__name__,
            "state": dict(self.state),
            "steps": dict(self.steps),
            "settings": self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        return {"lr": self.lr, "weight_decay": self.weight_decay, "max_norm": self.max_norm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            ArgumentError: it is of another optimiser or of a bank of another shape. Nothing is
                changed then.
        """
        kind = type(self).__name__
        wanted = {"kind", "state", "steps", "settings"}
        if state.keys() != wanted or state["kind"] != kind:
            raise ArgumentError(
                f"{kind}: state is of {state.get('kind')!r} with keys {sorted(state)}; it must be "
                f"of {kind!r} with {sorted(wanted)}"
            )
        for name, own in (("state", self.state), ("steps", self.steps)):
            given = state[name]
            if given.keys() != own.keys():
                raise ArgumentError(f"{kind}: {name} has {sorted(given)}; it must be {sorted(own)}")
            for key, memory in own.items():
                if given[key].shape != memory.shape or given[key].dtype != memory.dtype:
                    raise ArgumentError(
                        f"{kind}: {key} has shape {tuple(given[key].shape)} and dtype "
                        f"{given[key].dtype}; it must be {tuple(memory.shape)} and {memory.dtype}"
                    )
        if state["settings"].keys() != self._settings().keys():
            raise ArgumentError(
                f"{kind}: settings are {sorted(state['settings'])}; they must be "
                f"{sorted(self._settings())}"
            )
        for name, own in (("state", self.state), ("steps", self.steps)):
            for key, memory in own.items():
                memory.copy_(state[name][key])
        for name, value in state["settings"].items():
            setattr(self, name, value)


class BankAdamW(BankOptimizer):
    """AdamW for every client of a bank at once, equal to ``torch.optim.AdamW`` for each alone.

    Args:
        bank: whose parameters it moves.
        lr: learning rate, a number, or a list or tensor (clients,).
        betas: of the moments.
        eps: of the denominator.
        weight_decay: decoupled, a number or (clients,).
        max_norm: clips each client's gradient, over all that it trains, to this 2-norm; a number,
            (clients,), or None.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a number is out of range, or there are not as many as clients.

    Formula and source: :func:`pyfed.ops.bank_adamw_`.
    """

    names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        bank: ClientBank,
        lr: PerClient = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: PerClient = 0.01,
        max_norm: PerClient | None = None,
    ) -> None:
        self.betas, self.eps = betas, eps
        super().__init__(bank, lr, weight_decay, max_norm)

    def _move(
        self,
        params: torch.Tensor,
        grads: torch.Tensor,
        state: dict[str, torch.Tensor],
        steps: torch.Tensor,
    ) -> None:
        bank_adamw_(
            params,
            grads,
            **state,
            steps=steps,
            lr=self._here("lr"),
            betas=self.betas,
            eps=self.eps,
            weight_decay=self._here("weight_decay"),
        )

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"betas": self.betas, "eps": self.eps}


class BankSGD(BankOptimizer):
    """SGD for every client of a bank at once, equal to ``torch.optim.SGD`` for each alone.

    Args:
        bank: whose parameters it moves.
        lr: learning rate, a number, or a list or tensor (clients,).
        momentum: in [0, 1].
        dampening: of the momentum.
        weight_decay: added to the gradient, a number or (clients,).
        nesterov: whether the momentum looks ahead.
        max_norm: as for :class:`BankAdamW`.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a number is out of range, or there are not as many as clients.
    """

    def __init__(
        self,
        bank: ClientBank,
        lr: PerClient = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: PerClient = 0.0,
        nesterov: bool = False,
        max_norm: PerClient | None = None,
    ) -> None:
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.names = ("momentum_buffer",) if momentum else ()
        super().__init__(bank, lr, weight_decay, max_norm)

    def _move(
        self,
        params: torch.Tensor,
        grads: torch.Tensor,
        state: dict[str, torch.Tensor],
        steps: torch.Tensor,
    ) -> None:
        bank_sgd_(
            params,
            grads,
            state.get("momentum_buffer"),
            steps=steps,
            lr=self._here("lr"),
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self._here("weight_decay"),
            nesterov=self.nesterov,
        )

    def _settings(self) -> dict[str, Any]:
        more = {name: getattr(self, name) for name in ("momentum", "dampening", "nesterov")}
        return super()._settings() | more
