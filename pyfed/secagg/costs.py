"""What a round of each protocol costs: bytes by phase, multiplications, keystream.

Sizes are those of the messages: the same parameters give them, and msgpack's frames are added. All
clients take part and none is lost, but in the server's work, where D are lost at the worst moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyfed.secagg.common import Hello
from pyfed.secagg.graph import PRIVACY_BITS
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.secaggplus import SecAggPlus
from pyfed.secagg.secaggplus_messages import SECRET_WORDS
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_messages import EPOCH
from pyfed.secagg.session import SERVER, SIGNATURE, WORD, Parameters
from pyfed.secagg.swiftagg import SwiftAgg

Traffic = dict[tuple[str, str], int]
_DIGEST = 34  # bytes of a packed digest


@dataclass(frozen=True)
class Cost:
    """One round of one protocol.

    Args:
        protocol: its name.
        chosen: the numbers that it chose for the setting.
        clients: N.
        traffic: (role, phase) → bytes sent by all clients together or by the server.
        relayed: bytes of them that clients send each other, sealed, through the server.
        client_macs: multiplications in the field with an addition, of one client.
        server_macs: of the server.
        client_words: words of 32 bits of ChaCha20 keystream, of one client, rounding apart.
        server_words: of the server.
        steps: messages one after another from a client to the server: how often it waits.
        learnt: by the server with T clients; of SecEA also by each client.
        rests_on: what must hold for that besides at most T colluders.
    """

    protocol: str
    chosen: str
    clients: int
    traffic: Traffic
    relayed: int
    client_macs: int
    server_macs: int
    client_words: int
    server_words: int
    steps: int
    learnt: str
    rests_on: str

    @property
    def client_sent(self) -> float:
        """Bytes that one client sends, on average."""
        return self._of("client") / self.clients

    @property
    def client_received(self) -> float:
        """Bytes that one client gets, on average."""
        return self._of("server") / self.clients

    @property
    def server_bytes(self) -> int:
        """Bytes that pass the server, in and out: it relays what clients send each other."""
        return sum(self.traffic.values())

    @property
    def server_own(self) -> int:
        """Bytes that come in for the server itself, as they would if clients had own links."""
        return self._of("client") - self.relayed

    def _of(self, role: str) -> int:
        return sum(count for (who, _), count in self.traffic.items() if who == role)


def _binary(size: int) -> int:
    """Bytes of packed bytes."""
    return size + (2 if size < 2**8 else 3 if size < 2**16 else 5)


def _number(most: int) -> int:
    """Bytes of a packed client number below ``most``, at most."""
    return 1 if most <= 2**7 else 2 if most <= 2**8 else 3 if most <= 2**16 else 5


def _box(clients: int, *boxes: tuple[int, ...]) -> int:
    """Bytes of one entry (client, box, …) whose boxes have segments of these sizes."""
    return 1 + _number(clients) + sum(1 + sum(map(_binary, sizes)) for sizes in boxes)


def _words(count: int) -> int:
    """Bytes of packed residues."""
    return _binary(WORD * count)


def _envelope(p: Parameters) -> int:
    """Bytes of a message with an empty body, and of the frames of its arrays."""
    hello = Hello(
        protocol=p.protocol, session=bytes(32), round=0, sender=0, recipient=SERVER, channel_key=b""
    )
    return len(hello.to_bytes()) + 2


def _sent(p: Parameters) -> int:
    """As :func:`_envelope`, of a client's message."""
    return _envelope(p) + SIGNATURE * p.signed


def _common(p: Parameters) -> Traffic:
    """Hello and Roster, the lists of clients that open and settle the sum, and their quorum."""
    n, envelope, sent, number = p.clients, _envelope(p), _sent(p), _number(p.clients)
    signature = _binary(SIGNATURE)
    entry = 3 + number + _binary(p.key_bytes) + p.signing_bytes + signature * p.signed
    roster = envelope + _binary(len(p.packed())) + _DIGEST + n * entry
    traffic = {
        ("client", "keys"): n * (sent + p.key_bytes + p.signing_bytes),
        ("server", "keys"): n * roster,
        ("client", "share"): n * sent,
        ("server", "share"): n * envelope,
        ("client", "upload"): n * sent,
        ("server", "upload"): n * (envelope + n * number),
        ("client", "recover"): 0,
        ("server", "recover"): 0,
    }
    if p.signed:
        traffic["client", "commit"] = n * (sent + _DIGEST)
        traffic["server", "commit"] = n * (envelope + n * (1 + number + signature))
    return traffic


def _result(p: Parameters) -> int:
    """Bytes of the results for all clients."""
    n = p.clients
    return n * (_envelope(p) + n * _number(n) + _words(p.residues) + 5)


_SUM = "the sum of at least N - D updates, and of their weights"


def _needs(p: Parameters, what: str) -> str:
    return "pinned Ed25519 identities; " * p.signed + what


def lightsecagg_cost(protocol: LightSecAgg) -> Cost:
    """LightSecAgg: masks shared with everybody, one sum of shares back."""
    p = protocol.parameters
    n, number, inner, c = p.clients, _number(p.clients), p.blocks + p.privacy, p.columns
    traffic = _common(p)
    boxes = n * (n - 1) * _box(n, p.segments)
    traffic["client", "share"] += boxes
    traffic["server", "share"] += boxes + n * n * number
    traffic["client", "upload"] += n * _words(p.width)
    traffic["client", "recover"] = n * (_sent(p) + _DIGEST + _words(c))
    traffic["server", "recover"] = _result(p)
    return Cost(
        protocol=p.protocol,
        chosen=f"K={p.blocks}",
        clients=n,
        traffic=traffic,
        relayed=boxes,
        client_macs=n * (inner + 1) * c,
        server_macs=n * p.width + p.blocks * inner * c,
        client_words=p.width + p.privacy * c,
        server_words=0,
        steps=4 + p.signed,
        learnt=_SUM,
        rests_on=_needs(p, "ChaCha20 for masks and padding; no chance, no graph"),
    )


