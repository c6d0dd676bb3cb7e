"""Plans: what is hashed, how two of them differ, and what is no plan."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgpack
import numpy as np
import pytest

from lora.wire_cases import (
    PLAN,
    SCALINGS,
    SETTINGS,
    TENSORS,
    WIDE,
    plan_of,
    refused,
    sealed,
    shared,
    update,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import LoraPlan


def test_the_digest_and_the_marks_are_made_of_the_documented_values() -> None:
    aspects = [
        [[list(pair) for pair in SETTINGS], ["a"], "float32"],
        [[t.name, t.role] for t in TENSORS],
        [list(t.shape) for t in TENSORS],
        ["float32"] * 4,
        [list(pair) for pair in SCALINGS],
        None,
        b"",
    ]
    packed = [msgpack.packb(aspect) for aspect in aspects]
    everything = msgpack.packb([1, *packed])
    assert PLAN.digest == hashlib.sha256(b"pyfed/v1/lora" + everything).digest()
    assert PLAN.marks == b"".join(hashlib.sha256(value).digest()[:4] for value in packed)


def test_plans_do_not_depend_on_the_order_in_which_modules_are_named() -> None:
    assert plan_of(tensors=TENSORS[::-1], scalings=SCALINGS[::-1]) == PLAN


DIFFERENT: dict[str, tuple[LoraPlan, str]] = {
    "rule": (plan_of(settings=(*SETTINGS[:1], ("rule", "ffa"))), "settings"),
    "wire": (plan_of(wire="float16"), "settings"),
    "half": (plan_of(share=("b",)), "settings"),
    "shape": (
        plan_of(tensors=(*TENSORS[:3], TENSORS[3]._replace(shape=(5, 2)))),
        "ranks or shapes",
    ),
    "dtype": (plan_of(tensors=(*TENSORS[:3], TENSORS[3]._replace(dtype="float16"))), "dtypes"),
    "targets": (plan_of(tensors=TENSORS[:2], scalings=SCALINGS[:1]), "target modules or heads"),
    "scaling": (plan_of(scalings=(("größer", 2.0), ("q", 1.0))), "scaling"),
    "projection": (plan_of(projection=1), "VeRA projection"),
    "frozen": (plan_of(frozen=bytes(32)), "frozen"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_message_of_another_plan_is_refused_with_what_differs(what: str) -> None:
    other, match = DIFFERENT[what]
    for message in (
        update(other, payload=bytes(other.payload_bytes)),
        shared(other, payload=bytes(other.payload_bytes)),
    ):
        text = refused(message.to_bytes())
        assert match in text
        assert "is of another session: the adapters differ in" in text
        (only,) = text.split("differ in ")[1:]
        assert " and " not in only
    assert PLAN.difference(other)
    assert PLAN.difference(PLAN) == ""


def test_a_message_too_long_to_be_read_still_tells_what_differs() -> None:
    wide = plan_of(tensors=(*TENSORS[:2], TENSORS[2]._replace(shape=(90, 3)), TENSORS[3]))
    text = refused(update(wide, payload=bytes(wide.payload_bytes)).to_bytes())
    assert re.search("must have 33 to 224; by its header .* differs in ranks or shapes", text)
    assert refused(sealed([1, "LoraUpdate", 0, 0, 0, 0, 0, bytes(400)])).endswith("33 to 224")
    assert refused(sealed([[[1]], bytes(400)])).endswith("33 to 224")


FIRST_DIFFERENCES = [
    ("targets", "lacks q.lora_A.weight: target modules or heads differ"),
    ("shape", "q.lora_B.weight has shape (5, 2); it must be (4, 2)"),
    ("dtype", "q.lora_B.weight has dtype float16; it must be float32"),
    ("scaling", "q has scaling 1.0; it must be 0.5"),
    ("projection", "projection_prng_key is 1; it must be None"),
]


@pytest.mark.parametrize(("what", "text"), FIRST_DIFFERENCES)
def test_plans_tell_their_first_difference(what: str, text: str) -> None:
    assert PLAN.difference(DIFFERENT[what][0]) == text


@pytest.mark.parametrize(("share", "words"), [("b", ("A", "B", "b")), ("a", ("B", "A", "a"))])
def test_where_the_frozen_half_differs_the_remedy_is_told(share: str, words: tuple[str]) -> None:
    mine, other = (plan_of(share=(share,), frozen=bytes([n]) * 32) for n in (1, 2))
    frozen, trained, group = words
    text = f"start all clients from one {frozen}, train {trained} alone (of a bank: ClientBank"
    assert f'{text}.train_only("{group}"))' in mine.difference(other)


BAD_PLANS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tensors": ()}, ArgumentError, "0 tensors with 0 values would travel"),
    ({"tensors": TENSORS[1::2]}, ArgumentError, "0 tensors with 0 values"),
    ({"tensors": (TENSORS[0],) * 2}, ArgumentError, "names a tensor twice"),
    ({"tensors": (TENSORS[0]._replace(shape=(2**29, 2)),)}, ArgumentError, "1 to 536870912"),
    ({"tensors": (TENSORS[0]._replace(shape=(0, 2)),)}, ArgumentError, "must be positive"),
    ({"tensors": (TENSORS[0]._replace(shape=7),)}, ArgumentError, "has shape 7"),
    ({"tensors": (TENSORS[0]._replace(role="c"),)}, ArgumentError, "role 'c'"),
    ({"tensors": (TENSORS[0]._replace(name=b"x"),)}, DtypeError, "must be of type str"),
    ({"tensors": (("x", (1,)),)}, DtypeError, "something else than LoraTensor"),
    ({"share": ()}, ArgumentError, r"share is \(\)"),
    ({"share": ("a", "x")}, ArgumentError, "share is"),
    ({"wire": "int8"}, ArgumentError, "wire is 'int8'"),
    ({"settings": (("rule", object()),)}, TypeError, "object"),
]


@pytest.mark.parametrize(("changes", "error", "match"), BAD_PLANS)
def test_bad_plans_are_named(changes: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        plan_of(**changes)


def test_every_place_of_a_payload_has_its_tensor() -> None:
    places = [WIDE.place(value) for value in range(WIDE.values)]
    wanted = [(t, index) for t in TENSORS for index in np.ndindex(t.shape)]
    assert places == wanted
