"""Prime fields and the points at which shares and data blocks of a Lagrange code sit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyfed.errors import ArgumentError, DtypeError

SUBGROUP_BITS = 12
SUBGROUP_ORDER = 1 << SUBGROUP_BITS  # share points are the roots of unity of this order


def is_prime(number: int) -> bool:
    """Miller-Rabin with bases 2, 3, 5, 7, which is exact below 3,215,031,751."""
    if number < 2:
        return False
    for small in (2, 3, 5, 7):
        if number % small == 0:
            return number == small
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _smallest_generator(prime: int) -> int:
    """The smallest generator of the multiplicative group of a prime field."""
    factors, rest, divisor = set(), prime - 1, 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            factors.add(divisor)
            rest //= divisor
        divisor += 1
    if rest > 1:
        factors.add(rest)
    candidate = 2
    while any(pow(candidate, (prime - 1) // factor, prime) == 1 for factor in factors):
        candidate += 1
    return candidate


def _bit_reversed(index: int) -> int:
    return int(f"{index:0{SUBGROUP_BITS}b}"[::-1], 2)


@dataclass(frozen=True)
class Field:
    """The integers modulo an odd prime below 2^31. Elements are canonical residues in int32.

    Args:
        name: what messages call it.
        modulus: the prime p. ``SOLINAS31`` and ``MERSENNE31`` have fast kernels; every other
            prime is served by the reference, which makes exhaustive tests over tiny fields easy.
        points: ``"subgroup"``: share j at ω^bitrev12(j), block k at g·ω^bitrev12(k), where g is
            the smallest generator and ω = g^((p-1)/2^12); needs 2^12 | p - 1. ``"integers"``:
            block k at k + 1, share j at p - 1 - j.

    Raises:
        DtypeError: ``modulus`` is not an int.
        ArgumentError: ``modulus`` is no odd prime below 2^31, or lacks the subgroup.

    Example:
        >>> from pyfed import Field
        >>> Field("tiny", 11).share_points(3)
        [10, 9, 8]
    """

    name: str
    modulus: int
    points: Literal["integers", "subgroup"] = "integers"

    @property
    def planes(self) -> tuple[Field, ...]:
        """The prime fields that an element has a residue in: this one; two for a WideField."""
        return (self,)

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes of a tensor over it: none; of a WideField (2,), the planes."""
        return (len(self.planes),) if len(self.planes) > 1 else ()

    @property
    def code(self) -> int:
        """What ops are told of the field: p; for a WideField p_0 + p_1 · 2^31."""
        return self.modulus

    def __post_init__(self) -> None:
        modulus = self.modulus
        if not isinstance(modulus, int) or isinstance(modulus, bool):
            kind = type(modulus).__name__
            raise DtypeError(f"Field: modulus is {kind}; it must be an int")
        if not 2 < modulus < 2**31 or not is_prime(modulus):
            raise ArgumentError(f"Field: modulus is {modulus}; it must be an odd prime below 2^31")
        if self.points not in ("integers", "subgroup"):
            raise ArgumentError(
                f"Field: points is {self.points!r}; it must be 'integers' or 'subgroup'"
            )
        if self.points == "subgroup" and (modulus - 1) % SUBGROUP_ORDER:
            raise ArgumentError(
                f"Field: points='subgroup' needs 4096 to divide modulus - 1, and modulus is "
                f"{modulus}; use points='integers'"
            )

    def check_points(self, shares: int, blocks: int) -> None:
        """Raise ArgumentError unless there are distinct points for so many shares and blocks."""
        if min(shares, blocks) < 0:
            raise ArgumentError(f"{self.name}: {min(shares, blocks)} points are asked for")
        if self.points == "subgroup":
            if max(shares, blocks) > SUBGROUP_ORDER:
                raise ArgumentError(
                    f"{self.name} has {SUBGROUP_ORDER} points of each kind; "
                    f"shares is {shares} and blocks is {blocks}"
                )
        elif shares + blocks >= self.modulus:
            raise ArgumentError(
                f"{self.name}: shares + blocks is {shares + blocks}; it must be below the modulus "
                f"{self.modulus}, or share and block points would meet; use a larger prime"
            )

    def share_points(self, count: int) -> list[int]:
        """The points α_0 … α_(count-1) of the shares; ArgumentError when there are too few."""
        self.check_points(count, 0)
        if self.points == "integers":
            return [self.modulus - 1 - j for j in range(count)]
        return self._coset(1, count)

    def block_points(self, count: int) -> list[int]:
        """The points β_0 … β_(count-1) of the data blocks; none is ever a share point."""
        self.check_points(0, count)
        if self.points == "integers":
            return [k + 1 for k in range(count)]
        return self._coset(_smallest_generator(self.modulus), count)

    def _coset(self, shift: int, count: int) -> list[int]:
        generator = _smallest_generator(self.modulus)
        omega = pow(generator, (self.modulus - 1) >> SUBGROUP_BITS, self.modulus)
        return [
            shift * pow(omega, _bit_reversed(i), self.modulus) % self.modulus for i in range(count)
        ]


