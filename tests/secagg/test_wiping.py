"""Canaries: what pyfed allocates for masks, shares and keys is overwritten once it has served."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import oracles
import pyfed.secagg.channel as channel
from pyfed import Key
from pyfed.errors import ArgumentError, ProtocolError
from pyfed.lanes import VoteLanes
from pyfed.secagg import simulate
from secagg.rounds import SECRET, Round, client_secret, derived, protocol, some_updates

pytestmark = pytest.mark.usefixtures("same_chance")

WIDTH, COLUMNS = 5, 2


class Recorder(TorchDispatchMode):
    """Keeps every tensor that any op gives, so that its memory is not used again."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.tensors += [t for t in (out if isinstance(out, tuple) else (out,)) if is_integer(t)]
        return out

    def found(self, secrets: set[int]) -> int:
        """How many secret words are still in those tensors."""
        held = {value for tensor in list(self.tensors) for value in tensor.reshape(-1).tolist()}
        return len(held & secrets)


def is_integer(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.int32, torch.int64)


def secrets_of(client: int, modulus: int) -> tuple[set[int], list[list[int]]]:
    """A client's mask words, and the shares that it deals."""
    key = client_secret(client)
    mask_key, padding = derived(key, "mask"), derived(key, "padding")
    mask = [oracles.residue(mask_key, i, modulus) for i in range(WIDTH)]
    return set(mask), oracles.encode(mask, padding, modulus, 5, 3, 1)


