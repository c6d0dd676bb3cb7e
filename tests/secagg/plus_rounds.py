"""Rounds of SecAgg+ in which tests act as the server, or change what is on its way."""

from __future__ import annotations

from typing import Any

from pyfed.secagg import SecAggPlus
from pyfed.secagg.secaggplus_messages import Alive
from secagg.journeys import Journey, Scene
from secagg.scenes import fixed_point, summing, told


def scene(clients: int, privacy: int, dropouts: int, mode: str = "curious", **more: Any) -> Scene:
    more |= told(mode, clients)
    agreed = SecAggPlus(clients, privacy, dropouts, 3, fixed_point(clients), **more)
    return summing("SecAggPlus", agreed, dropouts)


def uploaded(setting: Scene, journals: dict[int, Any] | None = None) -> Journey:
    """A round whose clients have uploaded, and whose server has not ended that phase."""
    journey = Journey(setting, journals=journals or {})
    journey.take_turn()
    journey.take_turn()
    for event in journey.clients_act():
        journey.happen(event)
    return journey


def alive(journey: Journey, client: int, survivors: tuple[int, ...]) -> Alive:
    """What the server would send if these survived."""
    server = journey.server
    peers = sorted(set(survivors) & set(server._graph[client])) if journey.scene.identities else []
    return Alive(
        **server._envelope(client),
        survivors=survivors,
        pledges=tuple(server._pledges[peer] for peer in peers),
    )


EVERYBODY, WITHOUT = tuple(range(6)), (0, 1, 3, 4, 5)