SOLINAS31 = Field("SOLINAS31", 2**31 - 2**17 + 1, "subgroup")
"""p = 2^31 - 2^17 + 1, the default: 2^17 | p - 1, generator 5."""

MERSENNE31 = Field("MERSENNE31", 2**31 - 1)
"""p = 2^31 - 1: the cheapest reduction, and no number-theoretic transform."""

_SECOND31 = Field("SECOND31", 2**31 - 2**19 + 1, "subgroup")


@dataclass(frozen=True)
class WideField(Field):
    """The integers modulo p_0 · p_1, as residues in two prime fields: 62 bits of headroom.

    An integer v is the pair (v mod p_0, v mod p_1), which the Chinese remainder theorem turns back
    into v. A tensor over it is int32 with a leading axis of 2, the planes: plane i holds residues
    modulo p_i. Products and sums are taken plane by plane, each with points, masks and padding of
    its own. ``WIDE`` is the pair with fast kernels.

    Args:
        name: what messages call it.
        modulus: p_0 · p_1.
        points: how each plane places its shares; both have the same way.
        first: the field of plane 0.
        second: that of plane 1, of another prime.

    Raises:
        DtypeError: a plane is no prime field.
        ArgumentError: the planes have one prime, or the modulus is not their product.

    Example:
        >>> import torch, pyfed
        >>> pyfed.WIDE.modulus == (2**31 - 2**17 + 1) * (2**31 - 2**19 + 1)
        True
        >>> pair = torch.tensor([[5, 0], [5, 1]], dtype=torch.int32)  # 5, and 0 mod p_0, 1 mod p_1
        >>> pyfed.ops.field_lift(pair, pyfed.WIDE)
        tensor([              5, -11724545070420])
    """

    first: Field = SOLINAS31
    second: Field = _SECOND31

    def __post_init__(self) -> None:
        for plane in (self.first, self.second):
            if type(plane) is not Field:
                kind = type(plane).__name__
                raise DtypeError(f"WideField: a plane is {kind}; it must be a pyfed.Field")
        primes = self.first.modulus, self.second.modulus
        if primes[0] == primes[1]:
            raise ArgumentError(
                f"WideField: both planes have the prime {primes[0]}; they must be two, or a pair "
                "of residues says no more than one"
            )
        if self.modulus != primes[0] * primes[1]:
            raise ArgumentError(
                f"WideField: modulus is {self.modulus}; it must be the product of the planes' "
                f"primes, {primes[0] * primes[1]}"
            )
        if not self.points == self.first.points == self.second.points:
            raise ArgumentError(
                f"WideField: points is {self.points!r}, and the planes have "
                f"{self.first.points!r} and {self.second.points!r}; they must be the same"
            )

    @property
    def planes(self) -> tuple[Field, ...]:
        """The two prime fields, in the order of the leading axis."""
        return self.first, self.second

    @property
    def code(self) -> int:
        """What ops are told of the field: p_0 + p_1 · 2^31."""
        return self.first.modulus | self.second.modulus << 31

    def check_points(self, shares: int, blocks: int) -> None:
        """Raise ArgumentError unless each plane has so many distinct points."""
        for plane in self.planes:
            plane.check_points(shares, blocks)

    def share_points(self, count: int) -> list[int]:
        """Refused: each of ``planes`` has points of its own."""
        raise ArgumentError(f"{self.name}: points belong to a plane; ask each of its planes")

    def block_points(self, count: int) -> list[int]:
        """Refused: each of ``planes`` has points of its own."""
        raise ArgumentError(f"{self.name}: points belong to a plane; ask each of its planes")


WIDE = WideField("WIDE", SOLINAS31.modulus * _SECOND31.modulus, "subgroup")
"""SOLINAS31 and 2^31 - 2^19 + 1 (generator 19): exact integers up to 2^61 - 2^49 in magnitude."""


def plane_moduli(code: int) -> tuple[int, ...]:
    """The primes behind a field's ``code``, one for each plane."""
    return (code,) if code < 2**31 else (code & (2**31 - 1), code >> 31)


_FIELD_IDS = {SOLINAS31.modulus: 1, MERSENNE31.modulus: 2, _SECOND31.modulus: 3}


def field_id(modulus: int) -> int:
    """The number that keeps the random streams of different fields apart; 0 for test fields."""
    return _FIELD_IDS.get(modulus, 0)
