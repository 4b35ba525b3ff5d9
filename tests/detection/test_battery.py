"""One battery of tests for every detector, and the rules by which a run adds up their evidence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.detection import (
    Block,
    Detector,
    Deviation,
    DeviationKind,
    DivergenceDetector,
    Evidence,
    PathDetector,
    References,
    RunDetectors,
    VarianceDetector,
    default_detectors,
)
from lightning_scaling.forecast import Forecast

TOTAL, NOISE, LOSSES = 1000, 0.02, 10
STEPS = np.arange(LOSSES, TOTAL + 1, LOSSES)
ALPHA = 0.05


def path(steps):
    steps = np.asarray(steps, dtype=float)
    return 3 - 0.5 * steps / TOTAL, np.full(steps.shape, 0.004)


def references(step):
    return References(Forecast(int(step), TOTAL, "relative_multi_power", "ok", "", path=path))


def block(step, *, seed=0, shift=0.0, noise=NOISE):
    at = np.arange(step - LOSSES + 1, step + 1)
    losses = path(at)[0] + shift + np.random.default_rng([seed, int(step)]).normal(0, noise, LOSSES)
    return Block(float(at.mean()), float(losses.mean()), 1.2 * NOISE / math.sqrt(LOSSES), losses)


def blow_up(step, seed=0):
    return block(step, seed=seed, shift=2.0)


CASES = [
    pytest.param(PathDetector, lambda step, seed: block(step, seed=seed, shift=0.1), id="path"),
    pytest.param(VarianceDetector, lambda step, seed: block(step, seed=seed, noise=4 * NOISE), id="variance"),
    pytest.param(DivergenceDetector, blow_up, id="divergence"),
]


def drive(detector, blocks):
    """Whether the detector alone has enough evidence after each block."""
    found = []
    for one, step in zip(blocks, STEPS, strict=False):
        made = detector.update(one, references(step))
        detector.freeze(one, references(step))
        fired = made.decidable and made.kind is not None and made.log_e >= -math.log(ALPHA)
        found.append(fired or getattr(detector, "divergence", None) is not None)
    return found


def planted(fault, seed=0):
    return [block(step, seed=seed) if step <= 500 else fault(step, seed) for step in STEPS]


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_under_the_null_few_of_120_runs_have_enough_evidence(make, fault):
    fired = sum(any(drive(make(), [block(step, seed=seed) for step in STEPS])) for seed in range(120))
    assert fired <= 10  # 120 * .05 = 6 expected at the most; 11 or more has probability below .05


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_exact_data_is_no_evidence(make, fault):
    assert not any(drive(make(), [block(step, noise=0.0) for step in STEPS]))


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_a_planted_change_is_found_within_a_tenth_of_the_run_and_not_before(make, fault):
    for seed in range(3):
        found = drive(make(), planted(fault, seed))
        assert not any(found[:50])
        assert any(found[50:60])


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_after_a_reset_a_detector_is_as_new(make, fault):
    detector, fresh = make(), make()
    first = drive(detector, planted(fault))
    detector.reset()
    assert detector.state_dict() == fresh.state_dict()
    assert drive(detector, planted(fault)) == first


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_the_state_is_builtins_and_survives_a_round_trip(make, fault):
    first, second = make(), make()
    drive(first, [block(step) for step in STEPS[:50]])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert json.dumps(second.state_dict()) == json.dumps(first.state_dict())
    after = [block(step, shift=0.01) for step in STEPS[50:60]]
    assert drive(second, after) == drive(first, after)


@pytest.mark.parametrize(("make", "fault"), CASES[:2])
def test_an_announced_change_does_not_renew_the_alpha_budget(make, fault):
    """The budget and its worth after a change are at most what they were, and four changes spend it only once."""
    detector, unspent = make(), []
    for start in range(0, 100, 25):
        drive(detector, [block(step, seed=3) for step in STEPS[start : start + 25]])
        detector.restart()
        state = detector.state_dict()
        parts = [state] if "unused" in state else [state["own"], state["past_runs"]]
        assert sum(part["unused"] + part["settled"] for part in parts) <= 1 + 1e-12
        unspent.append(sum(part["unused"] for part in parts))
    assert unspent == sorted(unspent, reverse=True)
    assert unspent[-1] < 0.9 * (1.0 if make is VarianceDetector else detector.alpha_share)
    detector.restart()
    assert json.dumps(detector.state_dict()) == json.dumps(state)


def test_with_ten_announced_changes_false_alarms_stay_below_alpha():
    alarms = 0
    for seed in range(60):
        detectors, fired = RunDetectors(ALPHA), False
        for i, step in enumerate(STEPS):
            if i % 10 == 9:
                detectors.restart()
            fired = fired or detectors.update(block(step, seed=seed), references(step)).alarm
        alarms += fired
    assert alarms <= 6  # 3 expected at the most; 7 or more has probability .04


def test_a_fault_after_an_announced_change_is_found():
    detectors = RunDetectors()
    for step in STEPS[:40]:
        detectors.update(block(step), references(step))
    detectors.restart()
    verdicts = [detectors.update(block(s, shift=0.1 * (s > 500)), references(s)) for s in STEPS[40:]]
    assert not any(verdict.alarm for verdict in verdicts[:10])
    assert any(verdict.alarm for verdict in verdicts[10:15])


@pytest.mark.parametrize("at", [30, 45, 52, 58, 70])
def test_saved_at_any_block_the_verdicts_go_on_as_if_nothing_had_been_saved(at):
    """Before, amid and after a shift of the level from which the run comes back."""
    whole, resumed = RunDetectors(), RunDetectors()
    verdicts: dict[RunDetectors, list] = {whole: [], resumed: []}
    for i, step in enumerate(STEPS):
        if i == at:
            state = json.loads(json.dumps(whole.state_dict()))
            resumed.load_state_dict(state)
            assert json.dumps(resumed.state_dict()) == json.dumps(state)
        for detectors, seen in verdicts.items():
            if i >= at or detectors is whole:
                seen.append(detectors.update(block(step, shift=0.1 * (500 < step <= 650)), references(step)).to_dict())
    assert any(verdict["alarm"] for verdict in verdicts[whole])
    assert not verdicts[whole][-1]["alarm"]
    assert repr(verdicts[resumed]) == repr(verdicts[whole][at:])


class Threshold(AttributeState, Detector):
    """A toy: its evidence is the second loss of a block being above 5."""

    STATE = ("seen",)
    alpha_share = 0.1

    def __init__(self):
        self.reset()

    def reset(self):
        self.seen = 0

    def update(self, block, forecast):
        self.seen += block is not None
        high = block is not None and block.losses[1] > 5
        return Evidence(math.log(self.alpha_share) + (20.0 if high else 0.0), DeviationKind.LEVEL_SHIFT, "above")


def test_a_new_detector_takes_a_class_and_a_place_in_the_list():
    toy = Threshold()
    path_detector, *others = default_detectors()
    path_detector.alpha_share -= toy.alpha_share
    path_detector.reset()
    detectors = RunDetectors(0.01, [path_detector, *others, toy])
    for step in STEPS[:20]:
        verdict = detectors.update(block(step), references(step))
        assert not verdict.alarm
    normal = block(STEPS[20])
    losses = normal.losses.copy()
    losses[1] = 5.1
    verdict = detectors.update(Block(normal.step, normal.loss, normal.sd, losses), references(STEPS[20]))
    assert verdict.alarm
    assert verdict.kind is DeviationKind.LEVEL_SHIFT
    assert verdict.since_step is not None
    assert detectors.state_dict()["detectors"][-1] == {"seen": 21}


def test_shares_of_the_budget_that_exceed_it_are_refused():
    with pytest.raises(ValueError, match=r"must not exceed 1 in sum, but got 1\.1"):
        RunDetectors(0.01, [*default_detectors(), Threshold()])


def test_a_verdict_is_short_to_read_and_comes_back_from_builtins():
    verdict = Deviation(True, 250.0, "above", 400, "deviating", 0.06, 3.1, DeviationKind.PLATEAU)
    assert repr(verdict) == "Deviation(deviating, plateau, 0.06 above 3.1, since step 400, e=250)"
    stored = json.loads(json.dumps(verdict.to_dict()))
    assert stored["kind"] == "plateau"
    back = Deviation.from_dict(stored)
    assert (back.kind, back.basis, repr(back)) == (verdict.kind, verdict.basis, repr(verdict))
