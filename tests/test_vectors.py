"""The library's own fixed form, value for value, on every backend; and the oracles themselves."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import torch

import oracles
import pyfed
from pyfed import Key, LagrangeCode
from runs import Run, runs_of

VECTORS = Path(__file__).parent / "vectors"
FORM = json.loads((VECTORS / "pyfed_fixed_form.json").read_text())
KEY = Key(bytes.fromhex(FORM["key_hex"]))


def runs_on(op: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("op", "run"), runs_of(op))


@runs_on("random_words")
def test_words_come_out_value_for_value(op: str, run: Run) -> None:
    for index, value in zip(FORM["words"]["indices"], FORM["words"]["values"], strict=True):
        with run.active():
            got = pyfed.ops.random_words(KEY, 1, start=index, device=run.device)
        assert got.tolist() == [oracles.signed(value)]


@runs_on("random_residues")
def test_residues_come_out_value_for_value(op: str, run: Run) -> None:
    for entry in FORM["residues"]:
        field = getattr(pyfed, entry["field"])
        for index, value in zip(entry["indices"], entry["values"], strict=True):
            with run.active():
                got = pyfed.ops.random_residues(KEY, 1, field, entry["stream"], index, run.device)
            assert got.tolist() == [value]


@runs_on("quantize")
def test_rounded_values_come_out_value_for_value(op: str, run: Run) -> None:
    for entry in FORM["quantize"]:
        values = torch.tensor(entry["values"], device=run.device)
        how = 2.0 ** entry["exponent"], entry["clip"], getattr(pyfed, entry["field"]), KEY
        with run.active():
            assert pyfed.ops.quantize(values, *how).tolist() == entry["residues"]


@runs_on("lagrange_encode")
def test_shares_come_out_value_for_value_and_decode(op: str, run: Run) -> None:
    for entry in FORM["lagrange"]:
        shape = entry["shares"], entry["blocks"], entry["privacy"]
        code = LagrangeCode(*shape, getattr(pyfed, entry["field"]))
        data = torch.tensor(entry["values"], dtype=torch.int32, device=run.device)
        with run.active():
            encoded = code.encode(data, KEY, entry["stream"], entry["start_column"])
            assert encoded.tolist() == entry["encoded"]
            subsets = itertools.combinations(range(code.shares), code.threshold)
            for chosen in itertools.islice(subsets, 4):
                decoded = code.decode(encoded[list(chosen)], chosen, len(data))
                assert torch.equal(decoded, data)


def test_the_stored_vectors_are_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("generate", VECTORS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert json.loads(json.dumps(generate.fixed_form())) == FORM


def test_the_interpolation_oracle_opens_the_shamir_shares_of_a_third_party() -> None:
    vector = json.loads((VECTORS / "shamir_third_party.json").read_text())
    for chosen in itertools.combinations(range(5), vector["threshold"]):
        xs = [vector["x"][i] for i in chosen]
        for word, secret in enumerate(vector["secret"]):
            ys = [vector["shares"][i][word] for i in chosen]
            assert oracles.interpolate(xs, ys, 0, vector["p"]) == secret


def test_the_interpolation_oracle_gives_the_shares_that_flint_gave() -> None:
    vector = json.loads((VECTORS / "lagrange_mersenne31.json").read_text())
    rows = [*vector["blocks"], *vector["noise"]]
    for alpha, share in zip(vector["alpha"], vector["shares"], strict=True):
        for column, value in enumerate(share):
            ys = [row[column] for row in rows]
            assert oracles.interpolate(vector["beta"], ys, alpha, vector["p"]) == value
