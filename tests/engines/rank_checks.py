"""What four ranks do in one session; test_distributed.py looks at what they saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from engine_scenes import DROPS, SECRET, code, protocol, some_updates, vector, weights
from ranks import refused
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyfed
from pyfed import MERSENNE31, SOLINAS31, WIDE, Key
from pyfed.engines import distributed
from pyfed.engines.distributed import MaskedGradients, SecureSum, mask_gradients, torch_names
from pyfed.engines.distributed.positions import Run
from pyfed.errors import DecodeError, ThresholdError
from pyfed.streaming import shard

Seen = dict[str, Any]


def check_sums(rank: int, size: int) -> Seen:
    seen: Seen = {}
    for field in (SOLINAS31, MERSENNE31, WIDE):
        for length in (0, 1, 5, 64, 1003):
            x = vector(field, length, rank)
            before = x.clone()
            part = distributed.reduce_scatter(x, field)
            seen[field.name, length] = (
                part,
                distributed.all_gather(part, field),
                distributed.all_reduce(x, field),
            )
            assert torch.equal(x, before)
    x = vector(SOLINAS31, 10, rank)
    seen["splits"] = distributed.reduce_scatter(x, SOLINAS31, splits=[0, 7, 0, 3])
    seen["strided"] = distributed.all_reduce(vector(SOLINAS31, 20, rank)[::2], SOLINAS31)
    return seen


def check_a_group_of_two(rank: int, size: int) -> Any:
    pair = dist.new_group([1, 3])
    x = vector(SOLINAS31, 33, rank)
    if rank not in (1, 3):
        return refused(distributed.all_reduce, x, SOLINAS31, pair)
    return distributed.all_reduce(x, SOLINAS31, pair)


def check_wrong_arguments(rank: int, size: int) -> Seen:
    """Rank 2 gives something else, and every rank raises."""
    x, odd, field = vector(SOLINAS31, 10, rank), rank == 2, SOLINAS31
    agreed, wrong_key = protocol(size), 5 if odd else None
    everyone = {
        "dtype": refused(distributed.all_reduce, x.long() if odd else x, field),
        "length": refused(distributed.reduce_scatter, x[:9] if odd else x, field),
        "field": refused(distributed.all_gather, x, MERSENNE31 if odd else field),
        "value": refused(distributed.all_reduce, torch.full_like(x, -1) if odd else x, field),
        "op": refused(distributed.all_gather if odd else distributed.all_reduce, x, field),
        "splits": refused(distributed.reduce_scatter, x, field, splits=[10]),
        "group": refused(distributed.all_reduce, x, field, "everybody"),
        "clients": refused(SecureSum, protocol(5)),
        "protocol": refused(SecureSum, None if odd else agreed),
        "key": refused(SecureSum, agreed, key=wrong_key),
        "lost": refused(SecureSum, agreed, lost="later" if odd else None),
        "round": refused(SecureSum, agreed, round=rank),
        "order": refused(SecureSum(agreed).reduce, torch.zeros(agreed.parameters.length)),
        "update": refused(distributed.secure_sum, agreed, torch.zeros(3 if odd else 40)),
        "secret": refused(
            distributed.encode_shard, code(), vector(field, 4, 0), Key(bytes([rank] * 32))
        ),
        "columns": refused(distributed.encode_shard, code(), vector(field, 3, 0), Key(bytes(32))),
    }
    sum_after = distributed.all_reduce(torch.ones(3, dtype=torch.int32), field)
    return {**everyone, "then": sum_after.tolist()}


def check_secure_sums(rank: int, size: int) -> list[Any]:
    agreed = protocol(size)
    updates = some_updates(agreed)
    seen = []
    for number, drop in enumerate(DROPS):
        lost = next((phase for phase, ranks in drop.items() if rank in ranks), None)
        key = Key(SECRET).derive("client", number, rank)
        step = SecureSum(agreed, round=number, key=key, lost=lost)
        step.share()
        result = step.reduce(updates[rank], weights(size)[rank])
        seen.append((result.residues, result.included, result.total_weight, result.traffic))
    for field in (MERSENNE31, WIDE):
        other = protocol(size, field)
        result = distributed.secure_sum(other, updates[rank], group=dist.group.WORLD)
        seen.append((result.residues, result.included, result.total_weight, result.traffic))
    late = None if rank == 1 else updates[rank]  # a rank that has no update after all
    result = distributed.secure_sum(agreed, late)
    seen.append((result.residues, result.included, result.total_weight, result.traffic))
    return seen


def check_too_few(rank: int, size: int) -> list[Any]:
    agreed, seen = protocol(size), []
    updates = some_updates(agreed)
    for phase in agreed.phases:
        lost = phase if rank in (0, 3) else None
        try:
            distributed.secure_sum(agreed, updates[rank], lost=lost)
        except ThresholdError as error:
            seen.append((error.missing, error.needed, str(error)))
    return seen


class Faulty(SecureSum):
    """A rank whose boxes for some ranks are spoilt on the way, or whose answer is wrong."""

    spoilt: tuple[int, ...] = ()
    lies = False

    def _exchanged(self, boxes: dict[int, bytes]) -> Any:
        return super()._exchanged(
            {peer: bytes(len(box)) if peer in self.spoilt else box for peer, box in boxes.items()}
        )

    def _handled(self, kind: Any, **fields: Any) -> list[Any]:
        (message,) = super()._handled(kind, **fields)
        if self.lies and message.kind == "Answer":
            message = replace(message, row=bytes(4) + message.row[4:])
        return [message]


def check_faults(rank: int, size: int) -> list[Any]:
    seen: list[Any] = []
    for spoilt, errors, lies in (((1,), 0, ()), ((1, 2), 0, ()), ((), 1, (3,)), ((), 1, (2, 3))):
        agreed = protocol(size, dropouts=0 if errors else 1, errors=errors)
        step = Faulty(agreed)
        step.spoilt, step.lies = spoilt if rank == 0 else (), rank in lies
        step.share()
        try:
            result = step.reduce(torch.full((agreed.parameters.length,), 0.25))
            seen.append((sorted(result.included), result.wrong, result.sum[0].item()))
        except DecodeError as error:
            seen.append(str(error))
    return seen


def check_shards(rank: int, size: int) -> Seen:
    key, seen = Key(SECRET), {}
    made = code()
    for length in (3, 50, 250):
        flat = vector(SOLINAS31, length, 9)
        part = shard(-(-length // made.blocks), size)[rank]
        mine = flat[part.start * made.blocks : part.stop * made.blocks]
        first, shares = distributed.encode_shard(made, mine, key)
        rows = shares[[4, 0, 3]]
        back = distributed.decode_shards(made, rows, [4, 0, 3], length)
        seen[length] = (first, shares, back)
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=2)
    floats = torch.linspace(-1, 1, 80)[20 * rank : 20 * rank + 20]
    seen["floats"] = distributed.encode_shard(made, floats, key, fixed=fixed, stream=3)
    shares = shares.clone()
    if rank == 1:
        shares[2, 0] ^= 1  # in one column, of one rank
    every = [0, 1, 2, 3, 4]
    seen["wrong"] = refused(distributed.decode_shards, made, shares, every)
    seen["repaired"] = distributed.decode_shards(made, shares, every, correct=1)
    return seen


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 2)
    )


def gradients(
    rank: int, group: Any, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[torch.Tensor, int]:
    """The gradients of four batches, one row each, and how many steps the hook has counted.

    Buckets are small, and made anew after the first batch.
    """
    how = {"process_group": group, "bucket_cap_mb": 0.002, "gradient_as_bucket_view": rank < 2}
    model = DistributedDataParallel(network().to(dtype), **how)
    state = None
    if options:
        state = MaskedGradients(model, **options)
        model.register_comm_hook(state, mask_gradients)
    data, rows = torch.Generator().manual_seed(rank), []
    for _ in range(4):
        model.zero_grad()
        model(3 * torch.randn(8, 6, generator=data).to(dtype)).square().mean().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(rows), state.step if state else 0


def check_gradients(rank: int, size: int) -> Seen:
    pair, seen = dist.new_group([0, 1]), {}
    for name, group in (("all", dist.group.WORLD), ("pair", pair)):
        if name == "pair" and rank > 1:
            continue
        seen[name, "plain"] = gradients(rank, group)
        for arithmetic in ("field", "words"):
            key = Key(bytes([rank] * 32))
            seen[name, arithmetic] = gradients(rank, group, arithmetic=arithmetic, key=key)
    half = {"dtype": torch.bfloat16, "group": dist.group.WORLD}
    seen["half"] = gradients(rank, **half)[0], gradients(rank, **half, bits=16)[0]
    return seen


def check_secrets_that_come_again(rank: int, size: int) -> list[Any]:
    """The keys of the pairs, twice under one secret of each rank, and a payload's tail."""
    found = []
    for _ in range(2):
        state = MaskedGradients(nn.Linear(2, 2), key=Key(bytes([rank] * 32)))
        keys = [key.reveal() for key in state._masking._keys]
        payload = state._masking.masked(torch.zeros(1), [Run(0, 0, 1)], 3, torch.tensor(0).int())
        found.append((keys, payload[-2:].tolist()))
        state.close()
    return found


