"""The four protocols side by side for one setting, so that a user can choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError
from pyfed.fixed import FixedPoint
from pyfed.secagg.costs import (
    Cost,
    lightsecagg_cost,
    secaggplus_cost,
    secea_cost,
    swiftagg_cost,
)
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.protocol import MODES
from pyfed.secagg.secaggplus import SecAggPlus
from pyfed.secagg.secea import SecEA
from pyfed.secagg.swiftagg import MOST_CLIENTS, SwiftAgg
from pyfed.secagg.table import aligned


@dataclass(frozen=True)
class Comparison:
    """What each protocol costs and promises in one setting; ``str`` of it is an aligned table.

    Its columns: what one client sends and gets on average; what passes the server, in and out, and
    what of it comes in for the server itself, the rest being what clients send each other, which
    would not pass there if they had links of their own; multiply-adds in the field (MAC) and bytes
    of keystream (PRG) that one client and the server compute; messages that a client sends one
    after another (steps); and the numbers that the protocol chose. 1 kB is 1000 B.

    Args:
        setting: what is compared, in words.
        rows: one for each protocol that the setting allows.
        unavailable: (protocol, why the setting does not allow it).
    """

    setting: str
    rows: tuple[Cost, ...]
    unavailable: tuple[tuple[str, str], ...]

    def __iter__(self) -> Iterator[Cost]:
        return iter(self.rows)

    def row(self, protocol: str) -> Cost:
        """The row of one protocol.

        Raises:
            ArgumentError: the setting does not allow it, or there is no such protocol.
        """
        for row in self.rows:
            if row.protocol == protocol:
                return row
        why = dict(self.unavailable).get(protocol, "there is no such protocol")
        raise ArgumentError(f"compare: {protocol} has no row: {why}")

    def __str__(self) -> str:
        header = ["protocol", "client sends", "gets", "server in+out", "for itself", "client MAC"]
        header += ["server MAC", "client PRG", "server PRG", "steps", "chosen"]
        table = aligned(
            header,
            [
                [
                    row.protocol,
                    *(
                        _scaled(count) + "B"
                        for count in (
                            *(row.client_sent, row.client_received),
                            *(row.server_bytes, row.server_own),
                        )
                    ),
                    *(_scaled(count) for count in (row.client_macs, row.server_macs)),
                    *(_scaled(4 * words) + "B" for words in (row.client_words, row.server_words)),
                    str(row.steps),
                    row.chosen,
                ]
                for row in self.rows
            ],
        )
        notes = [f"{row.protocol}: learnt is {row.learnt}; needs {row.rests_on}" for row in self]
        notes += [f"{name}: not for this setting: {why}" for name, why in self.unavailable]
        return "\n".join([self.setting, table, *notes])


def _scaled(value: float) -> str:
    """Three digits and a prefix of thousands."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = 0 if not prefix or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}"


