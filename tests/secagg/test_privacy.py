"""What a curious server and T clients see depends on the sum alone; T + 1 clients see more.

The view is linear in the honest clients' updates x, masks z and padding r, all over one field:
view = A·x + B·(z, r). It is written down here from the published rules, compared with the messages
of a real round, and then judged in two independent ways: by ranks, which is exact for every prime,
and by running through every value of all random residues of a tiny field.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import flint
import pytest
import torch

import oracles
from pyfed import MERSENNE31
from pyfed.fixed import FixedPoint
from pyfed.secagg.messages import Answer, Upload
from secagg.rounds import Round, client_secret, derived, protocol

Matrix = list[list[int]]


class View:
    """The linear map from (x, z, r) of the honest clients to what the colluders see.

    Args:
        p: the prime.
        clients, blocks, privacy: N, K, T of the code.
        width: residues of an update.
        uploaded: clients whose upload the server has, in the sum or not.
        survivors: the clients in the sum, all of which answer.
        colluders: clients that tell the server all they know.
        sets: survivors of further, forbidden answers.
    """

    def __init__(
        self,
        p: int,
        clients: int,
        blocks: int,
        privacy: int,
        width: int,
        uploaded: Iterable[int],
        survivors: Iterable[int],
        colluders: Iterable[int],
        sets: Iterable[tuple[int, ...]] = (),
    ) -> None:
        self.p, self.width = p, width
        self.blocks, self.privacy = blocks, privacy
        self.columns = -(-width // blocks)
        self.survivors, self.colluders = tuple(survivors), tuple(colluders)
        self.honest = [i for i in sorted(uploaded) if i not in self.colluders]
        inner = blocks + privacy
        units = [[int(i == j) for j in range(inner)] for i in range(inner)]
        encoded = [oracles.encode_column(u[:blocks], u[blocks:], clients, p) for u in units]
        self.code = [list(row) for row in zip(*encoded, strict=True)]  # (clients, K + T)
        self.names: list[tuple[Any, ...]] = []
        self.a: Matrix = []
        self.b: Matrix = []
        for h in self.honest:
            for i in range(width):
                self._see(("upload", h, i), {(h, i): 1}, {("z", h, i): 1})
            for c, column in itertools.product(self.colluders, range(self.columns)):
                self._see(("share", h, c, column), {}, self._share([h], c, column))
        for chosen in (self.survivors, *sets):
            dealers = [h for h in chosen if h in self.honest]
            for j, column in itertools.product(dealers, range(self.columns)):
                self._see(("answer", chosen, j, column), {}, self._share(dealers, j, column))

    def _x_index(self, h: int, i: int) -> int:
        return self.honest.index(h) * self.width + i

    def random_names(self) -> list[tuple[str, int, int]]:
        mask = [("z", h, i) for h in self.honest for i in range(self.width)]
        rows = range(self.privacy * self.columns)
        return mask + [("r", h, i) for h in self.honest for i in rows]

    def _share(self, dealers: list[int], to: int, column: int) -> dict[tuple[str, int, int], int]:
        """Column ``column`` of the sum of the dealers' shares for one client."""
        out = {}
        for h in dealers:
            for k in range(self.blocks):
                if column * self.blocks + k < self.width:
                    out["z", h, column * self.blocks + k] = self.code[to][k]
            for t in range(self.privacy):
                out["r", h, t * self.columns + column] = self.code[to][self.blocks + t]
        return out

    def _see(
        self,
        name: tuple[Any, ...],
        x: dict[tuple[int, int], int],
        randoms: dict[tuple[str, int, int], int],
    ) -> None:
        a = [0] * (len(self.honest) * self.width)
        for (h, i), factor in x.items():
            a[self._x_index(h, i)] = factor
        self.names.append(name)
        self.a.append(a)
        self.b.append([randoms.get(place, 0) for place in self.random_names()])

    def hidden_directions(self) -> Matrix:
        """Changes of x that keep the sum over the honest survivors: one per column."""
        summed = [h for h in self.honest if h in self.survivors]
        out = []
        for i in range(self.width):
            for h in self.honest:
                if h == summed[0]:
                    continue
                change = [0] * (len(self.honest) * self.width)
                change[self._x_index(h, i)] = 1
                if h in summed:
                    change[self._x_index(summed[0], i)] = -1
                out.append(change)
        return out

    def is_private(self) -> bool:
        """No change that keeps the sum is seen: A·change lies in the columns of B."""
        moved = [
            [
                sum(f * c for f, c in zip(row, change, strict=True))
                for change in self.hidden_directions()
            ]
            for row in self.a
        ]
        return rank(self.b, self.p) == rank(
            [b + m for b, m in zip(self.b, moved, strict=True)], self.p
        )

    def sees_the_sum(self) -> bool:
        """The sum itself is seen: a change of one honest survivor leaves the columns of B."""
        first = next(h for h in self.honest if h in self.survivors)
        column = [[row[self._x_index(first, 0)]] for row in self.a]
        joined = [b + c for b, c in zip(self.b, column, strict=True)]
        return rank(joined, self.p) == rank(self.b, self.p) + 1


