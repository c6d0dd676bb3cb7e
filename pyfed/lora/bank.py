"""Many clients' adapters trained in one pass over one frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pyfed.checks import expect_int, expect_key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.lora.arena import Arena
from pyfed.lora.bank_layers import BankedLora, BankedVera, Frame
from pyfed.lora.bank_loss import Loss, cross_entropy
from pyfed.lora.bank_model import read_model
from pyfed.lora.bank_pass import Passes
from pyfed.lora.bank_training import BankTraining
from pyfed.lora.dropout import CounterDropout, DropoutClock, dropouts_of

if TYPE_CHECKING:
    from pyfed.lora.optim import BankOptimizer
    from pyfed.lora.result import AggregateResult


class ClientBank(BankTraining):
    """The adapters and heads of many clients on one frozen base, trained in one pass.

    Batches of all clients are concatenated. The base serves them together; in adapted layers each
    row meets its own client's factors. The loss is the sum of each client's mean loss, so every
    client gets the gradient that it would get alone. Made by :meth:`from_peft`.

    Attributes:
        model: the PEFT model. Between calls of the bank it is what it was, and it may be used.
        config: the adapter's configuration in PEFT.
        arena: ``data`` and ``grad``, each (clients, length): a row holds all that a client trains.
        steps: how many training passes each client has made, int64 (clients,) on the CPU; it is
            the stream of its dropout.
        taking_part: which clients had samples since :meth:`zero_grad`, bool (clients,) on the CPU.
        key: of the dropout.
        base_changed: whether :meth:`aggregate` has merged residuals into the base; may be set.
    """

    def __init__(
        self,
        model: Any,
        clients: int,
        adapter: str | None,
        tile: int | None,
        key: Key,
        loss: Loss | None,
        loss_keys: Sequence[str],
        modes: tuple[bool, bool],
    ) -> None:
        frame = Frame()
        parts = read_model(model, adapter, clients, key, frame)
        self.model, self.key, self.tile = model, key, tile or clients
        self.config = model.peft_config[parts.adapter]
        self.arena = Arena(
            clients,
            (
                (name, group, parameter.shape)
                for layer in parts.layers
                for name, (group, parameter) in layer.parameters.items()
            ),
            parts.dtype,
            parts.device,
        )
        self.arena.train(parts.trainable)
        self._constants = parts.constants
        self._rates = {
            layer.path: layer.rate
            for layer in parts.layers
            if isinstance(layer, BankedLora | BankedVera)
        }
        self._drops = any(self._rates.values())
        with torch.no_grad():
            for layer in parts.layers:
                for name, (_, parameter) in layer.parameters.items():
                    self.arena.view(self.arena.data, name).copy_(parameter)
        self.steps = torch.zeros(clients, dtype=torch.int64)
        self.taking_part = torch.zeros(clients, dtype=torch.bool)
        self._loss = loss or cross_entropy(_is_causal(model, self.config))
        self._loss_keys = frozenset(loss_keys)
        self._passes = Passes(model, frame, parts.layers, *modes)
        self._padding = _padding_of(model)

    @classmethod
    def from_peft(
        cls,
        model: Any,
        clients: int,
        adapter: str | None = None,
        tile: int | None = None,
        checkpoint: bool = False,
        key: Key | None = None,
        loss: Loss | None = None,
        loss_keys: Sequence[str] = ("labels",),
        base_dropout: bool = False,
    ) -> ClientBank:
        """A bank in which every client starts from a PEFT model's adapter.

        Adapters are LoRA (rsLoRA and rank patterns included) on linear layers, or VeRA, and whole
        modules by ``modules_to_save``. They are kept in float32, or float64 for such a model. The
        base is shared, not copied, and never changed. Groups of parameters that the model has
        frozen while others train stay frozen: see :meth:`train_only`.

        Args:
            model: a ``peft.PeftModel``; without batch norm, on one device.
            clients: how many, from 1 on.
            adapter: name of the adapter; None: the active one.
            tile: how many clients go through the model at once, to bound memory; None: all.
            checkpoint: whether blocks of the model keep only their inputs, and are run again in
                the backward pass.
            key: of the adapters' dropout; None: a fresh one.
            loss: called with the model's outputs and the joined batch. It gives losses (samples,)
                or (samples, tokens), or a pair of these and weights of the same shape; a client's
                loss is its own weighted mean. None: cross entropy of ``labels``, for causal models
                that of the next token, without labels of -100.
            loss_keys: what of a batch is for the loss, and not for the model.
            base_dropout: whether the base's own dropout is on in training. It uses torch's
                generator, so a client then does not drop what it would drop alone.

        Returns:
            The bank.

        Raises:
            DtypeError: an argument has a wrong type.
            ArgumentError: the model has batch norm, several active adapters, merged or disabled
                ones, DoRA or another variant, biases in its adapters, adapted layers that are not
                linear, parameters that train but belong to no adapter, or tied heads; or a number
                is out of range.

        Example:
            >>> import peft, torch, transformers
            >>> from pyfed.lora import BankAdamW, ClientBank
            >>> sizes = dict(hidden_size=8, intermediate_size=8, vocab_size=20)
            >>> small = transformers.BertConfig(
            ...     num_hidden_layers=1, num_attention_heads=2, **sizes)
            >>> base = transformers.BertForSequenceClassification(small)
            >>> config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
            >>> bank = ClientBank.from_peft(peft.get_peft_model(base, config), clients=3)
            >>> optimizer = BankAdamW(bank, lr=1e-3, max_norm=1.0)
            >>> batch = {"input_ids": torch.ones(2, 5, dtype=torch.int64),
            ...          "labels": torch.tensor([0, 1])}
            >>> losses = bank.step([batch, None, batch], optimizer)  # client 1 is absent
            >>> losses.isnan().tolist()
            [False, True, False]
        """
        expect_int("ClientBank", "clients", clients, 1, 2**31)
        if tile is not None:
            expect_int("ClientBank", "tile", tile, 1, 2**31)
        for name, value in (("checkpoint", checkpoint), ("base_dropout", base_dropout)):
            if not isinstance(value, bool):
                kind = type(value).__name__
                raise DtypeError(f"ClientBank: {name} is {kind}; it must be a bool")
        if isinstance(loss_keys, str) or not all(isinstance(name, str) for name in loss_keys):
            raise DtypeError(f"ClientBank: loss_keys is {loss_keys!r}; it must be a list of names")
        key = Key.generate() if key is None else key
        expect_key("ClientBank", key)
        return cls(model, clients, adapter, tile, key, loss, loss_keys, (base_dropout, checkpoint))

    def train_only(self, *groups: str) -> None:
        """Train some groups and freeze the others; gradients and moments of those rest.

        Args:
            groups: of ``"a"`` (A, or λ_d of VeRA), ``"b"`` (B, or λ_b) and ``"head"``.

        Raises:
            ArgumentError: there is no such group in the bank, or none is given.
        """
        known = sorted(self.arena.spans)
        if not groups or not set(groups) <= set(known):
            raise ArgumentError(f"train_only: groups are {groups}; they must be some of {known}")
        self.zero_grad()
        self.arena.train(groups)

    def aggregate(
        self,
        rule: str,
        weights: Sequence[float] | torch.Tensor | None = None,
        *,
        merge: bool | None = None,
        reset: BankOptimizer | None = None,
        **settings: Any,
    ) -> AggregateResult:
        """Combine all clients' adapters by a rule, in place.

        What the rule shares is written to every client, and what it leaves (B for fedsa) keeps its
        bits. Optimisers keep their moments unless ``reset`` names one. Clients that were absent
        from training count as the others do, with what they had: give them weight 0 to leave them
        out of the means.

        Args:
            rule: of :func:`pyfed.lora.aggregate`.
            weights: of the clients, absent ones too; None: equal.
            merge: what becomes of a residual, which fedex and flora leave; they ask for an answer.
                True: it is merged into the base, for all clients and for the model, and
                ``base_changed`` is set: adapters saved from then on are wrong on the original
                base, so save the base too (:meth:`save_pretrained`). False: it is in the result
                alone, and clients are wrong until you merge it. flora needs True, and starts all
                adapters anew.
            reset: an optimiser whose moments and step counts are forgotten.
            settings: for :func:`pyfed.lora.aggregate`: ``round``, ``previous``, ``server`` and
                others. ``previous`` must be clones from before the training:
                :meth:`state_dict` gives views, which training changes.

        Returns:
            What :func:`pyfed.lora.aggregate` gave.

        Raises:
            DtypeError: an argument has a wrong type.
            ArgumentError: the rule refuses, gives another rank or scaling than the bank has,
                leaves no residual though ``merge`` is True, or one though it is None; or
                ``previous`` holds views of the bank. Nothing is changed then.
        """
        from pyfed.lora.bank_aggregate import aggregate_bank

        return aggregate_bank(self, rule, weights, merge, reset, settings)

    def counter_dropouts(self, client: int) -> tuple[dict[str, CounterDropout], DropoutClock]:
        """The client's dropout as modules, to train it alone in PEFT with the same masks.

        Masks are equal when samples are as long as in the bank, where they are filled up.

        Args:
            client: whose.

        Returns:
            Path of each adapted layer → module for its ``lora_dropout[adapter]``, and the clock
            that the modules share, set to the client's next step.

        Raises:
            ArgumentError: there is no such client.
        """
        self._expect_client("counter_dropouts", client)
        return dropouts_of(self._rates, self.key, client, int(self.steps[client]))


def _is_causal(model: Any, config: Any) -> bool:
    """Whether logits of a token are for the next one."""
    base = type(model.get_base_model()).__name__
    return config.task_type == "CAUSAL_LM" or "ForCausalLM" in base or "LMHeadModel" in base


def _padding_of(model: Any) -> int:
    """The token that fills up samples."""
    config = getattr(model.get_base_model(), "config", None)
    return getattr(config, "pad_token_id", None) or 0
