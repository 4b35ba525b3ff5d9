from __future__ import annotations

import json
import math

import numpy as np

from lightning_scaling.advice import Adviser, RunState
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast

ON_TRACK = Deviation(False, 0.8, None, None, "on track", 0.001, 3.1)


def path(steps):
    return np.full(np.shape(steps), 3.0), np.full(np.shape(steps), 0.02)


GOOD = Forecast(500, 1000, "relative_multi_power", "ok", "", path=path)
LOW = Forecast(500, 1000, "relative_multi_power", "low", "the warm-up is not over", path=path)


def state(**changes):
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
    return RunState(**{**values, **changes})


def off(kind, step=500, **changes):
    verdict = Deviation(True, 250.0, "above", 400, "deviating", 0.062, 3.1, kind)
    return state(deviation=verdict, loss=3.162, step=step, fraction=step / 1000, **changes)


def test_a_target_is_never_missed_on_low_trust():
    assert Adviser().advise(state(target=2.0, forecast=LOW)).action == "continue"


def test_the_gravest_finding_speaks():
    both = state(nonfinite_tail=30, nonfinite=30, rate_ratio=3.0)
    assert "not finite" in Adviser().advise(both).reason


def test_a_learning_rate_off_its_plan_is_reported_before_its_consequences():
    assert "3 times the planned one" in Adviser().advise(off("level_shift", rate_ratio=3.0)).reason


def test_advice_does_not_flap_and_says_what_is_over():
    adviser = Adviser()
    bad = state(divergence=Divergence(450, 0.3, 3.0, False), loss=4.2)
    assert adviser.advise(bad).action == "investigate"
    waiting = adviser.advise(state(step=510))
    assert waiting.action == "investigate"
    assert waiting.reason == (
        "At step 510 the signs that led to the advice to investigate have eased; waiting to see that this lasts."
    )
    calm = adviser.advise(state(step=520))
    assert calm.action == "continue"
    assert calm.reason.endswith(" What led to the advice of step 500 to investigate is over.")
    assert "is over" not in adviser.advise(state(step=530)).reason


def test_waiting_does_not_change_the_topic():
    adviser = Adviser()
    topic = adviser.advise(off("level_shift")).topic
    assert adviser.advise(state(step=510)).topic == topic


def test_another_cause_has_to_hold_for_three_updates():
    adviser = Adviser()
    assert adviser.advise(off("slow_divergence")).evidence["cause"] == "learning_rate"
    named = [adviser.advise(off("plateau", step)) for step in (510, 520, 530, 540)]
    assert [one.evidence["cause"] for one in named] == ["learning_rate"] * 2 + ["frozen_layers"] * 2
    assert named[2].reason.endswith(" Until now the likely cause was the learning rate.")
    assert "Until now" not in named[1].reason + named[3].reason


def test_a_cause_that_comes_and_goes_changes_nothing():
    adviser = Adviser()
    kinds = ["slow_divergence", "plateau", "plateau", "slow_divergence", "plateau", "plateau"]
    named = {adviser.advise(off(kind, 500 + 10 * n)).evidence["cause"] for n, kind in enumerate(kinds)}
    assert named == {"learning_rate"}


def test_how_the_run_left_its_path_is_kept_as_it_was_seen_first():
    adviser = Adviser()
    assert "all at once" in adviser.advise(off("level_shift", abrupt=True)).reason
    assert "all at once" in adviser.advise(off("level_shift", 510, abrupt=False)).reason


def test_the_hint_is_given_once():
    adviser = Adviser()
    assert adviser.advise(state(hint="A hint.")).reason.endswith("A hint.")
    assert "hint" not in adviser.advise(state(hint="A hint.")).reason


def test_a_hint_waits_until_nothing_graver_is_to_be_said():
    adviser = Adviser()
    assert "A hint." not in adviser.advise(off("level_shift", hint="A hint.")).reason
    said = [adviser.advise(state(step=step, hint="A hint.")).reason for step in (510, 520, 530)]
    assert ["A hint." in reason for reason in said] == [False, True, False]


def test_the_memory_survives_a_round_trip():
    first, second = Adviser(), Adviser()
    first.advise(off("slow_divergence"))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.advise(off("plateau", 510)).evidence["cause"] == "learning_rate"
    assert second.advise(state(step=520)).action == "investigate"


def test_no_loss_at_all_is_no_reason_to_fail():
    assert Adviser().advise(state(loss=math.nan, deviation=off("plateau").deviation)).action == "investigate"
