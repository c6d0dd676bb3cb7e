"""Bad boxes: who complains, who leaves, and that nobody answers for a share it lacks."""

from __future__ import annotations

import pytest

from pyfed.errors import ThresholdError
from pyfed.secagg.messages import Share, Upload
from secagg.rounds import Round, protocol, refuse, replaced


def with_bad_boxes(bad: set[tuple[int, int]], privacy: int = 1, dropouts: int = 1) -> Round:
    """A round up to its uploads, in which the box from a to b is damaged for (a, b) in ``bad``."""
    run = Round(protocol(6, privacy, dropouts, 4))
    run.play("share")
    for dealer, victim in bad:
        share = run.upwards[dealer]
        assert isinstance(share, Share)
        boxes = tuple(
            (to, (bytes([box[0][0] ^ 1]) + box[0][1:],) if to == victim else box)
            for to, box in share.boxes
        )
        run.upwards[dealer] = replaced(share, boxes=boxes)
    run.collect()
    run.close()
    run.send("upload")
    for i, message in run.upwards.items():
        assert isinstance(message, Upload)
        assert message.complaints == tuple(sorted(a for a, b in bad if b == i))
    return run


@pytest.mark.parametrize(
    ("bad", "privacy", "dropouts", "included"),
    [
        ({(0, 3)}, 1, 1, {0, 1, 2, 4, 5}),  # one complaint, T = 1: the complainer leaves
        ({(0, 3), (0, 4)}, 1, 1, {1, 2, 3, 4, 5}),  # two: the dealer leaves
        ({(0, 3), (0, 4)}, 2, 2, {0, 1, 2, 5}),  # two, T = 2: both complainers leave
        ({(0, 3), (3, 0)}, 1, 2, {1, 2, 4, 5}),  # each about the other: both leave
        ({(0, 3), (0, 4), (1, 4)}, 1, 2, {1, 2, 3, 5}),  # the dealer, and who lacks another share
    ],
)
def test_complaints_exclude_the_dealer_beyond_t_and_the_complainer_up_to_t(
    bad: set[tuple[int, int]], privacy: int, dropouts: int, included: set[int]
) -> None:
    run = with_bad_boxes(bad, privacy, dropouts)
    run.finish()
    assert run.server.result.included == included


def test_a_client_does_not_answer_for_a_dealer_whose_box_was_bad() -> None:
    run = with_bad_boxes({(0, 3)})
    run.collect()
    run.close()
    assert 3 not in run.downwards
    everybody = replaced(run.downwards[1], recipient=3, survivors=(0, 1, 2, 3, 4, 5))
    refuse(run.clients[3], everybody, -1, "box was bad")
    without = replaced(everybody, survivors=(1, 2, 3, 4, 5))
    assert len(run.clients[3].handle(without, -1)) == 1


def test_complaints_beyond_what_can_be_lost_name_those_excluded() -> None:
    run = with_bad_boxes({(0, 3), (1, 4)}, privacy=1, dropouts=1)
    run.collect()
    with pytest.raises(ThresholdError, match=r"complaints excluded \[3, 4\]") as caught:
        run.server.close_phase()
    assert caught.value.missing == (3, 4)


def test_complaints_about_strangers_are_refused() -> None:
    run = Round(protocol())
    run.play("upload", lost={4})
    refuse(run.server, replaced(run.upwards[1], complaints=(4,)), 1, "dealt nothing")
    run.finish()


def test_a_share_that_is_no_residue_is_complained_about() -> None:
    run = Round(protocol())
    run.play("share")
    dealer = run.clients[0]
    assert dealer._peers is not None
    words = run.agreed.parameters.columns
    bad = dealer._peers.seal(3, "share", "Share", memoryview(b"\xff\xff\xff\x7f" * words))
    share = run.upwards[0]
    assert isinstance(share, Share)
    boxes = tuple((to, bad if to == 3 else box) for to, box in share.boxes)
    run.upwards[0] = replaced(share, boxes=boxes)
    run.collect()
    run.close()
    run.send("upload")
    upload = run.upwards[3]
    assert isinstance(upload, Upload)
    assert upload.complaints == (0,)
    assert not run.clients[3]._held[0].any()
