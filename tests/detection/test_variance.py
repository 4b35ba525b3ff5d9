from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling.detection import Block, References, RunDetectors, VarianceDetector
from lightning_scaling.forecast import Forecast

BLOCKS = 100
NOTHING = References(Forecast(1, 1000, "law", "none", ""))


def block_of(losses, rate=math.nan):
    return Block(1, float(np.mean(losses)), 0.01, np.asarray(losses), rate)


def watched(noise, seed, *, heavy=False):
    """Log evidence after every block of five losses around a falling line, whose noise is ``noise(block)``."""
    random, detector, seen = np.random.default_rng(seed), VarianceDetector(), []
    for block in range(BLOCKS):
        draws = random.standard_t(3, 5) if heavy else random.normal(size=5)
        detector.update(block_of(3 - 0.005 * (block + np.arange(5) / 5) + noise(block) * draws), NOTHING)
        seen.append((detector.log_e, detector.ratio))
    return seen


@pytest.mark.parametrize("heavy", [False, True])
def test_steady_or_falling_noise_is_no_evidence(heavy):
    alpha = 0.05
    for fall in (0.0, 0.5):
        most = [
            max(e for e, _ in watched(lambda b, f=fall: 0.05 * (1 - f * b / 100), s, heavy=heavy)) for s in range(60)
        ]
        assert sum(e > -math.log(alpha) for e in most) <= 6  # at most 3 expected; 7 or more has probability .04


def test_threefold_noise_is_found_within_a_tenth_of_the_run():
    for seed in range(5):
        seen = watched(lambda b: 0.05 if b < 50 else 0.15, seed)
        assert max(e for e, _ in seen[:50]) < math.log(100)
        assert seen[60][0] > math.log(100)
        assert 2 < seen[60][1] < 6


def test_noise_that_comes_with_a_higher_learning_rate_is_no_evidence():
    for seed in range(5):
        random, detector = np.random.default_rng(seed), VarianceDetector()
        for block in range(BLOCKS):
            rate = 1e-3 * (1 - 0.9 * (block % 50) / 50)
            detector.update(block_of(3 - 0.005 * block + 50 * rate * random.normal(size=5), rate), NOTHING)
            assert detector.log_e < math.log(100)


def test_the_verdict_names_the_noise_and_no_direction_and_is_taken_back_when_it_calms():
    random = np.random.default_rng(0)

    def path(steps):
        steps = np.asarray(steps, dtype=float)
        return 3 - 0.5 * steps / 1000, np.full(steps.shape, 0.004)

    detectors, verdicts = RunDetectors(0.01), []
    for step in range(10, 1001, 10):
        noise = 0.06 if 500 < step <= 700 else 0.02
        losses = path(np.arange(step - 9, step + 1))[0] + random.normal(0, noise, 10)
        block = Block(step - 4.5, float(losses.mean()), 0.02 / math.sqrt(10) * 1.2, losses)
        verdicts.append(detectors.update(block, References(Forecast(step, 1000, "law", "ok", "", path=path))))
    assert not any(v.alarm for v in verdicts[:50])
    found = verdicts[62]
    assert found.alarm
    assert (found.kind, found.direction) == ("variance_increase", None)
    assert 2 < found.noise_ratio < 4
    assert found.to_dict()["kind"] == "variance_increase"
    assert not verdicts[-1].alarm
