"""The graph of SecAgg+: who masks with whom, and how many neighbours and shares that takes.

Members stand in a random order on a ring, and each is joined to the ``degree / 2`` nearest on
either side (a Harary graph); from ``members - 1`` on everybody is joined to everybody. The order is
a function of the session hash alone, so that no list of neighbours is ever sent.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova, Secure single-server aggregation with
(poly)logarithmic overhead, CCS 2020. The bounds are derived here; each is exact in its tail and a
union bound over clients.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.ops.random import random_words

NAME = "SecAggPlus"
PRIVACY_BITS = {"curious": 40, "malicious": 100}
"""Against a server that can draw 2^60 graphs before it shows one, 100 bits leave 40."""

FAILURE_BITS = 20


def ring_order(session: bytes, count: int) -> list[int]:
    """The member at each place of the ring: a uniform permutation of 0 … count - 1.

    Fisher and Yates' shuffle from the last place down. A place below ``bound`` is the next word of
    the key's stream modulo ``bound``; words from the last whole multiple of ``bound`` on are
    passed over, so that every place has the same chance.
    """
    key = Key(session).derive("graph")
    order, words, used, made = list(range(count)), [0], 1, 0
    for bound in range(count, 1, -1):
        last = 2**32 - 2**32 % bound
        while True:
            if used == len(words):
                words, used = random_words(key, count, start=made).tolist(), 0
                made += count
            word = words[used] % 2**32  # int32 bits, read as unsigned
            used += 1
            if word < last:
                break
        place = word % bound
        order[place], order[bound - 1] = order[bound - 1], order[place]
    return order


# The clients of one process ask for the same ring; an older one would only take up memory.
_ring = functools.lru_cache(maxsize=1)(ring_order)


def neighbours(
    session: bytes, members: tuple[int, ...], degree: int, member: int
) -> tuple[int, ...]:
    """The neighbours of one member, sorted; those of others take no memory.

    Args:
        session: 32 bytes, public.
        members: client numbers, sorted.
        degree: even, or at least ``len(members) - 1``.
        member: one of them.
    """
    count, half = len(members), degree // 2
    if degree >= count - 1:
        return tuple(other for other in members if other != member)
    ring = _ring(session, count)
    place = ring.index(members.index(member))
    steps = [*range(-half, 0), *range(1, half + 1)]
    return tuple(sorted(members[ring[(place + step) % count]] for step in steps))


def neighbourhoods(
    session: bytes, members: tuple[int, ...], degree: int
) -> dict[int, tuple[int, ...]]:
    """Member → its :func:`neighbours`; j is a neighbour of i exactly when i is one of j."""
    return {member: neighbours(session, members, degree, member) for member in members}


def hypergeometric_tail(population: int, marked: int, draws: int, least: int) -> Fraction:
    """P[at least ``least`` of ``draws`` distinct members are marked], exactly."""
    most = min(marked, draws)
    ways = sum(
        math.comb(marked, hit) * math.comb(population - marked, draws - hit)
        for hit in range(max(least, 0), most + 1)
    )
    return Fraction(ways, math.comb(population, draws))


def rare_count(population: int, marked: int, draws: int, bound: Fraction) -> int:
    """The least m for which P[at least m of ``draws`` members are marked] is at most ``bound``."""
    m = min(marked, draws)
    allowed = bound * math.comb(population, draws)
    ways = math.comb(marked, m) * math.comb(population - marked, draws - m)
    total = ways
    while m >= 0 and total <= allowed:
        # C(marked, m) · C(rest, draws - m) → the same for m - 1; the division is exact.
        ways = ways * m * (population - marked - draws + m)
        ways //= (marked - m + 1) * (draws - m + 1)
        total += ways
        m -= 1
    return m + 1


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def rare_count_floor(population: int, marked: int, draws: int, bound: float) -> int:
    """A lower bound on :func:`rare_count` for the bound 2^``bound``, without large integers.

    P[exactly m] is below the tail and falls beyond its mode, so the last m whose logarithm exceeds
    the bound, by more than floats err, is not rare enough.
    """
    whole = _log2_choose(population, draws)

    def exceeds(m: int) -> bool:
        ways = _log2_choose(marked, m) + _log2_choose(population - marked, draws - m)
        return ways - whole > bound + 0.01

    low, high = (marked + 1) * (draws + 1) // (population + 2), min(marked, draws)  # from the mode
    if not exceeds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if exceeds(middle) else (low, middle - 1)
    return low + 1


@dataclass(frozen=True)
class Setting:
    """What degree and threshold must be good for.

    Args:
        clients: N.
        privacy: T.
        dropouts: D.
        spare: 2E + F, rows beyond the threshold that wrong ones need.
        server: ``"curious"`` or ``"malicious"``.
    """

    clients: int
    privacy: int
    dropouts: int
    spare: int
    server: str

    @property
    def fewest(self) -> int:
        """N - D: the members that the smallest roster has; corrupt ones weigh most in it."""
        return self.clients - self.dropouts

    def is_complete(self, degree: int) -> bool:
        """Whether everybody is joined to everybody, so that nothing is left to chance."""
        return degree >= self.clients - 1

    def opened(self, degree: int, threshold: int) -> Fraction:
        """Bound on P[the corrupt neighbours of some honest client reach the threshold].

        N · P[Hypergeometric(N - D - 1, T, degree) ≥ threshold].
        """
        if self.is_complete(degree):
            return Fraction(self.privacy >= threshold)
        return self.clients * hypergeometric_tail(self.fewest - 1, self.privacy, degree, threshold)

    def split(self, degree: int, threshold: int) -> Fraction:
        """Bound on P[the server can see the sum of a part of the honest survivors].

        A part that no edge joins to the rest is an arc of the ring, cut off at both ends by
        ``half = degree / 2`` places in a row without honest survivors.

        Curious: who drops out is independent of the graph. Both cuts fill ``degree`` given places
        with corrupt or dropped members: C(N, 2) · C(T + D, degree) / C(N, degree).

        Malicious: the server sees the graph and then chooses who is dropped. But the last honest
        survivor before the cut has shares of its own seed on one side, and with corrupt members
        of the cut: they must reach the threshold.
        N · P[Hypergeometric(N - D - 1, T, half) ≥ threshold - half].
        """
        if self.is_complete(degree):
            return Fraction(0)
        n, t, half = self.clients, self.privacy, degree // 2
        if self.server == "malicious":
            return n * hypergeometric_tail(self.fewest - 1, t, half, threshold - half)
        gone = math.comb(t + self.dropouts, degree)
        return Fraction(math.comb(n, 2) * gone, math.comb(n, degree))

    def failed(self, degree: int, threshold: int) -> Fraction:
        """Bound on P[some client keeps fewer than threshold + spare neighbours].

        N · P[Hypergeometric(N - 1, D, degree) > degree - threshold - spare].
        """
        needed = threshold + self.spare
        if self.is_complete(degree):
            return Fraction(needed > self.fewest - 1)
        n, most = self.clients, degree - needed
        return n * hypergeometric_tail(n - 1, self.dropouts, degree, most + 1)

    def misses(self, degree: int, threshold: int) -> str:
        """What a degree and a threshold are not good for, with numbers; empty when they are."""
        bits = PRIVACY_BITS[self.server]
        risks = (
            ("that corrupt neighbours reach the threshold", self.opened(degree, threshold), bits),
            ("that the sum of a part is seen", self.split(degree, threshold), bits),
            ("that too few neighbours are left", self.failed(degree, threshold), FAILURE_BITS),
        )
        return "; ".join(
            f"the risk {what} is {_power(risk)}; it must be at most 2^-{most}"
            for what, risk, most in risks
            if risk * 2**most > 1
        )

    def is_hopeless(self, degree: int) -> bool:
        """Whether floats alone show that no threshold serves a degree; False tells nothing."""
        if self.is_complete(degree):
            return False
        n, t, others, half = self.clients, self.privacy, self.fewest - 1, degree // 2
        bound = -PRIVACY_BITS[self.server] - math.log2(n)
        least = rare_count_floor(others, t, degree, bound)
        if self.server == "malicious":
            least = max(least, half + rare_count_floor(others, t, half, bound))
        lost = rare_count_floor(n - 1, self.dropouts, degree, -FAILURE_BITS - math.log2(n))
        return least + self.spare > degree - (lost - 1)

    def least_threshold(self, degree: int) -> int:
        """The least threshold that keeps a client's secrets, whatever the failures."""
        if self.is_complete(degree):
            return self.privacy + 1
        others, bound = self.fewest - 1, Fraction(1, self.clients * 2 ** PRIVACY_BITS[self.server])
        least = rare_count(others, self.privacy, degree, bound)
        if self.server == "malicious":
            half = degree // 2
            least = max(least, half + rare_count(others, self.privacy, half, bound))
        return max(least, 1)


