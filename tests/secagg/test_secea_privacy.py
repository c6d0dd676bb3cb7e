"""Shares, queries and masked answers of SecEA say nothing: every value of all randomness is run."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pyfed.ops.lagrange
from pyfed import Field, Key
from pyfed.secagg.secea_queries import NOTHING, EntityCode

SECRET = bytes(range(32))
TINY = [(5, 3, 1, 1), (7, 5, 1, 2), (11, 5, 2, 1), (11, 7, 2, 2)]  # p, N, K, T

Draw = Callable[[int, int], int]  # (column, random row) → residue


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Draw) -> None:
    """All random rows of the codes are what a test says, as the reference draws them."""

    def residues(
        key: Any, start: int, count: int, row: int, stream: int, purpose: int, modulus: int
    ) -> torch.Tensor:
        return torch.tensor([draw(start + i, row) for i in range(count)], dtype=torch.int64)

    monkeypatch.setattr(pyfed.ops.lagrange, "residues_reference", residues)


def uniform(rows: torch.Tensor, p: int) -> bool:
    """Whether every tuple of residues is the column of (holders, p^holders) exactly once."""
    seen = Counter(zip(*rows.tolist(), strict=True))
    return len(seen) == p ** len(rows) and set(seen.values()) == {1}


@pytest.mark.parametrize(("p", "clients", "blocks", "privacy"), TINY)
def test_any_t_queries_are_uniform_whatever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, p: int, clients: int, blocks: int, privacy: int
) -> None:
    """Cell (e, e) of the query asks for e, the last row for nothing; e runs through all R."""
    code, every = EntityCode(clients, blocks, privacy, 1, Field("tiny", p)), p**privacy
    drawn(monkeypatch, lambda column, t: column % every // p**t % p)
    wanted = [*range(every), NOTHING]
    queries = [code.query(wanted, every, j, Key(SECRET)) for j in range(clients)]
    asked = torch.stack([query.diagonal() for query in queries])
    silent = torch.stack([query[-1] for query in queries])
    for holders in itertools.combinations(range(clients), privacy):
        assert uniform(asked[list(holders)], p)
        assert uniform(silent[list(holders)], p)
    for holders in itertools.combinations(range(clients), privacy + blocks):
        apart = [set(zip(*rows[list(holders)].tolist(), strict=True)) for rows in (asked, silent)]
        assert not apart[0] & apart[1]  # so many tell one from the other, always


@pytest.mark.parametrize(("p", "clients", "blocks", "privacy"), TINY)
def test_any_t_shares_are_uniform_whoever_owns_an_entity(
    monkeypatch: pytest.MonkeyPatch, p: int, clients: int, blocks: int, privacy: int
) -> None:
    """The even entities are owned; the randomness of each pair runs through all values."""
    code, every = EntityCode(clients, blocks, privacy, blocks, Field("tiny", p)), p**privacy
    assert code.width == 2  # a column of the embedding, and one of symbols
    drawn(monkeypatch, lambda column, t: column // 4 // p**t % p)
    own = torch.full((every, blocks), p - 1, dtype=torch.int32)
    table = code.laid_out(own, 1, range(0, 2 * every, 2), 2 * every)
    shares = code.share(table, Key(SECRET)).view(clients, every, 2, 2)
    for owned, column in itertools.product((0, 1), (0, 1)):
        seen = shares[:, :, owned, column]
        for holders in itertools.combinations(range(clients), privacy):
            assert uniform(seen[list(holders)], p)


def colluders_view(
    monkeypatch: pytest.MonkeyPatch,
    code: EntityCode,
    asking: tuple[int, int],
    colluders: tuple[int, ...],
    table: tuple[int, int],
    masked: bool,
) -> torch.Tensor:
    """All that an asker and its friends see, over every value of the others' randomness.

    Two entities, of which the first is asked for. A column of the answers is a value of the
    randomness: of the shares of both entities, and of the mask. The colluders' own query is
    fixed, since they know it.

    Returns:
        Distinct views, as numbers, and how often each occurs: int64 (2, distinct).
    """
    p, privacy, blocks = code.field.modulus, code.sharing.privacy, code.blocks
    draws = 2 * privacy + code.reading.privacy
    count = p**draws
    assert code.width == count + 1  # and the symbols, which are left out
    width = code.width
    drawn(monkeypatch, lambda i, t: i % width // p ** (i // width * privacy + t) % p)
    own = torch.tensor(table, dtype=torch.int32)[:, None].expand(2, count * blocks).contiguous()
    shares = code.share(code.laid_out(own, 0, [0, 1], 2), Key(SECRET))
    drawn(monkeypatch, lambda i, t: i // p ** (2 * privacy + t) % p)
    masks = code.mask(1, Key(SECRET), 0) * int(masked)
    drawn(monkeypatch, lambda i, t: asking[i])
    answers = [
        code.answer(code.query([0], 2, j, Key(SECRET)), shares[j], masks[j][None])
        for j in range(code.sharing.shares)
    ]
    held = [shares[j].view(2, width) for j in colluders] + [masks[j][None] for j in colluders]
    seen = torch.cat([*held, torch.stack(answers)])[:, :-1].long()
    as_numbers = (seen * torch.tensor([[p**i] for i in range(len(seen))])).sum(dim=0)
    return torch.stack(torch.unique(as_numbers, return_counts=True))


@pytest.mark.parametrize(("p", "clients", "blocks"), [(5, 3, 1), (7, 4, 1), (11, 5, 2)])
def test_masked_answers_tell_what_is_asked_for_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, p: int, clients: int, blocks: int
) -> None:
    count = p ** (2 + blocks + 1)
    code = EntityCode(clients, blocks, 1, count * blocks, Field("tiny", p))
    small = count < 3000
    queries = [(0, 0), (1, 0), (2, 3), (p - 1, 1)] if small else [(2, 3)]
    leaks = 0
    for asking, colluder in itertools.product(queries, range(clients) if small else [1]):
        view = functools.partial(colluders_view, monkeypatch, code, asking, (colluder,))
        base = view((2, 1), masked=True)
        assert torch.equal(base, view((2, 4), masked=True))  # the other entity changes nothing
        assert not torch.equal(base, view((3, 1), masked=True))  # what is asked for is told
        leaks += not torch.equal(view((2, 1), masked=False), view((2, 4), masked=False))
    assert leaks  # without masks the other entity shows
