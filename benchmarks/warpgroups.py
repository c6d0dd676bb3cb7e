"""The products with the matrix instruction of Hopper, beside those that are taken by default."""

from __future__ import annotations

from collections.abc import Callable

import torch

from contests import Baseline
from pyfed import native

WARPGROUPS = "pyfed, by wgmma"


def here() -> tuple[str, ...]:
    """The name of these products where they can run, to stand among a size's baselines."""
    if not torch.cuda.is_available() or native._C is None or not native._C.build_info()["cuda"]:
        return ()
    before = native._C.set_wgmma(True)
    serves = native._C.wgmma_serves()
    native._C.set_wgmma(before)
    return (WARPGROUPS,) if serves else ()


def by_wgmma(run: Callable[[], torch.Tensor]) -> Baseline:
    """The same call with the switch on; it must give the same bits."""

    def switched() -> torch.Tensor:
        before = native._C.set_wgmma(True)
        try:
            return run()
        finally:
            native._C.set_wgmma(before)

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert torch.equal(output, expected)

    return Baseline(switched, check)
