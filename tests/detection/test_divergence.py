from __future__ import annotations

import pytest

from lightning_scaling.detection import Block, DivergenceDetector


def divergences(losses):
    detector, found = DivergenceDetector(), []
    for i, loss in enumerate(losses, 1):
        detector.update(Block(10 * i, loss, 0.02))
        found.append(detector.divergence)
    return found


def test_a_blow_up_is_distinguished_from_a_bad_block_and_from_one_that_lasts():
    fall = [10 - 6 * i / 20 for i in range(20)]
    assert not any(divergences([*fall, 8.0, 4.0, 4.0]))
    short = divergences([*fall, 8.0, 8.0, 6.0, 4.1, 4.0])
    assert short[21].lost == pytest.approx((8 - 4.3) / 5.7, rel=0.01)
    assert short[21].since_step == 210
    assert not any(d.lasting for d in short if d)
    assert short[-1] is None
    assert not divergences([*fall, *[8.0] * 7])[-1].lasting
    lasting = divergences([*fall, *[8.0] * 8])
    assert lasting[-1].lasting


def test_one_loss_far_beyond_all_that_was_gained_is_reported_at_once():
    detector = DivergenceDetector()
    assert detector.limit(0.02) == float("inf"), "nothing has been gained yet"
    for loss in [10.0, 5.0, 4.0]:
        detector.update(Block(1, loss, 0.02))
    assert detector.limit(0.02) == pytest.approx(4 + 2 * 6)
    assert detector.limit(5.0) == pytest.approx(4 + 10 * 5.0)
    detector.update(Block(2, 30.0, 20.0, blown=True))
    assert detector.divergence.lost == pytest.approx(26 / 6)
    assert not detector.divergence.lasting
    assert detector.limit(0.02) == float("inf"), "one blow-up is reported once"
