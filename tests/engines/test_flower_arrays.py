"""The floats of models as one vector, in place where numpy's bytes allow it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord

from pyfed.engines.flower import to_arrays
from pyfed.engines.flower.arrays import _in_place, flat_floats
from pyfed.errors import ArgumentError

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3) / 7,
    "steps": torch.tensor(3),
    "half": torch.tensor([0.25, -2.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, 3.0], dtype=torch.bfloat16),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "scalar": torch.tensor(0.1),
    "empty": torch.empty(0, 4),
}
FLOATS = [tensor for name, tensor in TENSORS.items() if name != "steps"]


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1).to(torch.float32) for tensor in tensors])


def test_a_model_is_its_floats_behind_one_another() -> None:
    assert torch.equal(flat_floats(to_arrays(TENSORS)), flat(FLOATS))


def test_the_difference_to_another_model_is_that_of_float32_and_of_doubles() -> None:
    others = {name: tensor + 2 if tensor.numel() else tensor for name, tensor in TENSORS.items()}
    found = flat_floats(to_arrays(others), like=to_arrays(TENSORS), minus=True)
    pairs = [(others[name].double(), TENSORS[name].double()) for name in TENSORS if name != "steps"]
    wanted = [
        new.float() - old.float() if name != 3 else (new - old).float()
        for name, (new, old) in enumerate(pairs)
    ]
    assert torch.equal(found, flat(wanted))
    old = torch.tensor([1e6], dtype=torch.float64)
    for new, other in ((old + 1e-3, old), (old + 1e-3, old.float()), (old.float(), old - 1e-3)):
        moved = flat_floats(to_arrays({"w": new}), like=to_arrays({"w": other}), minus=True)
        assert moved.item() == pytest.approx(1e-3, rel=1e-5)


def test_the_vector_has_memory_of_its_own() -> None:
    record = to_arrays({"w": torch.tensor([1.0, 2.0])})
    flat_floats(record).zero_()
    assert flat_floats(record).tolist() == [1.0, 2.0]


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("data", "in_place"),
    [
        (saved(VALUES), True),
        (saved(VALUES, version=(2, 0)), False),
        (saved(np.asfortranarray(VALUES)), False),
    ],
    ids=["plain", "version 2", "columns first"],
)
def test_bytes_in_other_layouts_are_read_too(data: bytes, in_place: bool) -> None:
    array = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)
    assert (_in_place(array) is not None) == in_place
    assert flat_floats(ArrayRecord({"w": array})).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": saved(VALUES)[:-4]}, "'w' is no float32 of shape"),
        ({"data": saved(VALUES)[:20]}, "'w' is no float32 of shape"),
        ({"data": b""}, "'w' is no float32 of shape"),
        ({"data": saved(VALUES.astype(np.float64))}, "it holds float64"),
        ({"data": saved(VALUES.astype(">f4"))}, "it holds >f4"),
        ({"data": saved(VALUES.T.copy())}, r"it holds float32 of shape \(3, 2\)"),
        ({"data": saved(VALUES).replace(b"{'descr'", b"{[1]: 'a'")}, "'w' is no float32 of shape"),
        ({"data": saved(VALUES).replace(b"(2, 3)", b"((((((")}, "'w' is no float32 of shape"),
        (
            {"data": saved(VALUES).replace(b"(2, 3)", b"(-2,-3"), "shape": (-2, -3)},
            "tells the shape",
        ),
    ],
)
def test_arrays_that_are_not_what_they_tell_are_refused(change: dict[str, Any], told: str) -> None:
    array = {"dtype": "float32", "shape": (2, 3), "stype": "numpy.ndarray", "data": b"", **change}
    with pytest.raises(ArgumentError, match=told):
        flat_floats(ArrayRecord({"w": Array(**array)}))


def test_whole_numbers_in_place_of_floats_are_refused() -> None:
    model = to_arrays({"w": torch.zeros(3)})
    with pytest.raises(ArgumentError, match=r"'w' is int64 \(3,\); it must be floats"):
        flat_floats(to_arrays({"w": torch.zeros(3, dtype=torch.int64)}), like=model)
