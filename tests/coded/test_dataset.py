"""Coded sets: what is in them, their bytes, and what is refused."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from coded_problems import KEY, KINDS, encoded, on_grid, problem
from pyfed.coded import CodedDataset, privacy
from pyfed.coded.privacy import Release
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.ops import discrete_gaussian, sketch_block, sketch_seed


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_features_and_labels_are_combined_by_one_matrix(kind: str, public: bool) -> None:
    given = problem(clients=1, samples=9)
    coded = CodedDataset.encode(*given.x, *given.y, 7, KEY, kind, public=public, stream=3)
    g = sketch_block((0, 7), (0, 9), KEY, kind, shape=(7, 9), stream=3, public=public).double()
    for made, of in ((coded.x, given.x[0]), (coded.y, given.y[0])):
        bound = 1e-6 * (g.abs() @ of.double().abs())
        assert bool(((made.double() - g @ of.double()).abs() <= bound).all())


def test_features_and_labels_are_both_noised_by_independent_noise_of_the_stated_size() -> None:
    x, y = torch.zeros(2, 40), torch.zeros(2, 30)
    coded = CodedDataset.encode(x, y, 200, KEY, noise_std=2.5)
    for part in (coded.x, coded.y):
        assert float(part.double().std()) == pytest.approx(2.5, rel=0.05)
    joint = torch.cat([coded.x, coded.y], 1).double()
    assert float(torch.corrcoef(joint.T).fill_diagonal_(0).abs().max()) < 6 / math.sqrt(200)
    assert coded.noise_variance == 6.25
    assert coded.noise_std == 2.5


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_discrete_noise_is_the_op_s_on_the_rounded_exact_product(kind: str, public: bool) -> None:
    given = problem(clients=1, samples=9)
    joint = torch.cat([given.x[0], given.y[0]], 1)
    g = sketch_block((0, 7), (0, 9), KEY, kind, shape=(7, 9), stream=3, public=public).double()
    for grid in (2.0**-5, None):
        coded = CodedDataset.encode(
            *(*given.x, *given.y, 7, KEY, kind, 3.0), public=public, grid=grid, stream=3
        )
        step = coded.grid
        assert step == (grid or 2.0**-18)
        noise = discrete_gaussian(7 * 5, 3.0 / step, KEY, stream=3).reshape(7, 5)
        wanted = step * (torch.round(g @ joint.double() / step) + noise)
        assert torch.equal(torch.cat([coded.x, coded.y], 1), wanted.float())
        assert coded.variance == pytest.approx(9.0 + step**2 / 12)


def test_a_record_is_not_told_by_the_lowest_bits() -> None:
    """One record alone has a value in a column; float32 sums there would be coarser with it."""
    x, y = torch.rand(40, 3) / 4, torch.rand(40) / 4
    x[:, 2] = 0
    both = [x, x.clone()]
    both[1][7, 2] = 0.9
    shares = []
    for some in both:
        coded = CodedDataset.encode(some, y, 2000, KEY, noise_std=0.25)
        small = coded.x[:, 2][coded.x[:, 2].abs() < 0.01].double() * 2.0**22
        shares.append(float((small.remainder(2) == 0).double().mean()))
    assert shares[0] == pytest.approx(shares[1], abs=0.2)
    assert all(0.2 < share < 0.8 or share == 1.0 for share in shares)


def test_a_set_says_what_it_tells_of_a_record() -> None:
    given = problem(clients=1, samples=9)
    x, y = given.x[0], given.y[0]
    own = CodedDataset.encode(x, y, 7, KEY, noise_std=30.0, record_norm=9.0)
    release = own.release()
    assert release == Release(7, 30.0, 9.0, columns=5, grid=2.0**-15)
    assert release.epsilon(1e-5) == pytest.approx(
        privacy.epsilon(7, noise_std=30.0, record_norm=9.0, delta=1e-5), rel=1e-3
    )
    sets = [
        CodedDataset.encode(x, y, 7, KEY, noise_std=30.0, record_norm=9.0 + i, stream=i)
        for i in range(4)
    ]
    total = CodedDataset.total(sets)
    honest = 60.0 * math.sqrt(3 / 4)
    assert total.release(1) == Release(7, honest, 12.0, columns=5, grid=2.0**-15, clients=3)
    public = CodedDataset.encode(
        x, y, 7, KEY, "rademacher", noise_std=30.0, record_norm=9.0, public=True
    )
    assert not public.release().secret
    for bad, text in (
        ({"record_norm": None}, "record_norm is None"),
        ({"noise_std": 0.0}, "continuous, or there is none"),
        ({"noise": "gaussian"}, "continuous, or there is none"),
        ({"kind": "rademacher"}, "secrecy"),
    ):
        how = {"noise_std": 30.0, "record_norm": 9.0} | bad
        with pytest.raises(ArgumentError, match=text):
            CodedDataset.encode(x, y, 7, KEY, **how).release()
    with pytest.raises(ArgumentError, match="colluders is 4"):
        total.release(4)


def test_the_key_hides_g_and_another_key_or_stream_gives_another() -> None:
    sets = [encoded(0), encoded(0, key=KEY), encoded(0, stream=1), encoded(0, public=True)]
    for i, one in enumerate(sets):
        for other in sets[i + 1 :]:
            assert not torch.equal(one.x, other.x)
    assert torch.equal(encoded(0).x, sets[0].x)


def test_a_public_seed_gives_the_g_of_its_key() -> None:
    given = problem()
    own = CodedDataset.encode(given.x[0], given.y[0], 4, KEY, public=True)
    seeded = CodedDataset.encode(given.x[0], given.y[0], 4, sketch_seed(KEY), public=True)
    assert torch.equal(own.x, seeded.x)
    with pytest.raises(DtypeError, match="key is int; it must be"):
        CodedDataset.encode(given.x[0], given.y[0], 4, 5)
    for noise in ("discrete", "gaussian"):
        with pytest.raises(ArgumentError, match="noise needs"):
            CodedDataset.encode(
                given.x[0], given.y[0], 4, 5, public=True, noise_std=1.0, noise=noise
            )


def test_records_are_weighted_by_the_root_of_one_minus_p() -> None:
    given = problem()
    p = torch.tensor([0.0, 0.19, 0.36, 0.75, 1.0, 0.5])
    weights = torch.tensor([1.0, 0.9, 0.8, 0.5, 0.0, math.sqrt(0.5)])[:, None]
    coded = CodedDataset.encode(given.x[0], given.y[0], 5, KEY, arrival=p)
    by_hand = CodedDataset.encode(given.x[0] * weights, given.y[0] * weights, 5, KEY)
    assert torch.allclose(coded.x, by_hand.x, rtol=1e-5, atol=1e-5)
    assert torch.allclose(coded.y, by_hand.y, rtol=1e-5, atol=1e-5)
    assert coded.complement
    assert not by_hand.complement
    same = CodedDataset.encode(given.x[0], given.y[0], 5, KEY, arrival=0.75)
    half = CodedDataset.encode(given.x[0] / 2, given.y[0] / 2, 5, KEY)
    assert torch.allclose(same.x, half.x, rtol=1e-5, atol=1e-6)


def test_large_records_are_scaled_to_the_norm_or_refused_as_a_whole() -> None:
    x, y = torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([4.0, 0.4])
    with pytest.raises(ArgumentError, match=r"1 of 2 records .* record 0 has 5: raise"):
        CodedDataset.encode(x, y, 4, KEY, record_norm=1.0)
    clipped = CodedDataset.encode(x, y, 4, KEY, record_norm=1.0, on_large="clip")
    wanted = CodedDataset.encode(
        torch.tensor([[0.6, 0.0], [0.3, 0.0]]), torch.tensor([0.8, 0.4]), 4, KEY
    )
    assert torch.allclose(clipped.x, wanted.x, atol=1e-5)
    assert torch.allclose(clipped.y, wanted.y, atol=1e-5)
    fine = CodedDataset.encode(x, y, 4, KEY, record_norm=5.1)
    assert torch.equal(fine.x, CodedDataset.encode(x, y, 4, KEY).x)


def test_no_clipped_record_is_above_the_norm_even_after_rounding() -> None:
    from pyfed.coded.records import within_norm

    joint = torch.randn(20_000, 7) * 10
    for limit in (1.0, 1 / 3, 0.7):
        norms = within_norm("op", joint, limit, "clip").double().norm(dim=1)
        assert float(norms.max()) <= limit
        assert float(norms.max()) > 0.99999 * limit


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_come_back_as_the_same_set(kind: str) -> None:
    how = {"kind": kind, "noise_std": 1.5, "record_norm": 9.0, "public": kind != "gaussian"}
    one = encoded(0, arrival=0.5, **how) + encoded(1, arrival=0.2, **how)
    back = CodedDataset.from_bytes(one.to_bytes())
    assert torch.equal(back.x, one.x)
    assert torch.equal(back.y, one.y)
    names = ("kind", "noise_variance", "samples", "sources", "complement", "grid", "clients")
    for name in (*names, "public", "record_norm"):
        assert getattr(back, name) == getattr(one, name)
    assert back.to_bytes() == one.to_bytes()


def test_bytes_that_are_not_exactly_a_set_are_refused() -> None:
    import hashlib

    data = on_grid(0, 0.5).to_bytes()
    for at in range(0, len(data), 7):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ProtocolError, match="damaged"):
            CodedDataset.from_bytes(changed)
    with pytest.raises(ProtocolError, match="it is str"):
        CodedDataset.from_bytes("text")
    with pytest.raises(ProtocolError, match="the least is"):
        CodedDataset.from_bytes(data[:40])
    with pytest.raises(ProtocolError, match="damaged"):
        CodedDataset.from_bytes(memoryview(data)[::2])

    def forged(body: bytes) -> bytes:
        return body + hashlib.sha256(body).digest()

    body = data[:-32]
    nan = struct.pack("<f", math.nan)
    for wrong, reason in (
        (b"x" + body[1:], "must begin with"),
        (body[:13] + b"\x03" + body[14:], "out of range"),
        (body[:15] + b"\x02" + body[16:], "out of range"),
        (body[:16] + struct.pack("<I", 0) + body[20:], "out of range"),
        (body[:16] + struct.pack("<I", 2**31) + body[20:], "its header says"),
        (body[:40] + struct.pack("<d", -1.0) + body[48:], "variance -1.0"),
        (body[:40] + struct.pack("<d", 0.0) + body[48:], "variance 0.0 and grid 0.5"),
        (body[:48] + struct.pack("<d", 0.3) + body[56:], "grid 0.3"),
        (body[:56] + struct.pack("<d", -1.0) + body[64:], "record norm is -1.0"),
        (body[:-4] + struct.pack("<f", 0.25), "no multiple of its grid"),
        (body[:-4] + nan, "NaN or infinite"),
        (body + bytes(4), "its header says"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            CodedDataset.from_bytes(forged(wrong))


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"rows": 0}, ArgumentError, "rows is 0"),
        ({"rows": -3}, ArgumentError, "rows is -3"),
        ({"rows": 2.0}, DtypeError, "rows is float"),
        ({"kind": "dense"}, ArgumentError, "kind is 'dense'"),
        ({"noise_std": -1.0}, ArgumentError, "noise_std is -1.0; it must be at least 0"),
        ({"noise_std": math.nan}, ArgumentError, "noise_std is nan"),
        ({"noise_std": "1"}, DtypeError, "noise_std is str"),
        ({"record_norm": 0.0}, ArgumentError, "record_norm is 0.0; it must be positive"),
        ({"record_norm": 1.0, "on_large": "drop"}, ArgumentError, "on_large is 'drop'"),
        ({"arrival": 1.2}, ArgumentError, "arrival is 1.2"),
        ({"arrival": torch.full((6,), -0.1)}, ArgumentError, r"must be in \[0, 1\]"),
        ({"arrival": torch.full((6,), math.nan)}, ArgumentError, r"must be in \[0, 1\]"),
        ({"arrival": torch.zeros(5)}, ArgumentError, r"arrival has shape \(5,\)"),
        ({"arrival": torch.zeros(6, dtype=torch.int64)}, DtypeError, "arrival has dtype"),
        ({"key": b"secret"}, DtypeError, "key is bytes"),
        ({"stream": -1}, ArgumentError, "stream is -1"),
        ({"noise": "normal"}, ArgumentError, "noise is 'normal'"),
        ({"noise": None}, ArgumentError, "noise is None"),
        ({"grid": 0.5}, ArgumentError, "only discrete noise has one"),
        ({"grid": 0.5, "noise": "gaussian", "noise_std": 9.0}, ArgumentError, "only discrete"),
        ({"grid": "1", "noise_std": 9.0}, DtypeError, "grid is str"),
        ({"grid": 0.3, "noise_std": 9.0}, ArgumentError, "must be a power of two"),
        ({"grid": math.inf, "noise_std": 9.0}, ArgumentError, "must be a power of two"),
        ({"grid": 1.0, "noise_std": 3.9}, ArgumentError, "from 4 to 2\\^20 grids"),
        ({"grid": 2.0**-18, "noise_std": 4.1}, ArgumentError, "from 4 to 2\\^20 grids"),
    ],
)
def test_wrong_arguments_are_refused(more: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        encoded(0, **more)


def test_unfit_records_are_refused_and_left_alone() -> None:
    x, y = torch.ones(4, 2), torch.ones(4)
    for bad_x, bad_y, error, text in (
        (x[1:], y, ArgumentError, "x has 3 samples and y has 4; they must match"),
        (x.double(), y, DtypeError, "x has dtype torch.float64"),
        (x, y.long(), DtypeError, "y has dtype torch.int64"),
        (x[0], y, ArgumentError, "x has 1 dimensions"),
        (x, y.reshape(4, 1, 1), ArgumentError, r"y has shape \(4, 1, 1\)"),
        (x[:0], y[:0], ArgumentError, "no size may be 0"),
        (x[:, :0], y, ArgumentError, "no size may be 0"),
        (x.tolist(), y, DtypeError, "x is list"),
        (torch.full((4, 2), math.inf), y, ArgumentError, "in x 8 of 8 elements"),
        (x, torch.tensor([1.0, math.nan, 1, 1]), ArgumentError, r"in y 1 of 4 .* \(1, 0\)|\(1,\)"),
    ):
        with pytest.raises(error, match=text):
            CodedDataset.encode(bad_x, bad_y, 3, KEY)
    CodedDataset.encode(x, y, 3, KEY, noise_std=1.0, record_norm=1.0, on_large="clip", arrival=0.5)
    assert bool((x == 1).all())
    assert bool((y == 1).all())