def record_keys(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """Every key that is made from now on."""
    made: list[Key] = []
    original = Key.__init__

    def watched(self: Key, secret: Any) -> None:
        original(self, secret)
        made.append(self)

    monkeypatch.setattr(Key, "__init__", watched)
    return made


def test_masks_shares_and_keys_are_gone_after_the_phase_that_needs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = record_keys(monkeypatch)
    run = Round(protocol())
    modulus = run.agreed.parameters.field.modulus
    run.play("keys")
    run.collect()
    run.close()
    with Recorder() as recorder:
        run.send("share")
    mask, dealt = secrets_of(2, modulus)
    shares = {word for row in dealt for word in row}
    assert recorder.found(mask) == 0  # it is drawn again for the upload
    own = [client._own for client in run.clients]
    assert own[2].tolist() == [dealt[2]]
    assert recorder.found(set(dealt[2])) == COLUMNS  # the canary is seen while it is needed
    assert recorder.found(shares - set(dealt[2])) == 0  # boxed for the others, and wiped

    run.collect()
    run.close()
    with recorder:
        run.send("upload")
    for client in range(5):
        assert recorder.found(secrets_of(client, modulus)[0]) == 0
    assert not any(tensor.any() for tensor in own)
    held = [client._held for client in run.clients]
    received = {word for i in range(5) for word in secrets_of(i, modulus)[1][3]}
    assert recorder.found(received) == 5 * COLUMNS
    given = {client_secret(i) for i in range(5)}  # the test's own copies stay
    assert {key.reveal() for key in made} <= given | {bytes(32)}
    assert all(client._root.reveal() == bytes(32) for client in run.clients)

    run.collect()
    run.close()
    with recorder:
        run.send("recover")
    assert recorder.found(received) == 0
    assert not any(tensor.any() for tensor in held)
    with recorder:
        run.finish()
    assert run.server._uploads == {}
    assert not run.server._answers.any()


def test_every_key_of_a_simulation_is_zero_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record_keys(monkeypatch)
    own = Key(SECRET)
    simulate(protocol(), some_updates(5, 4), key=own, drop={"upload": {1}})
    left = [key for key in made if key is not own and key.reveal() != bytes(32)]
    assert len(made) > 5 * 4
    assert left == []


def test_the_sum_of_masks_is_gone_from_the_server() -> None:
    run = Round(protocol())
    run.play("recover")
    run.collect()
    modulus = run.agreed.parameters.field.modulus
    total = [0] * WIDTH
    for client in range(5):
        key = derived(client_secret(client), "mask")
        total = [(t + oracles.residue(key, i, modulus)) % modulus for i, t in enumerate(total)]
    rows = set(run.server._answers.reshape(-1).tolist())
    with Recorder() as recorder:
        run.close()
    assert recorder.found(set(total)) == 0
    assert len(rows) == 5 * COLUMNS
    assert recorder.found(rows) == 0


@pytest.mark.parametrize("where", ["encode", "seal"])
def test_an_error_while_shares_are_dealt_leaves_nothing_behind(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Round(protocol())
    run.send("keys")
    run.collect()
    run.close()
    client = run.clients[2]

    def fail(*rest: Any, **more: Any) -> None:
        raise MemoryError("no memory")

    if where == "encode":
        monkeypatch.setattr(type(run.agreed.code), "encode", fail)
    else:
        monkeypatch.setattr(channel, "seal", fail)
    made = record_keys(monkeypatch)
    with Recorder() as recorder, pytest.raises(MemoryError):
        client.handle(run.downwards[2], -1)
    assert made
    assert all(key.reveal() == bytes(32) for key in made)
    client.close()
    mask, dealt = secrets_of(2, run.agreed.parameters.field.modulus)
    assert recorder.found(mask | {word for row in dealt for word in row}) == 0
    assert client._root.reveal() == bytes(32)


@pytest.mark.parametrize("phase", ["keys", "share", "upload", "recover"])
def test_closing_in_any_phase_overwrites_everything(phase: str) -> None:
    with Recorder() as recorder:
        run = Round(protocol())
        run.play(phase)
        client = run.clients[2]
        kept = [client._values, client._own, client._held]
        assert any(tensor.any() for tensor in kept) == (phase != "recover")  # it has served
        client.close()
    assert sum(tensor.numel() for tensor in kept) >= WIDTH - 1
    assert not any(tensor.any() for tensor in kept)
    assert client._root.reveal() == bytes(32)
    assert recorder.found(secrets_of(2, run.agreed.parameters.field.modulus)[0]) == 0


def test_the_update_is_gone_once_it_is_masked_and_is_never_encoded_without_masks() -> None:
    run = Round(protocol())
    parameters = run.agreed.parameters
    modulus = parameters.field.modulus
    rounding = derived(client_secret(2), "rounding")
    values = run.updates[2].tolist()
    fixed = run.agreed.fixed
    steps = oracles.quantize(values, fixed.scale, fixed.clip, modulus, rounding)
    encoded = {x * run.weights[2] % modulus for x in steps}
    with Recorder() as recorder:
        run.play("share")
        waiting = run.clients[2]._values
        assert waiting.tolist() == values
        run.collect()
        run.close()
        run.send("upload")
    assert recorder.found(encoded) == 0
    assert not waiting.any()


def test_votes_are_gone_once_they_are_masked() -> None:
    lanes = VoteLanes(clients=5)
    run = Round(protocol(fixed=lanes, length=40))
    run.updates = [torch.arange(40) % 3 < 2] * 5
    run.weights = [1] * 5
    encoded = set(lanes.encode(run.updates[2], 40).tolist())
    with Recorder() as recorder:
        run.play("share")
        assert recorder.found(encoded) == len(encoded)
        run.collect()
        run.close()
        run.send("upload")
    assert recorder.found(encoded) == 0


def test_a_roster_with_a_weak_key_leaves_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record_keys(monkeypatch)
    with pytest.raises(ProtocolError, match="all-zero"):
        publics = {1: b"\x09" + bytes(31), 2: bytes(32)}
        own = channel.ChannelKey(Key(SECRET))
        channel.Peers(own, 0, publics, SECRET, 0, Key(SECRET))
    # The test's own two are left; the copy for nonces and the first agreed secret are not.
    assert [key.reveal() == bytes(32) for key in made] == [False, False, True, True]


def test_an_error_in_a_simulation_wipes_all_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record_keys(monkeypatch)
    updates = some_updates(5, 4)
    updates[3][0] = float("nan")
    with Recorder() as recorder, pytest.raises(ArgumentError, match="NaN"):
        simulate(protocol(), updates)
    assert len(made) >= 5
    assert all(key.reveal() == bytes(32) for key in made)
    assert not any(t.any() for t in recorder.tensors if t.shape == (2, WIDTH))


def test_refused_calls_leave_no_derived_key(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Round(protocol())
    made = record_keys(monkeypatch)
    with pytest.raises(ArgumentError, match="NaN"):
        run.clients[0].start(torch.full((4,), float("nan")))
    assert len(made) == 1
    assert made[0].reveal() == bytes(32)


@pytest.mark.gpu
def test_masks_are_gone_from_cuda() -> None:
    run = Round(protocol())
    run.updates = [update.cuda() for update in run.updates]
    run.play("keys")
    run.collect()
    run.close()
    modulus = run.agreed.parameters.field.modulus
    with Recorder() as recorder:
        run.send("share")
        run.collect()
        run.close()
        run.send("upload")
    assert any(tensor.is_cuda for tensor in recorder.tensors)
    for client in range(5):
        mask, dealt = secrets_of(client, modulus)
        assert recorder.found(mask) == 0
        on_cuda = [t for t in recorder.tensors if t.is_cuda]
        left = {word for tensor in on_cuda for word in tensor.reshape(-1).tolist()}
        assert not left & {word for row in dealt for word in row}