def check_hook_faults(rank: int, size: int) -> Seen:
    seen: Seen = {}
    for arithmetic in ("field", "words"):
        model = DistributedDataParallel(network())
        state = MaskedGradients(model, arithmetic=arithmetic)
        model.register_comm_hook(state, mask_gradients)
        bad = torch.full((1, 6), float("nan") if rank == 1 else 1.0)
        seen[arithmetic] = refused(lambda m=model, b=bad: m(b).sum().backward())
        model = DistributedDataParallel(network())  # the one before cannot go on
        state = MaskedGradients(model, arithmetic=arithmetic)
        model.register_comm_hook(state, mask_gradients)
        state.step = 2**32
        seen[arithmetic, "steps"] = refused(lambda m=model: m(torch.ones(1, 6)).sum().backward())
        model = DistributedDataParallel(network())
        state = MaskedGradients(model, arithmetic=arithmetic)
        model.register_comm_hook(state, mask_gradients)
        state.step = 5 if rank == 1 else 6
        seen[arithmetic, "apart"] = refused(lambda m=model: m(torch.ones(1, 6)).sum().backward())
    model = DistributedDataParallel(network())
    state = MaskedGradients(model, nonfinite="propagate")
    model.register_comm_hook(state, mask_gradients)
    model(bad).sum().backward()
    seen["propagated"] = all(bool(p.grad.isnan().all()) for p in model.parameters())
    seen["step"] = state.step
    seen["double"] = refused(MaskedGradients, nn.Linear(2, 2).double())
    seen["options"] = refused(MaskedGradients, nn.Linear(2, 2), bits=20 + (rank == 3))
    seen["arithmetic"] = refused(MaskedGradients, nn.Linear(2, 2), arithmetic="floats")
    return seen


def check_names(rank: int, size: int) -> Any:
    """The collectives under their old names alone, as older versions have them."""
    x = torch.full((2,), rank, dtype=torch.int32)
    out = []
    for names in ((), ("all_gather_single", "reduce_scatter_single")):
        kept = {name: getattr(dist, name) for name in names if hasattr(dist, name)}
        for name in kept:
            delattr(dist, name)
        try:
            every, mine = x.new_empty(2 * size), x.new_empty(2)
            torch_names.all_gather_single(every, x)
            torch_names.reduce_scatter_single(mine, every)
            out.append((every.tolist(), mine.tolist()))
        finally:
            for name, function in kept.items():
                setattr(dist, name, function)
    return out
