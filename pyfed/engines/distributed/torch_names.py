"""Two collectives of torch.distributed under the names that all supported versions are asked by.

PyTorch 2.13 has new names for ``all_gather_into_tensor`` and ``reduce_scatter_tensor``, and warns
of the old ones; earlier versions know the old ones alone.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def _named(new: str, old: str) -> Any:
    """The collective's new name where there is one."""
    found = getattr(dist, new, None)
    return getattr(dist, old) if found is None else found


def all_gather_single(*args: Any, **kwargs: Any) -> Any:
    """``all_gather_single``, formerly ``all_gather_into_tensor``: output, input, group."""
    return _named("all_gather_single", "all_gather_into_tensor")(*args, **kwargs)


def reduce_scatter_single(*args: Any, **kwargs: Any) -> Any:
    """``reduce_scatter_single``, formerly ``reduce_scatter_tensor``: output, input, op, group."""
    return _named("reduce_scatter_single", "reduce_scatter_tensor")(*args, **kwargs)