def rank(rows: Matrix, p: int) -> int:
    flat = [value % p for row in rows for value in row]
    return int(flint.nmod_mat(len(rows), len(rows[0]), flat, p).rank())


P = oracles.P_SOLINAS
SETTINGS = [(3, 1, 0), (4, 1, 1), (5, 1, 1), (5, 2, 1), (6, 2, 1), (6, 1, 2), (6, 3, 1)]


@pytest.mark.parametrize(("clients", "privacy", "dropouts"), SETTINGS)
@pytest.mark.parametrize("p", [P, 13])
def test_any_t_clients_and_the_server_see_the_sum_alone(
    clients: int, privacy: int, dropouts: int, p: int
) -> None:
    blocks = clients - dropouts - privacy
    everybody = range(clients)
    for colluders in itertools.combinations(everybody, privacy):
        for lost in itertools.combinations(everybody, dropouts):
            survivors = [i for i in everybody if i not in lost]
            for uploaded in (everybody, survivors):  # those lost may have uploaded too late
                view = View(p, clients, blocks, privacy, 3, uploaded, survivors, colluders)
                assert view.is_private()
                assert view.sees_the_sum()


@pytest.mark.parametrize(("clients", "privacy", "dropouts"), SETTINGS[1:])
def test_any_t_plus_one_clients_and_the_server_see_more(
    clients: int, privacy: int, dropouts: int
) -> None:
    blocks = clients - dropouts - privacy
    everybody = range(clients)
    for colluders in itertools.combinations(everybody, privacy + 1):
        view = View(P, clients, blocks, privacy, 3, everybody, everybody, colluders)
        assert len(view.honest) > 1  # or the sum itself would be one client's update
        assert not view.is_private()


@pytest.mark.parametrize(("clients", "privacy", "dropouts"), SETTINGS[1:])
def test_answers_to_two_sets_of_survivors_would_leak(
    clients: int, privacy: int, dropouts: int
) -> None:
    blocks = clients - dropouts - privacy
    everybody = tuple(range(clients))
    sets = [tuple(i for i in everybody if i != 0)]
    view = View(P, clients, blocks, privacy, 3, everybody, everybody, (), sets)
    assert not view.is_private()


def test_a_code_without_padding_would_leak() -> None:
    assert not View(P, 4, 3, 0, 3, range(4), range(4), (3,)).is_private()


