"""Private union of entity sets: invertible Bloom lookup tables, blinded, summed in secret."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable

import torch

from pyfed.checks import expect_field, expect_int, expect_key, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import SOLINAS31, Field
from pyfed.keys import SALT, Key, hkdf_sha256, length_prefixed
from pyfed.ops.field import check_residues
from pyfed.ops.random import random_residues
from pyfed.secagg.bloom import COLUMNS, WORD_BITS, WORDS, InvertibleTable
from pyfed.secagg.cells import Cells

MOST = 2**25  # a table of so many entities is one message still
SALT_BYTES = (8, 64)


def pseudonym(group_key: Key, entity_id: str | bytes | int) -> tuple[int, int, int, int]:
    """What stands for an entity in the union: four words below 2^30.

    HMAC-SHA256(group key, tag ‖ id), of which the first four little-endian words lose their two
    upper bits. The tag is ``s`` before a text in UTF-8, ``b`` before bytes, ``i`` before an integer
    in its shortest two's complement, little-endian: ``1``, ``"1"`` and ``b"1"`` are three entities.
    So are texts that look alike and differ in their code points; normalise them before.

    Args:
        group_key: known to the clients alone.
        entity_id: what all owners of the entity call it.

    Raises:
        DtypeError: ``entity_id`` is no str, bytes or int (a bool is none).

    Example:
        >>> import pyfed
        >>> from pyfed.secagg.union import pseudonym
        >>> pseudonym(pyfed.Key(bytes(32)), "cat")
        (664457829, 95420906, 345385123, 119492680)
    """
    expect_key("pseudonym", group_key)
    mac = hmac.digest(group_key.reveal(), _canonical(entity_id), "sha256")
    words = (int.from_bytes(mac[at : at + 4], "little") % (1 << WORD_BITS) for at in (0, 4, 8, 12))
    first, second, third, fourth = words
    return first, second, third, fourth


def _canonical(entity_id: object) -> bytes:
    if isinstance(entity_id, str):
        return b"s" + entity_id.encode("utf-8", "surrogatepass")
    if isinstance(entity_id, bytes):
        return b"b" + entity_id
    if isinstance(entity_id, int) and not isinstance(entity_id, bool):
        # n and -n - 1 need as many bits, and one more for the sign.
        size = max(entity_id, ~entity_id).bit_length() // 8 + 1
        return b"i" + entity_id.to_bytes(size, "little", signed=True)
    kind = type(entity_id).__name__
    raise DtypeError(f"pseudonym: entity_id is {kind}; it must be a str, bytes or an int")


def pseudonyms(group_key: Key, ids: Iterable[str | bytes | int]) -> torch.Tensor:
    """The :func:`pseudonym` of every entity, in the order of ``ids``: int32 (count, 4).

    Raises:
        DtypeError: ``ids`` is a single id, or one of them has a wrong type.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise DtypeError(f"pseudonyms: ids is {type(ids).__name__}; it must be a list of ids")
    rows = [pseudonym(group_key, entity_id) for entity_id in ids]
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, WORDS)


def union_salt(seed: bytes, attempt: int) -> bytes:
    """The salt of an attempt at a union: SHA-256("pyfed/v1/union-salt" ‖ lp(seed) ‖ u64 attempt).

    Args:
        seed: public, and drawn after the sets are fixed, as the nonce of a session: who knows it
            before can pick ids that meet in every cell.
        attempt: 0 at first, and one more after each peel that failed.

    Returns:
        32 bytes.
    """
    if not isinstance(seed, bytes):
        raise DtypeError(f"union_salt: seed is {type(seed).__name__}; it must be bytes")
    expect_int("union_salt", "attempt", attempt, 0, 2**64)
    number = attempt.to_bytes(8, "little")
    return hashlib.sha256(b"pyfed/v1/union-salt" + length_prefixed(seed) + number).digest()