def swiftagg_cost(protocol: SwiftAgg) -> Cost:
    """SwiftAgg+: updates shared inside groups, sums handed from group to group."""
    p = protocol.parameters
    layout, n, number, envelope = p.layout, p.clients, _number(p.clients), _envelope(p)
    inner, c, box = p.blocks + p.privacy, p.columns, _box(p.clients, p.segments)
    traffic = _common(p)
    boxes = layout.groups * p.holders * (p.holders - 1) + layout.spare * p.holders
    traffic["client", "share"] += boxes * box
    traffic["server", "share"] += boxes * box + number * sum(len(m) ** 2 for m in layout.members)
    hops = (layout.groups - 1) * p.holders
    rows = p.holders * (_sent(p) + _DIGEST + _words(c))
    inside = sum(map(bool, layout.children)) * p.holders
    traffic["client", "recover"] = hops * (_sent(p) + _DIGEST + box) + rows
    traffic["server", "recover"] = inside * envelope + hops * box + _result(p)
    largest = len(layout.members[0])
    return Cost(
        protocol=p.protocol,
        chosen=f"K={p.blocks}, {layout.groups} group{'s' * (layout.groups > 1)} of {p.holders}",
        clients=n,
        traffic=traffic,
        relayed=(boxes + hops) * box,
        client_macs=(p.holders * inner + largest + layout.fan_in) * c,
        server_macs=p.blocks * inner * c,
        client_words=p.privacy * c,
        server_words=0,
        steps=3 + layout.hops + p.signed,
        learnt=_SUM,
        rests_on=_needs(p, "ChaCha20 for padding; no chance, no graph"),
    )


def secaggplus_cost(protocol: SecAggPlus) -> Cost:
    """SecAgg+: masks of seeds between neighbours, whose secrets are shared."""
    p = protocol.parameters
    n, k, number = p.clients, p.degree, _number(p.clients)
    traffic = _common(p)
    boxes = n * k * _box(n, p.segments)
    traffic["client", "share"] += boxes
    traffic["server", "share"] += boxes + n * n * number
    pledge = _binary(SIGNATURE) * p.signed
    traffic["client", "upload"] += n * (_words(p.width) + pledge)
    traffic["server", "upload"] += n * k * pledge
    share = 1 + number + _words(SECRET_WORDS)
    traffic["client", "recover"] = n * (_sent(p) + _DIGEST + k * share)
    traffic["server", "recover"] = _result(p)
    masks = (n - p.dropouts) + p.dropouts * k
    secrets = p.blocks * p.threshold * SECRET_WORDS
    bits = PRIVACY_BITS[p.mode]
    chance = "no chance" if k == n - 1 else f"a chance of at most 2^-{bits} over the graph"
    return Cost(
        protocol=p.protocol,
        chosen=f"{k} neighbours, threshold {p.threshold}",
        clients=n,
        traffic=traffic,
        relayed=boxes,
        client_macs=(k + 1) * p.width + k * p.threshold * 2 * SECRET_WORDS,
        server_macs=(n + masks) * p.width + n * secrets,
        client_words=(k + 1) * p.width,
        server_words=masks * p.width,
        steps=4 + p.signed,
        learnt=_SUM,
        rests_on=_needs(p, f"ChaCha20 and X25519 for masks; {chance}"),
    )


def secea_cost(protocol: SecEA) -> Cost:
    """SecEA: a first round, in which queries are sent; its setup is not counted."""
    p = protocol.parameters
    n, number, envelope = p.clients, _number(p.clients), _envelope(p)
    inner, wide, reply = p.blocks + p.privacy, p.columns, p.reply
    traffic = _common(p)
    tables = n * (n - 1) * (_box(n, p.segments) + 1)
    masks = p.mask_dealers * (n - 1) * sum(map(_binary, p.mask_segments))
    epoch = _binary(EPOCH)
    queries = n * (n - 1) * _box(n, p.query_segments)
    answers = n * (n - 1) * _box(n, p.answer_segments)
    traffic["client", "share"] += tables + masks
    traffic["server", "share"] += tables + masks + n * n * number
    traffic["client", "upload"] += n * epoch
    traffic["server", "upload"] += n * (n + p.mask_dealers) * number
    traffic["client", "recover"] = n * (2 * _sent(p) + epoch) + queries + answers
    traffic["server", "recover"] = n * (2 * envelope + n * epoch) + queries + answers
    mask_rows = 2 * p.blocks + 2 * p.privacy - 1
    dealt = p.mask_dealers * reply  # masks are dealt by some, for every asker: the average client's
    asked = p.wanted * p.entities
    return Cost(
        protocol=p.protocol,
        chosen=f"K={p.blocks}, M={p.entities}, E={p.wanted}, d={p.length}",
        clients=n,
        traffic=traffic,
        relayed=tables + masks + queries + answers,
        client_macs=n * (inner * wide + mask_rows * dealt + (p.privacy + 1) * asked)
        + n * (p.wanted * wide + wide + p.mask_dealers * reply)
        + p.needed * p.blocks * reply,
        server_macs=0,
        client_words=p.privacy * (wide + asked) + (mask_rows - p.blocks) * dealt,
        server_words=0,
        steps=5 + p.signed,
        learnt="the union of the sets, as pseudonyms; a client, its own entities' means and counts",
        rests_on=_needs(p, "ChaCha20 for padding; askers that follow the protocol"),
    )