def compare(
    clients: int,
    length: int,
    privacy: int | None = None,
    dropouts: int | None = None,
    bits: int = 16,
    swift_blocks: int | None = None,
    dim: int = 64,
    entities: int | None = None,
    wanted: int | None = None,
    entity_blocks: int | None = None,
    errors: int = 0,
    detect: int = 0,
    server: str = "curious",
) -> Comparison:
    """Traffic, computation and guarantees of all protocols in one setting.

    Bytes are those of the messages of a round in which nobody is lost, and all pass the server;
    what clients compute leaves rounding and signatures out, and what the server computes is for
    the worst loss of D clients, with no wrong share. SecEA averages embeddings by entity, so it is
    compared on a table of about ``length`` values, in its first round, its setup apart.

    Args:
        clients: N, from 3 to 65,536, with 16 bits to 32,766; some protocols take fewer, and say
            so.
        length: elements of an update.
        privacy: T; None: a tenth of the clients, at least 1.
        dropouts: D; None: a tenth of the clients.
        bits: of a fixed-point value, with its sign.
        swift_blocks: K of SwiftAgg+; None: the ``balanced`` one of ``SwiftAgg.plan``.
        dim: d of SecEA, elements of an embedding.
        entities: M, entities of all clients together; None: ⌈length / dim⌉.
        wanted: E, the most entities of one client; None: ⌈2·M / N⌉, so that an entity has two
            owners on average.
        entity_blocks: K of SecEA; None: the most that the setting allows.
        errors: E, wrong shares that are repaired.
        detect: F, wrong shares that are noticed besides.
        server: ``"curious"`` or ``"malicious"``.

    Returns:
        A table; ``.row("SwiftAgg").client_sent`` and so on give its numbers.

    Raises:
        DtypeError, ArgumentError: an argument is out of range. What only one protocol does not
            allow is told in ``.unavailable``.

    Example:
        >>> from pyfed.secagg import compare
        >>> table = compare(clients=100, length=1_000_000)
        >>> [(row.protocol, round(row.client_sent / 1e6)) for row in table]
        [('LightSecAgg', 9), ('SwiftAgg', 7), ('SecAggPlus', 4), ('SecEA', 1963)]
    """
    expect_int("compare", "clients", clients, 3, MOST_CLIENTS + 1)
    expect_int("compare", "length", length, 0, 2**40)
    expect_int("compare", "dim", dim, 1, 2**31)
    expect_int("compare", "errors", errors, 0, clients)
    expect_int("compare", "detect", detect, 0, clients)
    if server not in MODES:
        raise ArgumentError(f"compare: server is {server!r}; it must be one of {MODES}")
    t = max(1, clients // 10) if privacy is None else privacy
    d = clients // 10 if dropouts is None else dropouts
    expect_int("compare", "privacy", t, 1, clients)
    expect_int("compare", "dropouts", d, 0, clients)
    fixed = FixedPoint(clip=1.0, bits=bits, clients=clients)
    table = max(1, -(-length // dim)) if entities is None else entities
    own = min(table, -(-2 * table // clients)) if wanted is None else wanted

    # Sizes do not depend on whose the identities are.
    identities = [i.to_bytes(32, "little") for i in range(clients)] if server != "curious" else []
    trust: dict[str, Any] = {
        **{"errors": errors, "detect": detect},
        **{"server": server, "identities": identities},
    }

    def swift() -> Cost:
        plan = SwiftAgg.plan(clients, t, d, errors, detect)
        blocks = plan.balanced.blocks if swift_blocks is None else swift_blocks
        return swiftagg_cost(SwiftAgg(clients, t, d, blocks, length, fixed, **trust))

    def entity() -> Cost:
        most = max(1, (clients - d - 2 * errors - detect + 1) // 2 - t)
        blocks = most if entity_blocks is None else entity_blocks
        sizes: dict[str, Any] = {"dropouts": d, "entities": table, "wanted": own}
        return secea_cost(SecEA(clients, t, blocks, dim, fixed, **sizes, **trust))

    costs: dict[str, Callable[[], Cost]] = {
        LightSecAgg.__name__: lambda: lightsecagg_cost(
            LightSecAgg(clients, t, d, length, fixed, **trust)
        ),
        SwiftAgg.__name__: swift,
        SecAggPlus.__name__: lambda: secaggplus_cost(
            SecAggPlus(clients, t, d, length, fixed, **trust)
        ),
        SecEA.__name__: entity,
    }
    rows, unavailable = [], []
    for name, cost in costs.items():
        try:
            rows.append(cost())
        except ArgumentError as error:
            unavailable.append((name, str(error)))
    setting = f"{clients} clients, {length} values of {bits} bits, T = {t} colluders, D = {d} lost"
    if errors or detect:
        setting += f", E = {errors} wrong shares repaired and F = {detect} more noticed"
    setting += f", a {server} server"
    return Comparison(setting, tuple(rows), tuple(unavailable))