def _power(risk: Fraction) -> str:
    """A probability's bound as a power of two."""
    if risk >= 1:
        return "1"
    return f"2^{math.log2(risk.numerator) - math.log2(risk.denominator):.1f}"


@functools.lru_cache(maxsize=64)
def plan(
    setting: Setting, degree: int | None = None, threshold: int | None = None
) -> tuple[int, int]:
    """The smallest degree, and for it the smallest threshold, that a setting allows.

    Args:
        setting: what they must be good for.
        degree: a given degree is kept; from clients - 1 on the graph is complete.
        threshold: a given threshold is kept.

    Returns:
        (degree, threshold). A degree is even and at most N - D - 2, so that the ring is larger
        than a neighbourhood in every roster; or it is N - 1, the complete graph.

    Raises:
        ArgumentError: none is good enough; the message has the numbers.
    """
    complete = setting.clients - 1
    if degree is None:
        degrees = [*range(2, setting.fewest - 1, 2), complete]
    elif (degree % 2 == 0 and 2 <= degree <= setting.fewest - 2) or degree == complete:
        degrees = [degree]
    else:
        raise ArgumentError(
            f"{NAME}: degree is {degree}; it must be even and from 2 to clients - dropouts - 2 = "
            f"{setting.fewest - 2}, or clients - 1 = {complete} for the complete graph"
        )
    for k in degrees:
        if k != degrees[-1] and setting.is_hopeless(k):
            continue
        t = min(setting.least_threshold(k), k) if threshold is None else threshold
        why = setting.misses(k, t) if 1 <= t <= k else f"a threshold is from 1 to degree = {k}"
        if not why:
            return k, t
    raise ArgumentError(
        f"{NAME}: degree {k} with threshold {t} is not good for clients={setting.clients}, "
        f"privacy={setting.privacy}, dropouts={setting.dropouts}, 2·errors + detect="
        f"{setting.spare}, server={setting.server!r}: {why}"
    )
