"""Letters in Flower messages: what is written, what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from engines.grids import through_bytes
from pyfed.engines.flower.letters import STYPE, Letter, take, write
from pyfed.errors import ProtocolError


@pytest.mark.parametrize("sizes", [(), (0, 5), (70_000, 3, 65_536, 65_537, 70_002)])
def test_letters_come_back_as_they_were_written(sizes: tuple[int, ...]) -> None:
    letter = Letter("train.pyfed_share", tuple(bytes([7]) * size for size in sizes), 3, 9)
    content = RecordDict({"arrays": ArrayRecord()})
    write(letter, content)
    content = through_bytes(content)
    back = take(content)
    assert back is not None
    assert sorted(back.messages) == sorted(letter.messages)
    assert (back.stage, back.client, back.enter) == (letter.stage, 3, 9)
    assert set(content) == {"arrays"} and take(content) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stage": "train.other"}, "stage is 'train.other'"),
        ({"stage": None}, "stage is None"),
        ({"client": "1"}, "client is '1'"),
        ({"client": True}, "client is True"),
        ({"enter": 1.0}, "enter is 1.0"),
        ({"small": None}, "small must be a list of bytes"),
        ({"small": [1]}, "small must be a list of bytes"),
        ({"small": [b""] * 16}, "17 messages; it may have 16"),
    ],
)
def test_letters_that_are_none_are_refused(change: dict[str, object], told: str) -> None:
    content = RecordDict()
    write(Letter("train.pyfed_share", (bytes(70_000),), client=3, enter=9), content)
    record = content.config_records["pyfed"]
    for name, value in change.items():  # None: it is left out
        record.pop(name)
        if value is not None:
            record[name] = value  # type: ignore[assignment]
    with pytest.raises(ProtocolError, match=told):
        take(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": (17_499,)}, "does not hold a message of the size"),
        ({"shape": (17_501,)}, "does not hold a message of the size"),
        ({"shape": (17_500, 1)}, "does not hold a message of the size"),
        ({"dtype": "int16"}, "does not hold a message of the size"),
        ({"stype": "numpy.ndarray"}, "does not hold a message of the size"),
    ],
)
def test_arrays_that_hold_no_message_are_refused(change: dict[str, Any], told: str) -> None:
    content = RecordDict()
    write(Letter("train.pyfed_share", (bytes(69_998),)), content)
    bodies = content.array_records["pyfed-messages"]
    array = bodies["0"]
    as_it_is = {"dtype": "int32", "shape": (17_500,), "stype": STYPE, "data": array.data}
    assert (array.dtype, tuple(array.shape), array.stype) == ("int32", (17_500,), STYPE)
    bodies["0"] = Array(**{**as_it_is, **change})
    with pytest.raises(ProtocolError, match=told):
        take(content)
    bodies["1"] = Array(**as_it_is)  # type: ignore[arg-type]
    del bodies["0"]
    write(Letter("train.pyfed_share"), other := RecordDict())
    other["pyfed-messages"] = bodies
    with pytest.raises(ProtocolError, match="not numbered from 0"):
        take(other)


def test_only_what_is_no_default_is_written() -> None:
    content = RecordDict()
    write(Letter("train.pyfed_share"), content)
    assert dict(content.config_records["pyfed"]) == {"stage": "train.pyfed_share", "small": []}
    write(Letter("train.pyfed_keys", (), 0, 0, "weights"), content)
    assert set(content.config_records["pyfed"]) == {"stage", "small", "client", "enter", "send"}


def test_what_is_not_written_means_what_it_always_meant() -> None:
    """Nodes and servers of two versions must agree on it."""
    record = ConfigRecord({"stage": "train.pyfed_update", "small": []})
    assert take(RecordDict({"pyfed": record})) == Letter(
        stage="train.pyfed_update",
        messages=(),
        client=-1,
        enter=-1,
        send="difference",
        arrays="arrays",
        weighted_by="num-examples",
        names=(),
        protocol=b"",
    )