@dataclasses.dataclass(frozen=True)
class EntityUnion:
    """The union of the clients' entity sets, which a server reads from one secure sum.

    Every client draws r uniform modulo p for each of its entities and adds

    r · (1, w_1, …, w_4, c_1, c_2)

    to 4 of ⌈1.5·M⌉ + 48 cells, where w is the pseudonym, and c and the cells are a hash of it and a
    public salt. The tables are summed by :class:`pyfed.secagg.LightSecAgg`, in :class:`Cells`. In
    the sum an entity has one total R = Σ r over its owners. A cell with one entity shows w and c as
    quotients by its first residue, and that c is the hash of w proves it; the entity is then taken
    out of its other cells, and so on until all are empty.

    **What it reveals.** The server, and every client that it tells, learns the union of the sets of
    the clients *in the sum*, as pseudonyms, so also its size. R is uniform
    modulo p for any number of owners: given the union, the summed table says nothing about who, or
    how many, own an entity, and a client's table by itself is never seen. Beyond that:

    - Pseudonyms are opaque to who lacks the group key. Every client has it, and can look up any id
      that it can guess; so can the server, once a client colludes with it.
    - Colluding clients can take their own tables out of the sum. Together with the server they
      learn the union of the *others'* sets, so of each own entity whether anyone else has it.
    - ``most`` is public. What a client has beside, such as the size of its set, stays hidden.
    - A failed peel reveals a part of the union and linear equations in the rest of it. When a
      client is in one attempt and not in the next, the difference of both unions is what it alone
      has: so it is, too, for unions of later rounds.
    - All clients must have the same salt, or the server could tell them apart by it; therefore the
      session is bound to it (``encoding``). Nothing protects the union from a client that sends
      another table: it can add pseudonyms or spoil the peeling, and is not found out.

    **When it fails.** R = 0 has odds of 1/p for each entity, whoever owns it; the entity is then
    missing, and its owners alone can tell. It must not be made known who complains: use the union
    as it is, or let all start again. A peel that gets stuck is noticed always: 19 of 20,000 tables
    at M = 10, none of 1,500 at M = 1,000. All then begin again with a new salt, which also gives
    new r from the same key.

    Args:
        most: M, public: the largest union that must peel, from 1 to 2^25.
        field: the prime field.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: ``most`` is out of range.

    Source: Goodrich and Mitzenmacher, Invertible Bloom lookup tables, Allerton 2011; that R blinds
    the owners in a sum over a prime field is ours.

    Example:
        >>> import pyfed
        >>> from pyfed.secagg import LightSecAgg, simulate
        >>> from pyfed.secagg.union import EntityUnion, pseudonyms
        >>> group, salt = pyfed.Key(bytes(range(32))), bytes(16)  # of the clients, in earnest
        >>> sets = [{"cat", "dog"}, {"dog", "emu"}, {"dog"}, set()]
        >>> union = EntityUnion(most=8)
        >>> tables = [
        ...     union.table(pseudonyms(group, own), salt, pyfed.Key.generate()) for own in sets
        ... ]
        >>> encoding = union.encoding(4, salt)
        >>> protocol = LightSecAgg(
        ...     clients=4, privacy=1, dropouts=1, length=union.length, fixed=encoding
        ... )
        >>> found = union.peel(simulate(protocol, tables).residues, salt)
        >>> found.tolist() == sorted(pseudonyms(group, {"cat", "dog", "emu"}).tolist())
        True
    """

    most: int
    field: Field = SOLINAS31

    def __post_init__(self) -> None:
        expect_int("EntityUnion", "most", self.most, 1, MOST + 1)
        expect_field("EntityUnion", self.field)

    @property
    def cells(self) -> int:
        """⌈1.5·M⌉ + 48: above the 1.3·M at which peeling starts to work for large M."""
        return (3 * self.most + 1) // 2 + 48

    @property
    def length(self) -> int:
        """Residues of a table: 7 for each cell."""
        return self.cells * COLUMNS

    @property
    def _form(self) -> InvertibleTable:
        return InvertibleTable(self.cells, self.field)

    def encoding(self, clients: int, salt: bytes) -> Cells:
        """What LightSecAgg sums tables of so many clients in; its session is bound to the salt."""
        _expect_salt("EntityUnion.encoding", salt)
        return Cells(clients, salt, self.field)

    def table(self, pseudonyms: torch.Tensor, salt: bytes, key: Key) -> torch.Tensor:
        """A client's table, as its update to the sum.

        Args:
            pseudonyms: int32 (count, 4) in any order; a row that comes twice counts once.
            salt: the attempt's, 8 to 64 bytes, public.
            key: secret, and fresh for each union: all r are drawn from it and the salt.

        Returns:
            int32 (length,), the cells one after another.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: a word is out of range, or there are more entities than ``most``.
        """
        op = "EntityUnion.table"
        expect_tensor(op, "pseudonyms", pseudonyms, torch.int32, 2)
        expect_key(op, key)
        _expect_salt(op, salt)
        if pseudonyms.shape[1] != WORDS:
            raise ArgumentError(
                f"{op}: pseudonyms has shape {tuple(pseudonyms.shape)}; it must be (count, {WORDS})"
            )
        limit = self._form.limit
        if bool(((pseudonyms < 0) | (pseudonyms >= limit)).any()):
            raise ArgumentError(f"{op}: pseudonyms has a word outside [0, {limit})")
        rows = torch.unique(pseudonyms.cpu(), dim=0)
        if len(rows) > self.most:
            raise ArgumentError(f"{op}: pseudonyms has {len(rows)} entities; most is {self.most}")
        own = Key(hkdf_sha256(key.reveal(), SALT, length_prefixed(b"union") + salt))
        factors = random_residues(own, len(rows), self.field)
        own.wipe()
        flat = self._form.filled(rows, factors, salt)
        factors.zero_()
        return flat

    def peel(self, summed: torch.Tensor, salt: bytes) -> torch.Tensor:
        """The union, from the sum of all tables.

        A table that peels was the sum of just these entities. One that does not, hostile or not,
        ends in an error in bounded time.

        Args:
            summed: int32 (length,), residues.
            salt: as it was for the tables.

        Returns:
            int32 (union, 4) on the CPU: pseudonyms, sorted by their words, as all parties do.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: the length is wrong or a residue lies outside [0, p).
            DecodeError: the table does not peel, or holds more than ``most`` entities.
        """
        op = "EntityUnion.peel"
        expect_tensor(op, "summed", summed, torch.int32, 1)
        _expect_salt(op, salt)
        if summed.numel() != self.length:
            raise ArgumentError(
                f"{op}: summed has {summed.numel()} residues; it must have {self.length}"
            )
        check_residues(op, summed, self.field.modulus)
        return self._form.peel(summed.cpu(), salt, self.most)


def _expect_salt(op: str, salt: object) -> None:
    if not isinstance(salt, bytes):
        raise DtypeError(f"{op}: salt is {type(salt).__name__}; it must be bytes")
    least, most = SALT_BYTES
    if not least <= len(salt) <= most:
        raise ArgumentError(f"{op}: salt has {len(salt)} bytes; it must have {least} to {most}")