def every_view(view: View, x: list[int]) -> torch.Tensor:
    """How often each view occurs over all random residues: sorted distinct views and counts."""
    p, columns = view.p, len(view.random_names())
    count = p**columns
    index = torch.arange(count)
    randoms = torch.stack([(index // p**i) % p for i in range(columns)])  # (randoms, p^randoms)
    seen = torch.tensor(view.b) @ randoms + (torch.tensor(view.a) @ torch.tensor(x))[:, None]
    distinct, counts = torch.unique(seen % p, dim=1, return_counts=True)
    return torch.cat([distinct, counts[None]])


@pytest.mark.parametrize(
    ("survivors", "colluders", "private"),
    [
        ((0, 1, 3), (3,), True),  # client 2 was lost before it dealt
        ((0, 1, 2, 3), (2, 3), False),  # T + 1 colluders
    ],
)
def test_every_value_of_the_randomness_in_a_tiny_field(
    survivors: tuple[int, ...], colluders: tuple[int, ...], private: bool
) -> None:
    """N = 4, T = 1, D = 1, K = 2 over the integers modulo 7, two honest clients, L + 1 = 2."""
    view = View(7, 4, 2, 1, 2, survivors, survivors, colluders)
    assert len(view.random_names()) == 6  # 7^6 = 117,649 values
    assert view.is_private() == private
    base = every_view(view, [1, 2, 3, 4])
    same_sum = [every_view(view, x) for x in ([2, 2, 2, 4], [0, 6, 4, 0], [4, 6, 0, 0])]
    assert all(torch.equal(base, other) for other in same_sum) == private
    assert not torch.equal(base, every_view(view, [1, 2, 3, 5]))  # another sum is always seen


@pytest.mark.parametrize("field", ["SOLINAS31", "MERSENNE31"])
def test_real_rounds_show_exactly_that_view(field: str) -> None:
    """Uploads, the shares that colluders open, and answers are A·x + B·(z, r) of real keys."""
    fixed = FixedPoint(clients=5, max_weight=9, bits=16)
    if field == "MERSENNE31":
        fixed = FixedPoint(clients=5, max_weight=9, bits=16, field=MERSENNE31)
    run = Round(protocol(5, 2, 1, 3, fixed=fixed))
    params = run.agreed.parameters
    p = params.field.modulus
    colluders, survivors = (1, 4), (0, 1, 2, 4)
    run.play("upload")
    uploads = {i: m for i, m in run.upwards.items() if isinstance(m, Upload)}
    assert len(uploads) == 5
    held = {c: run.clients[c]._held.tolist() for c in colluders}
    run.upwards.pop(3)  # its upload comes too late for the sum, and the server keeps it
    run.collect()
    run.close()
    run.send("recover")
    answers = {i: m for i, m in run.upwards.items() if isinstance(m, Answer)}

    view = View(p, 5, params.blocks, 2, params.width, range(5), survivors, colluders)
    x, randoms = [], []
    for h in view.honest:
        rounding = derived(client_secret(h), "rounding")
        encoded = oracles.quantize(run.updates[h].tolist(), fixed.scale, fixed.clip, p, rounding)
        x += [v * run.weights[h] % p for v in encoded] + [run.weights[h]]
    for h in view.honest:
        key = derived(client_secret(h), "mask")
        randoms += [oracles.residue(key, i, p) for i in range(params.width)]
    for h in view.honest:
        key = derived(client_secret(h), "padding")
        randoms += [
            oracles.residue(key, column, p, row=t, purpose=oracles.PADDING)
            for t in range(2)
            for column in range(params.columns)
        ]

    def words(data: bytes) -> list[int]:
        return memoryview(data).cast("I").tolist()

    def dealt(c: int) -> list[list[int]]:
        mask_key, padding = (derived(client_secret(c), label) for label in ("mask", "padding"))
        mask = [oracles.residue(mask_key, i, p) for i in range(params.width)]
        return oracles.encode(mask, padding, p, 5, params.blocks, 2)

    known = {c: dealt(c) for c in colluders}  # so their part of an answer can be taken off
    seen = []
    for kind, *place in view.names:
        if kind == "upload":
            h, i = place
            seen.append(words(uploads[h].masked)[i])
        elif kind == "share":
            h, c, column = place
            seen.append(held[c][h][column])
        else:
            _, j, column = place
            seen.append(words(answers[j].row)[column] - sum(known[c][j][column] for c in known))
    for value, a, b in zip(seen, view.a, view.b, strict=True):
        wanted = sum(f * v for f, v in zip(a + b, x + randoms, strict=True))
        assert value % p == wanted % p
