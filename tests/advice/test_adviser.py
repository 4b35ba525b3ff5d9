from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling.advice import Adviser, Situation
from lightning_scaling.deviation import Deviation, Divergence
from lightning_scaling.forecast import Forecast

ON_TRACK = Deviation(False, 0.8, None, None, "on track", 0.001, 3.1)


def path(steps):
    return np.full(np.shape(steps), 3.0), np.full(np.shape(steps), 0.02)


GOOD = Forecast(500, 1000, "relative_multi_power", "ok", "", path=path)
EARLY = Forecast(20, 1000, "relative_multi_power", "none", "fewer than 4 points after the warm-up")
LOW = Forecast(500, 1000, "relative_multi_power", "low", "the warm-up is not over", path=path)


def situation(**changes):
    values = {
        "step": 500,
        "fraction": 0.5,
        "loss": 3.1,
        "forecast": GOOD,
        "deviation": ON_TRACK,
        "divergence": None,
        "nonfinite_tail": 0,
        "nonfinite": 0,
        "rate_ratio": 1.0,
        "target": None,
    }
    return Situation(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "action", "sentence"),
    [
        (
            {},
            "continue",
            "At step 500: on track; the loss at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043).",
        ),
        (
            {"forecast": LOW},
            "continue",
            "At step 500: on track; the loss at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043), "
            "with low trust: the warm-up is not over.",
        ),
        (
            {"forecast": EARLY, "step": 20},
            "continue",
            "At step 20 it is too early for a forecast: fewer than 4 points after the warm-up.",
        ),
        (
            {"nonfinite": 1, "nonfinite_tail": 1},
            "investigate",
            "1 loss before step 500 came out not finite; look for an overflow or a bad batch there.",
        ),
        (
            {"nonfinite": 20, "nonfinite_tail": 20, "loss": math.nan},
            "stop",
            "The last 20 losses, since about step 481, are not finite: the weights are very likely lost; go back to a "
            "checkpoint from before that step and lower the learning rate. Stopping now saves 50% of the planned "
            "compute.",
        ),
        (
            {"divergence": Divergence(450, 0.3, 3.0, False), "loss": 4.2},
            "investigate",
            "The loss has gone from 3 back up to 4.2 since step 450, 30% of what the run had gained; if it does not "
            "come back, the run has diverged.",
        ),
        (
            {"divergence": Divergence(450, 0.8, 3.0, True), "loss": 6.2},
            "stop",
            "The loss has gone from 3 back up to 6.2 since step 450 and stays there: 80% of what the run had gained is "
            "lost; go back to a checkpoint from before that step and lower the learning rate. Stopping now saves 50% "
            "of the planned compute.",
        ),
        (
            {"rate_ratio": 3.0},
            "investigate",
            "At step 500 the learning rate used is 3 times the planned one, so the forecast no longer applies; if the "
            "change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise mend the schedule.",
        ),
        (
            {"deviation": Deviation(True, 250.0, "above", 400, "deviating", 0.062, 3.1), "loss": 3.162},
            "investigate",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 to 1 "
            "against chance); check the learning rate, the batch and the data that arrived since then before anything "
            "else.",
        ),
        (
            {"deviation": Deviation(True, 1e9, "below", 400, "deviating", -0.093, 3.1), "loss": 3.007},
            "investigate",
            "The loss is 3.007 at step 500 where 3.1 was forecast at step 400: 3.0% below its path (odds over a "
            "million to 1 against chance); check for repeated data, a leak or a change of the loss before "
            "celebrating.",
        ),
        (
            {"target": 2.9},
            "stop",
            "The final loss is forecast at 3 (90 % between 2.957 and 3.043) and misses the target 2.9 with probability "
            "99.6%. Stopping now saves 50% of the planned compute.",
        ),
    ],
)
def test_every_sentence(changes, action, sentence):
    advice = Adviser().advise(situation(**changes))
    assert advice.action == action
    assert advice.reason == sentence
    assert advice.saving == (0.5 if action == "stop" else 0.0)
    assert 0 <= advice.confidence <= 1


def test_a_target_is_never_missed_on_low_trust():
    assert Adviser().advise(situation(target=2.0, forecast=LOW)).action == "continue"


def test_without_a_planned_end_no_saving_is_claimed():
    advice = Adviser().advise(situation(nonfinite_tail=30, nonfinite=30, fraction=None))
    assert advice.action == "stop"
    assert advice.saving == 0
    assert "saves" not in advice.reason


def test_the_gravest_finding_speaks():
    both = situation(nonfinite_tail=30, nonfinite=30, rate_ratio=3.0)
    assert "not finite" in Adviser().advise(both).reason


def test_advice_does_not_flap():
    adviser = Adviser()
    bad = situation(divergence=Divergence(450, 0.3, 3.0, False), loss=4.2)
    assert adviser.advise(bad).action == "investigate"
    waiting = adviser.advise(situation(step=510))
    assert waiting.action == "investigate"
    assert waiting.reason == (
        "At step 510 the signs that led to the advice to investigate have eased; waiting to see that this lasts."
    )
    assert adviser.advise(situation(step=520)).action == "continue"


def test_the_memory_survives_a_round_trip():
    first, second = Adviser(), Adviser()
    first.advise(situation(rate_ratio=3.0))
    second.load_state_dict(first.state_dict())
    assert second.advise(situation()).action == "investigate"
