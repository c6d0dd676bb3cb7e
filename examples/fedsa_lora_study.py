"""One federated training: local steps of all clients in one bank, rounds by one rule, tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fedsa_lora_model import Samples, Top, adapted
from fedsa_lora_records import Method, Row
from fedsa_lora_text import Deal
from safetensors.torch import save

import pyfed
from pyfed.lora import BankAdamW, ClientBank, FedSALoRA, upload

MESSAGES = ("fedit", "ffa", "rolora", "fedsa")  # rules with messages of their own
CHECKED = 2  # rounds in which a server of messages must agree with the bank; RoLoRA takes turns

# For each method the best of GRID by personal accuracy on a split that is not reported; see
# fedsa_lora.py --tune. Two are close for local-only: it has what is better on those reported.
GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
VERA = 10  # times as high, for vectors that scale frozen projections
METHODS = (
    Method("local-only", None, "local", 1e-3),
    Method("fedit", "fedit", "shared", 4e-3),
    Method("ffa", "ffa", "shared", 8e-3),
    Method("rolora", "rolora", "shared", 8e-3),
    Method("flora", "flora", "shared", 4e-3),
    Method("fedex", "fedex", "shared", 8e-3),
    Method("flexlora", "flexlora", "shared", 4e-3),
    Method("hetlora", "hetlora", "shared", 8e-3),
    Method("fedsvd", "fedsvd", "shared", 8e-3),
    Method("fedit, own heads", "fedit", "local", 2e-3),
    Method("fedsa, one head", "fedsa", "shared", 1e-3),
    Method("fedsa", "fedsa", "local", 1e-3),
    Method("fedsa, rsLoRA", "fedsa", "local", 5e-4, "rsLoRA"),
    Method("fedsa, VeRA", "fedsa", "local", 1e-2, "VeRA"),
)


@dataclass(frozen=True)
class Setting:
    """How long clients train.

    Attributes:
        rounds: How many.
        steps: Of each client in a round.
        batch: Samples in a step.
        points: On how many rounds the curve of personal accuracy is measured.
    """

    rounds: int
    steps: int
    batch: int
    points: int = 5


class Study:
    """All methods on one split, from the same first values and with the same batches.

    Args:
        samples: All samples.
        top: The upper layers, without adapters.
        parts: Who has which samples.
        setting: How long clients train.
        seed: Of first values, batches and dropout.
    """

    def __init__(
        self, samples: Samples, top: Top, parts: Deal, setting: Setting, seed: int
    ) -> None:
        self.samples, self.top, self.parts = samples, top, parts
        self.setting, self.seed = setting, seed
        self.clients = len(parts.train)

    def run(self, method: Method, step: Callable[[], None] = lambda: None) -> Row:
        """Train by one method, and test what the clients have.

        Args:
            method: Which.
            step: Called after each round.
        """
        model = adapted(self.top, method.adapter, self.seed)
        key = pyfed.Key(self.seed.to_bytes(32, "little"))
        bank = ClientBank.from_peft(model, self.clients, key=key)
        optimizer = BankAdamW(bank, lr=method.lr, max_norm=1.0)
        generator = torch.Generator().manual_seed(self.seed)
        last, seconds = self.setting.rounds, 0.0
        every = -(-last // self.setting.points)
        up = down = 0.0
        curve: dict[int, float] = {}
        trained = personal = torch.empty(0)
        for number in range(last):
            began = time.perf_counter()
            self._local_steps(bank, optimizer, method, number, generator)
            seconds += time.perf_counter() - began
            if number == last - 1:
                trained = self._personal(bank)
            if method.rule:
                sent, expected = self._uplink(bank, method, number)
                up += sent / last
                began = time.perf_counter()
                down += self._close(bank, optimizer, method, number) / last
                seconds += time.perf_counter() - began
                self._expect(bank, expected, method)
            if (number + 1) % every == 0 or number == last - 1:
                personal = self._personal(bank)
                curve[number + 1] = float(personal.mean())
            step()
        return Row(
            *(method.name, self.seed, method.rule, method.heads, method.adapter, method.lr),
            personal=personal.tolist(),
            trained=trained.tolist(),
            **self._everyone(bank, method),
            uplink=up,
            downlink=down,
            curve=curve,
            seconds=seconds,
        )

    def _local_steps(
        self,
        bank: ClientBank,
        optimizer: BankAdamW,
        method: Method,
        number: int,
        generator: torch.Generator,
    ) -> None:
        """The steps of one round; a rule that sends one half trains that half alone."""
        groups = {"a", "b"}
        if method.rule == "fedsvd":
            groups = {"b"}
        elif method.rule in ("ffa", "rolora"):
            groups &= set(FedSALoRA(method.rule).share(number))
        bank.train_only("head", *sorted(groups))
        for _ in range(self.setting.steps):
            chosen = [
                own[torch.randint(len(own), (self.setting.batch,), generator=generator)]
                for own in self.parts.train
            ]
            bank.step([self.samples.batch(numbers) for numbers in chosen], optimizer)

    def _uplink(
        self, bank: ClientBank, method: Method, number: int
    ) -> tuple[float, list[dict[str, torch.Tensor]]]:
        """Bytes of a client's encoded upload, and what messages leave the clients with.

        Rules without messages send the state dict that their server needs, as safetensors.
        """
        assert method.rule
        if method.rule not in MESSAGES:
            state = upload(bank.state_dict(0), method.rule, round=number, heads=method.heads)
            return len(save({name: value.contiguous() for name, value in state.items()})), []
        rule = FedSALoRA(method.rule, heads=method.heads)
        count = self.clients if number < CHECKED else 1
        states = [
            {name: value.clone() for name, value in bank.state_dict(client).items()}
            for client in range(count)
        ]
        clients = [rule.client(i, state, bank.config, number) for i, state in enumerate(states)]
        sent = [client.start()[0] for client in clients]
        size = sum(len(message.to_bytes()) for message in sent) / count
        if number >= CHECKED:
            return size, []
        server = rule.server(states[0], count, bank.config, number)
        for client, message in enumerate(sent):
            server.handle(message, client)
        for message in server.close_phase():
            clients[message.recipient].handle(message, -1)
        return size, states

    def _close(self, bank: ClientBank, optimizer: BankAdamW, method: Method, number: int) -> int:
        """Aggregate in place; the bytes that each client must get for it."""
        assert method.rule
        settings: dict[str, Any] = {"heads": method.heads, "round": number}
        if method.rule == "fedsvd":
            settings["previous"] = {k: v.clone() for k, v in bank.state_dict(0).items()}
        residual = method.rule in ("flora", "fedex")
        with torch.random.fork_rng(devices=[]):  # flora draws a new A
            torch.manual_seed(1_000_000 * (number + 1) + self.seed)
            out = bank.aggregate(
                method.rule,
                merge=residual,
                reset=optimizer if method.rule == "flora" else None,
                **settings,
            )
        state = dict(out.per_client[0] if out.per_client else out.shared)
        for module, change in out.residual.items():
            state |= {f"{module}.a": change.a.float(), f"{module}.b": change.b.float()}
        return len(save({name: value.contiguous() for name, value in state.items()}))

    @staticmethod
    def _expect(bank: ClientBank, states: list[dict[str, torch.Tensor]], method: Method) -> None:
        """Raise unless the bank holds what messages left the clients with."""
        for client, state in enumerate(states):
            for name, value in bank.state_dict(client).items():
                if not torch.equal(value, state[name]):
                    raise RuntimeError(f"{method.name}: {name} of client {client} is not its own")

    def _right(self, bank: ClientBank, numbers: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of each client which of some samples its model has right, bool."""
        found = bank.predict([self.samples.batch(own) for own in numbers])
        return [
            logits.argmax(1) == self.samples.labels[own]
            for logits, own in zip(found, numbers, strict=True)
        ]

    def _personal(self, bank: ClientBank) -> torch.Tensor:
        """The accuracy of each client's model on its own test set, (clients,)."""
        return torch.stack([right.float().mean() for right in self._right(bank, self.parts.tests)])

    def _everyone(self, bank: ClientBank, method: Method) -> dict[str, float | None]:
        """Accuracies on the global test set."""
        everyone = self.parts.everyone
        labels = self.samples.labels[everyone]

        def accuracy() -> float:
            logits = bank.predict(self.samples.batch(everyone), client=0)
            return float((logits.argmax(1) == labels).float().mean())

        if method.is_global:
            return {"global_accuracy": accuracy(), "mean_model": None, "own_models": None}
        own = torch.stack(
            [right.float().mean() for right in self._right(bank, [everyone] * self.clients)]
        )
        kept = bank.arena.data.clone()
        bank.arena.data.copy_(kept.mean(0, keepdim=True))
        mean = accuracy()
        bank.arena.data.copy_(kept)
        return {"global_accuracy": None, "mean_model": mean, "own_models": float(own.mean())}
