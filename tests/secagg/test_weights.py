"""A client whose weight is beyond the most is noticed in the sum, and the round ends."""

from __future__ import annotations

import pytest
import torch

from pyfed.errors import DecodeError
from pyfed.fixed import FixedPoint
from pyfed.secagg import masking_client
from secagg.journeys import Journey, Scene
from secagg.scenes import lightsecagg, secaggplus, swiftagg


@pytest.mark.parametrize(
    "scene", [lightsecagg(), swiftagg(), secaggplus()], ids=lambda scene: scene.name
)
def test_weights_that_no_honest_clients_can_have_are_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FixedPoint, "check_weight", lambda self, weight: weight)
    # It encodes beforehand, in steps that have no bounds for weights.
    monkeypatch.setattr(masking_client, "_all_finite", lambda values: False)
    update, _ = scene.inputs[0]
    journey = Journey(scene)
    journey.scene.inputs[0] = (torch.zeros_like(update), 10**6)  # type: ignore[index]
    try:
        with pytest.raises(DecodeError, match=r"weights sum to 10.* and cannot exceed"):
            journey.run()
    finally:
        journey.scene.inputs[0] = (update, 1)  # type: ignore[index]
    assert journey.server.phase == "closed"
