"""A communication hook for DistributedDataParallel: gradients travel masked, and only sums show."""

# No annotations from the future: register_comm_hook compares them with the types themselves.

import torch
import torch.distributed as dist

from pyfed.engines.distributed.gradients import MaskedGradients


def mask_gradients(
    state: MaskedGradients,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """The hook: ``ddp.register_comm_hook(state, mask_gradients)``.

    Gradients are the mean over all ranks, as without a hook, within the rounding of ``state``.

    Args:
        state: of this model, made on every rank.
        bucket: from DistributedDataParallel.

    Returns:
        A future of the bucket's buffer.

    Raises:
        ArgumentError: a gradient is NaN or infinite on some rank.
        ProtocolError: the ranks are not at one step.
        PyfedError: the keys have no step left.

    Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
    learning", CCS 2017, section 4.1 (pairwise masks that cancel).
    """
    return state.reduce(bucket)
