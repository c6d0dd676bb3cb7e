"""Passes of a bank: training steps, losses and predictions of all clients at once."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.bank_loss import Loss, UnknownLabel, client_means, logits_of
from pyfed.lora.bank_pass import Passes
from pyfed.lora.bank_state import BankState
from pyfed.lora.batches import Batch, Batches, Rows, sent
from pyfed.lora.dropout import dropout_stream

if TYPE_CHECKING:
    from pyfed.lora.optim import BankOptimizer


class BankTraining(BankState):
    """What a bank does with batches.

    Attributes:
        tile: how many clients go through the model at once.
        taking_part: which clients had samples since :meth:`zero_grad`, bool (clients,) on the CPU.
    """

    tile: int
    taking_part: torch.Tensor
    _loss: Loss
    _passes: Passes
    _padding: int
    _drops: bool
    _loss_keys: frozenset[str]

    def zero_grad(self) -> None:
        """Forget gradients, and who took part."""
        self.arena.grad.zero_()
        self.taking_part.zero_()

    @torch.enable_grad()
    def step(self, batches: Sequence[Batch | None], optimizer: BankOptimizer) -> torch.Tensor:
        """Train every client that has samples for one step.

        Args:
            batches: for each client what the model is called with, by name, and ``labels``; or
                None, or a batch of no samples, for a client that is absent. Numbers of samples may
                differ; where lengths do, samples are filled up behind, with an attention mask.
            optimizer: of this bank.

        Returns:
            Mean losses before the step, (clients,); NaN for absent clients, of which nothing
            changes: parameters, moments, steps, dropout.

        Raises:
            DtypeError: a batch has a wrong type, or the optimiser is none of a bank.
            ArgumentError: batches do not fit, the optimiser is another bank's, a label is none of
                the model's, or a client's loss or gradient is not finite. No client is changed
                then.
        """
        self.expect_own("step", "optimizer", optimizer)
        ready = self._ready("step", batches)
        losses: torch.Tensor = self._nothing()
        self.zero_grad()
        try:
            for rows, inputs in self._tiles(ready, training=True):
                with self._pass(rows, training=True):
                    found = self._tile_losses(rows, inputs)
                    found.sum().backward()
                self._place(losses, rows, found.detach())
            self._expect_finite(losses, ready.present)
            self.taking_part[ready.present] = True
            optimizer.step()
        except BaseException:
            self.zero_grad()
            raise
        self.steps[ready.present] += 1
        return losses

    def losses(self, batches: Sequence[Batch | None], training: bool = True) -> torch.Tensor:
        """Mean losses of every client, differentiable.

        ``losses.nansum().backward()`` adds to ``arena.grad``; ``optimizer.step()`` then moves the
        clients that took part since :meth:`zero_grad`.

        Args:
            batches: as for :meth:`step`.
            training: whether dropout is on; each such pass has a stream of its own.

        Returns:
            (clients,), NaN for absent clients.

        Raises:
            DtypeError: a batch has a wrong type.
            ArgumentError: batches do not fit, or a label is none of the model's.
        """
        ready = self._ready("losses", batches)
        losses = self._nothing()
        for rows, inputs in self._tiles(ready, training):
            with self._pass(rows, training):
                self._place(losses, rows, self._tile_losses(rows, inputs))
        if training:
            self.steps[ready.present] += 1
            self.taking_part[ready.present] = True
        return losses

    @torch.no_grad()
    def predict(
        self,
        batches: Sequence[Batch | None] | Batch,
        client: int | None = None,
        output: Callable[[Any], torch.Tensor] | None = None,
    ) -> list[torch.Tensor | None] | torch.Tensor:
        """What the model gives for samples, without dropout.

        Args:
            batches: for each client a batch or None; with ``client`` one batch.
            client: whose adapter serves the batch.
            output: takes a tensor (samples, …) from the model's outputs; None: the logits.

        Returns:
            For each client a tensor or None, without what samples were filled up with; with
            ``client`` one tensor.

        Raises:
            DtypeError: a batch has a wrong type.
            ArgumentError: batches do not fit, or there is no such client.
        """
        everyone: object = batches
        if client is not None:
            self._expect_client("predict", client)
            everyone = [batches if number == client else None for number in range(self.clients)]
        ready = self._ready("predict", everyone)
        found: list[torch.Tensor | None] = [None] * self.clients
        for rows, inputs in self._tiles(ready, training=False):
            with self._pass(rows, training=False):
                outputs = self._run(inputs)
            values = logits_of("predict", outputs) if output is None else output(outputs)
            for number, part in enumerate(values.split(rows.counts), rows.first):
                if len(part):
                    padded = part.dim() > 2 and part.shape[1] == ready.longest
                    found[number] = part[:, : ready.lengths[number]] if padded else part
        return found if client is None else found[client]  # type: ignore[return-value]

    def expect_finite_gradients(self) -> None:
        """Raise unless the gradients of all clients are finite."""
        largest = torch.linalg.vector_norm(self.arena.grad, torch.inf, dim=1)
        bad = torch.nonzero(~torch.isfinite(largest)).flatten().tolist()
        if bad:
            raise ArgumentError(
                f"ClientBank: the gradient of client {bad[0]} is not finite; look at its batch and "
                f"its learning rate (not finite: clients {bad})"
            )

    def expect_own(self, op: str, name: str, optimizer: object) -> None:
        """Raise unless an optimiser was made for this bank."""
        bank = getattr(optimizer, "bank", None)
        if bank is None:
            kind = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
            raise DtypeError(
                f"{op}: {name} is {kind}; it must be a BankAdamW or BankSGD made for this bank"
            )
        if bank is not self:
            raise ArgumentError(f"{op}: {name} belongs to another bank; it must be made for this")

    def _pass(self, rows: Rows, training: bool) -> AbstractContextManager[None]:
        """A pass of the model with these rows' clients."""
        return self._passes.of(rows, self.arena.parameters(rows.first, rows.last), training)

    def _run(self, batch: dict[str, Any]) -> Any:
        """The model's outputs for a joined batch."""
        return self._passes.run({k: v for k, v in batch.items() if k not in self._loss_keys})

    def _ready(self, op: str, batches: object) -> Batches:
        return Batches(op, batches, self.clients, self.arena.data.device, self._padding)

    def _tiles(self, ready: Batches, training: bool) -> Iterator[tuple[Rows, dict[str, Any]]]:
        """Whose rows go through the model at once, and the joined batches."""
        for first in range(0, self.clients, self.tile):
            last = min(first + self.tile, self.clients)
            counts = ready.counts[first:last]
            if not training:  # nothing is kept, so absent clients at the ends are left out
                while counts and not counts[-1]:
                    counts.pop()
                while counts and not counts[0]:
                    first, counts = first + 1, counts[1:]
            if any(counts):
                streams = None
                if training and self._drops:
                    steps = self.steps[first : first + len(counts)].tolist()
                    streams = torch.tensor(
                        [dropout_stream(first + i, step) for i, step in enumerate(steps)]
                    )
                rows = Rows(first, counts, self.arena.data.device, streams)
                yield rows, ready.join(rows.first, rows.last)

    def _tile_losses(self, rows: Rows, batch: dict[str, Any]) -> torch.Tensor:
        """The mean loss of each client in these rows; 0 where it is absent."""
        outputs = self._run(batch)
        try:
            found = self._loss(outputs, batch)
        except UnknownLabel as error:
            client = rows.first + bisect.bisect_right(rows.edges, error.sample) - 1
            raise ArgumentError(f"ClientBank: a label of client {client} {error}") from None
        means, counts = client_means(found, rows)
        # A client whose samples do not count has no loss: NaN tells of it, as PEFT's mean does.
        return torch.where((counts == 0) & ~rows.absent, torch.nan, means)

    def _nothing(self) -> torch.Tensor:
        return torch.full(
            (self.clients,), torch.nan, dtype=self.arena.data.dtype, device=self.arena.data.device
        )

    @staticmethod
    def _place(losses: torch.Tensor, rows: Rows, found: torch.Tensor) -> None:
        """Write the losses of the present clients of a tile."""
        chosen = sent(rows.present, losses.device)
        losses.index_copy_(0, chosen + rows.first, found[chosen].to(losses.dtype))

    def _expect_finite(self, losses: torch.Tensor, present: Iterable[int]) -> None:
        told = losses.tolist()
        for client in present:
            if not -torch.inf < told[client] < torch.inf:
                raise ArgumentError(
                    f"step: the loss of client {client} is {told[client]}; look at its batch: are "
                    "all labels -100, or numbers not finite?"
                )
