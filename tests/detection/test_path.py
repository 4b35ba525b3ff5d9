from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling.detection import Block, References, RunDetectors
from lightning_scaling.forecast import Forecast

TOTAL = 1000
NOISE = 0.01


def path(steps):
    steps = np.asarray(steps, dtype=float)
    return 3 - 0.5 * steps / TOTAL, np.full(steps.shape, 0.004)


def forecast(step):
    return Forecast(step, TOTAL, "relative_multi_power", "ok", "", path=path)


def judged(losses, alpha=0.01):
    """Verdicts on block losses, one block per 1 % of the run."""
    detector = RunDetectors(alpha)
    return [
        detector.update(Block(step, loss, NOISE), References(forecast(step)))
        for step, loss in zip(range(10, TOTAL + 1, 10), losses, strict=True)
    ]


def healthy(seed):
    steps = np.arange(10, TOTAL + 1, 10)
    return path(steps)[0] + np.random.default_rng(seed).normal(0, NOISE, steps.size)


def test_false_alarms_stay_below_alpha_over_the_whole_run():
    alarms = sum(any(v.alarm for v in judged(healthy(seed), alpha=0.05)) for seed in range(120))
    assert alarms <= 10  # 120 * .05 = 6 expected at the most; 11 or more has probability below .05


@pytest.mark.parametrize(("shift", "direction"), [(0.1, "above"), (-0.12, "below")])
def test_a_shift_is_found_within_four_blocks_and_stays_found(shift, direction):
    losses = healthy(1)
    losses[50:] += shift
    verdicts = judged(losses)
    assert not any(v.alarm for v in verdicts[:50])
    assert any(v.alarm for v in verdicts[50:54])
    assert verdicts[-1].alarm
    assert verdicts[-1].direction == direction
    assert 450 <= verdicts[-1].since_step <= 510
    assert verdicts[-1].excess == pytest.approx(shift, abs=4 * NOISE)
    assert verdicts[-1].e_value >= 100
    assert verdicts[-1].kind == ("level_shift" if shift > 0 else "better_than_forecast")


def test_a_slow_drift_is_found():
    losses = healthy(2)
    losses[50:] += 0.4 * np.arange(50) / 50
    verdicts = judged(losses)
    assert any(v.alarm for v in verdicts[50:75])
    assert verdicts[-1].kind == "slow_divergence"


def test_a_loss_that_stops_falling_is_called_a_plateau():
    losses = healthy(3)
    losses[50:] = losses[50:] + path(np.array([500.0]))[0] - path(np.arange(510, 1001, 10))[0]
    verdicts = judged(losses)
    assert next(v for v in verdicts if v.alarm).kind == "plateau"
    assert not any(v.alarm for v in verdicts[:50])


def test_a_single_bad_block_is_no_alarm_and_no_reference():
    losses = healthy(3)
    losses[50] *= 1.5
    assert not any(v.alarm for v in judged(losses))


def test_a_run_that_comes_back_is_on_track_again():
    losses = healthy(4)
    losses[50:60] += 0.1
    verdicts = judged(losses)
    assert any(v.alarm for v in verdicts[50:60])
    assert verdicts[-1].verdict == "on track"


def test_an_effect_too_small_to_matter_is_no_alarm():
    losses = path(np.arange(10, TOTAL + 1, 10))[0]
    losses[50:] += 0.012
    assert not any(v.alarm for v in judged(losses))


def test_without_a_forecast_nothing_can_be_decided():
    detector = RunDetectors()
    nothing = Forecast(10, TOTAL, "relative_multi_power", "none", "too early")
    assert detector.update(Block(10, 3.0, NOISE), References(nothing)).verdict == "undecidable"
    assert detector.update(None, References(nothing)).verdict == "undecidable"


def test_forecasts_are_not_tested_beyond_their_validity():
    detector = RunDetectors()
    limited = Forecast(100, TOTAL, "relative_multi_power", "low", "decay ahead", path=path, valid_until=150)
    detector.update(Block(100, 2.95, NOISE), References(limited))
    for step in range(160, 300, 10):
        nothing = Forecast(step, TOTAL, "relative_multi_power", "none", "")
        verdict = detector.update(Block(step, 2.0, NOISE), References(nothing))
    assert verdict.verdict == "undecidable"


def test_an_alarm_stays_as_it_is_while_no_loss_arrives():
    detector = RunDetectors()
    losses = healthy(1)
    losses[50:] += 0.1
    for step, loss in zip(range(10, 701, 10), losses, strict=False):
        verdict = detector.update(Block(step, loss, NOISE), References(forecast(step)))
    assert verdict.alarm
    assert detector.update(None, References(forecast(700))) == verdict
