"""One client's adapter in a bank as a state dict and as a folder of PEFT."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.arena import Arena

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class BankState:
    """What goes into a bank and comes out of it, by client.

    Attributes:
        arena: the parameters of all clients.
        config: the adapter's configuration in PEFT.
        steps: how many training passes each client has made, int64 (clients,) on the CPU.
        base_changed: whether :meth:`aggregate` has merged residuals into the base.
    """

    arena: Arena
    config: Any
    steps: torch.Tensor
    base_changed: bool = False
    _constants: dict[str, torch.Tensor]

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self.arena.clients

    def state_dict(self, client: int | None = None) -> dict[str, torch.Tensor]:
        """Adapter and heads under the names that PEFT saves them by.

        Args:
            client: whose; None: those of all, (clients, …), with ``steps``.

        Returns:
            Views: what trains or is loaded later shows in them. Clone what must stay.

        Raises:
            ArgumentError: there is no such client.
        """
        if client is None:
            stacked = {key: self.arena.view(self.arena.data, key) for key in self.arena.slots}
            return stacked | {"steps": self.steps}
        self._expect_client("state_dict", client)
        own = {
            key: self.arena.view(self.arena.data, key, client, client + 1)[0]
            for key in self.arena.slots
        }
        return own | self._constants

    def load_state_dict(
        self, client: int | None, state: Mapping[str, torch.Tensor], partial: bool = False
    ) -> None:
        """Take parameters; optimisers and dropout go on as they are.

        Args:
            client: whose; None: of all, as :meth:`state_dict` gives them.
            state: under the names that PEFT saves them by. Other floats are cast.
            partial: whether keys may be missing, as those of B are where A alone is shared.

        Raises:
            DtypeError: a value is no tensor of floats.
            ArgumentError: there is no such client, a key is missing or unknown, a shape differs, a
                number is not finite, or a frozen projection is not the bank's own. Nothing is
                changed then.
        """
        if client is None:
            state = dict(state)
            steps = state.pop("steps", self.steps if partial else None)
            if steps is None or steps.shape != self.steps.shape or steps.dtype != torch.int64:
                raise ArgumentError(
                    f"load_state_dict: steps must be int64 of shape ({self.clients},), as "
                    "state_dict() gives them"
                )
            self.expect_state(None, state, partial)
            self.write({None: state})
            self.steps.copy_(steps)
            return
        self._expect_client("load_state_dict", client)
        self.expect_state(client, state, partial)
        self.write({client: state})

    def save_pretrained(self, folder: str | os.PathLike[str], client: int) -> None:
        """Write one client's adapter and heads as PEFT does.

        ``peft.PeftModel.from_pretrained(base, folder)`` loads it. Where ``base_changed``, as after
        fedex or flora with ``merge=True``, ``base`` must be the merged one: the adapter is wrong on
        the original, and a ``UserWarning`` says so. Save that base once, by
        ``copy.deepcopy(bank.model).unload().save_pretrained(elsewhere)``; setting ``base_changed``
        to False then says that it is known.

        Args:
            folder: made when it is not there.
            client: whose.

        Raises:
            ArgumentError: there is no such client.
        """
        from safetensors.torch import save_file

        self._expect_client("save_pretrained", client)
        if self.base_changed:
            warnings.warn(
                "save_pretrained: base_changed is True: residuals were merged into the base, and "
                "this adapter is wrong on the original one; save the base too, by copy.deepcopy("
                "bank.model).unload().save_pretrained(folder)",
                UserWarning,
                stacklevel=2,
            )
        state = {key: value.contiguous().cpu() for key, value in self.state_dict(client).items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = copy.copy(self.config)
        config.inference_mode = True  # as PEFT writes it: loading decides on training
        save_file(state, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})
        config.save_pretrained(os.fspath(folder))

    def load_pretrained(self, folder: str | os.PathLike[str], client: int) -> None:
        """Take one client's adapter and heads from a folder that PEFT or a bank wrote.

        Args:
            folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
            client: whose they become.

        Raises:
            ArgumentError: there is no such client, folder or file, or the adapter is of another
                type or scaling or does not fit. Nothing is changed then.
        """
        from peft import PeftConfig
        from safetensors.torch import load_file

        self._expect_client("load_pretrained", client)
        for name in (CONFIG_FILE, WEIGHTS_FILE):  # PEFT would look for them on a hub
            if not (Path(folder) / name).is_file():
                raise ArgumentError(
                    f"load_pretrained: folder is {os.fspath(folder)!r}; it must be a folder with "
                    f"{CONFIG_FILE} and {WEIGHTS_FILE}, and {name} is not there"
                )
        config = PeftConfig.from_pretrained(os.fspath(folder))
        names = ("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
        for name in (*names, "use_dora"):
            found, own = getattr(config, name, None), getattr(self.config, name, None)
            if found != own:
                raise ArgumentError(
                    f"load_pretrained: {name} of client {client} is {found!r} in {folder}; it must "
                    f"be {own!r}, as the bank's"
                )
        self.load_state_dict(client, load_file(Path(folder) / WEIGHTS_FILE))

    def _expect_client(self, op: str, client: object) -> None:
        expect_int(op, "client", client, 0, self.clients)

    def write(self, states: Mapping[int | None, Mapping[str, torch.Tensor]]) -> None:
        """Copy parameters of clients (None: of all) that :meth:`expect_state` has let pass."""
        with torch.no_grad():
            for client, state in states.items():
                first, last = (0, None) if client is None else (client, client + 1)
                for key in self.arena.slots.keys() & state.keys():
                    self.arena.view(self.arena.data, key, first, last).copy_(state[key])

    def expect_state(
        self, client: int | None, state: Mapping[str, torch.Tensor], partial: bool
    ) -> None:
        """Raise what :meth:`load_state_dict` raises."""
        whose = "all clients" if client is None else f"client {client}"
        where = f"load_state_dict: {whose}"
        known = self.arena.slots.keys() | self._constants.keys()
        unknown = sorted(state.keys() - known)
        if unknown:
            hint = next(iter(self.arena.slots))
            raise ArgumentError(f"{where}: {unknown[0]} is unknown; keys look like {hint}")
        missing = sorted(self.arena.slots.keys() - state.keys())
        if missing and not partial:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ArgumentError(f"{where}: {missing[0]}{more} is missing; partial=True allows it")
        for key, value in state.items():
            if not isinstance(value, torch.Tensor) or (
                key in self.arena.slots and not value.is_floating_point()
            ):
                kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
                raise DtypeError(f"{where}: {key} is {kind}; it must be a tensor of floats")
            if key in self._constants:
                own = self._constants[key]
                same = value.shape == own.shape and torch.equal(value.to(own), own)
                if not same:
                    raise ArgumentError(
                        f"{where}: {key} is not the bank's; frozen projections and buffers must be "
                        "the same for all clients"
                    )
                continue
            shape = self.arena.slots[key].shape
            wanted = (self.clients, *shape) if client is None else shape
            if value.shape != wanted:
                raise ArgumentError(
                    f"{where}: {key} has shape {tuple(value.shape)}; it must be {wanted}"
                )
            if not bool(torch.isfinite(value).all()):
                raise ArgumentError(f"{where}: {key} holds NaN or infinite numbers")
