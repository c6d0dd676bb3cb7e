"""One process's place in a process group, and the few transfers that all else is made of.

Only int32 and int64 travel: gloo and NCCL refuse other unsigned and 16-bit integers, and after such
a refusal the next collective hangs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from pyfed.engines.distributed.torch_names import all_gather_single
from pyfed.errors import ArgumentError, DtypeError


class Link:
    """This process as a rank of a group.

    Args:
        op: what messages name.
        group: a process group; None: the default one.

    Raises:
        ArgumentError: torch.distributed is not initialised, or this process is not in the group.
        DtypeError: ``group`` is no process group.

    Attributes:
        rank: of this process in the group.
        size: ranks in the group.
        device: where tensors must lie to travel.
        sent: bytes that this rank has sent to others so far.
    """

    def __init__(self, op: str, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ArgumentError(
                f"{op}: torch.distributed is not initialised; call "
                "torch.distributed.init_process_group first"
            )
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ArgumentError(
                f"{op}: this process is not in group; only its members may call {op} with it"
            )
        if group is not None and not isinstance(group, dist.ProcessGroup):
            kind = type(group).__name__
            raise DtypeError(f"{op}: group is {kind}; it must be a torch.distributed.ProcessGroup")
        self.group: Any = dist.group.WORLD if group is None else group
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        self.device = _wire_device(self.group)
        self.sent = 0

    def rows(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers, from -2^63 to 2^63 - 1 and as many everywhere, of every rank, by rank."""
        mine = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        every = mine.new_empty(self.size * len(numbers))
        all_gather_single(every, mine, group=self.group)
        self.sent += 8 * len(numbers) * (self.size - 1)
        rows: list[list[int]] = every.view(self.size, -1).tolist()
        return rows

    def exchange(
        self, words: torch.Tensor, out_sizes: Sequence[int], in_sizes: Sequence[int]
    ) -> torch.Tensor:
        """Send a piece to every rank, and get one from each.

        Args:
            words: int32 (Σ out_sizes,), the pieces in order of rank.
            out_sizes: words for each rank; 0 for one that gets nothing.
            in_sizes: words from each rank; every rank must expect what the others send.

        Returns:
            int32 (Σ in_sizes,) on the device of ``words``.
        """
        home, given = words.device, words.to(self.device).contiguous()
        out = given.new_empty(sum(in_sizes))
        dist.all_to_all_single(out, given, list(in_sizes), list(out_sizes), group=self.group)
        self.sent += 4 * (sum(out_sizes) - out_sizes[self.rank])
        return out.to(home)

    def gather(self, words: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """The words of all ranks, end to end, everywhere.

        Args:
            words: int32 (sizes[rank],).
            sizes: words of each rank, the same numbers on every rank.

        Returns:
            int32 (Σ sizes,) on the device of ``words``.
        """
        if len(set(sizes)) > 1:
            return self.exchange(words.repeat(self.size), [words.numel()] * self.size, sizes)
        home, given = words.device, words.to(self.device).contiguous()
        out = given.new_empty(sum(sizes))
        if out.numel():
            all_gather_single(out, given, group=self.group)
        self.sent += 4 * words.numel() * (self.size - 1)
        return out.to(home)


def _wire_device(group: Any) -> torch.device:
    """The current CUDA device where NCCL serves it, else the CPU."""
    served = str(dist.get_backend_config(group))
    if "cuda:nccl" in served and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
