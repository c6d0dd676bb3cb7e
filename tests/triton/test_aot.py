"""Every Triton kernel compiles for sm_80 and sm_90, into matrix instructions, without spilling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_all.py")
SUMS = {
    *("mean_kernel", "scatter_kernel", "weighted_mean_kernel", "adamw_kernel", "sgd_kernel"),
    *("sketch_kernel", "panel_kernel", "panel_product_kernel", "noise_kernel"),
}
IN_FLOATS = {"finish_kernel", "prune_kernel", "dropout_kernel", *SUMS}
ON_MATRIX_UNITS = {"product_kernel", "lagrange_encode_kernel"}
IN_SECRET = {
    "discrete_gaussian_kernel",
    *("random_words_kernel", "random_residues_kernel", "add_masks_kernel", "quantize_kernel"),
    "quantize_mask_kernel",
    *("digits_kernel", "product_kernel", "lagrange_encode_kernel"),
    *("sketch_kernel", "panel_kernel", "panel_product_kernel", "noise_kernel"),
    *("place_kernel", "lookup_kernel"),
}
ON_TENSOR_CORES = {
    *("merge_kernel", "shrink_kernel", "expand_kernel", "gradient_kernel"),
    *("sketch_kernel", "panel_product_kernel"),
}


SHARES = {"quarters": {"80": ["0"], "90": ["1"]}, "everything": {"80": [], "90": []}}
"""By architecture, which launches of a kernel after its first: of four one, not the same ones."""


@pytest.fixture(
    scope="module", params=["quarters", pytest.param("everything", marks=pytest.mark.slow)]
)
def compiled(
    request: pytest.FixtureRequest, once: Callable[[str, Callable[[Path], object]], Path]
) -> list[dict[str, Any]]:
    """What compile_all.py says; in processes of its own, since this one may be interpreting."""
    share = SHARES[request.param]

    def compile_all(folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        running = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(SCRIPT), arch, *which],
                env=environment,
                stdout=(folder / arch).open("w"),
                stderr=subprocess.PIPE,
                text=True,
            )
            for arch, which in share.items()
        ]
        for process in running:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors

    folder = once(f"kernels-{request.param}", compile_all)
    lines = [line for arch in share for line in (folder / arch).read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_every_kernel_is_compiled_for_both_architectures(compiled: list[dict[str, Any]]) -> None:
    kernels = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(kernels) >= 8
    for arch in (80, 90):
        assert {row["kernel"] for row in compiled if row["arch"] == arch} == set(kernels)


def test_no_kernel_uses_local_memory(compiled: list[dict[str, Any]]) -> None:
    for row in compiled:
        assert (row["stack"], row["local"], row["spills"]) == (0, 0, 0), row


def test_products_run_on_matrix_units(compiled: list[dict[str, Any]]) -> None:
    for row in compiled:
        wanted = row["kernel"] in ON_MATRIX_UNITS
        assert bool(row["matrix"][{80: "IMMA", 90: "IGMMA"}[row["arch"]]]) == wanted, row


def test_sums_of_floats_run_on_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    """Hopper's own instruction takes 64 rows; smaller tiles take the one that Ampere has."""
    for row in compiled:
        instructions = row["matrix"]["HMMA"] + row["matrix"]["HGMMA"]
        assert bool(instructions) == (row["kernel"] in ON_TENSOR_CORES), row
        if row["arch"] == 90 and row["constants"].get("ROWS", 0) >= 64:
            assert bool(row["matrix"]["HGMMA"]) == (row["kernel"] in ON_TENSOR_CORES), row


def test_shared_memory_lets_two_programs_share_a_multiprocessor(
    compiled: list[dict[str, Any]],
) -> None:
    for row in compiled:
        assert row["shared"] <= 80 * 1024, row


def test_shared_memory_that_held_secrets_is_cleared_last(compiled: list[dict[str, Any]]) -> None:
    """Behind the last barrier zeros are stored, by a loop over all of it, and nothing else."""
    found = [row for row in compiled if row["kernel"] in IN_SECRET and row["shared"]]
    assert {row["kernel"] for row in found} == IN_SECRET
    for row in found:
        assert set(row["stored_last"]) == {"RZ"}, row


def test_float_results_are_rounded_as_in_the_reference(compiled: list[dict[str, Any]]) -> None:
    """No fused multiply-add, flushed subnormal or approximate division is in the PTX.

    Where there are sums, the assembler is told to form no fused multiply-add either.
    """
    found = [row for row in compiled if row["kernel"] in IN_FLOATS]
    assert {row["kernel"] for row in found} == IN_FLOATS
    for row in found:
        assert row["inexact"] == [], row
        assert not (row["contracts"] and row["kernel"] in SUMS), row
