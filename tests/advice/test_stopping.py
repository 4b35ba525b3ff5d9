import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_scaling.advice import Decision, Ranking, RunRank, RunState, StopRule
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast

ON_TRACK = Deviation(False, 1.0, None, None, "on track")
UNDECIDABLE = Deviation(False, 1.0, None, None, "undecidable")


def forecast(final=3.0, scale=0.01, trust="ok", ends=True):
    def path(steps):
        return np.full(np.shape(steps), final), np.full(np.shape(steps), scale)

    return Forecast(400, 1000, "law", trust, "", path=path, at_plan_end=ends)


def state(**changes):
    settings = {"step": 400, "fraction": 0.4, "loss": 3.2, "forecast": forecast(), "deviation": ON_TRACK}
    return RunState(**{**settings, **changes})


def ranking(best=0.01, ready=True, same=True):
    own = RunRank(0, None, best, 0.08, 0.1, same, ready)
    other = RunRank(1, "run-7", 1 - best, -0.01, 0.0, same, ready)
    return Ranking(0.4, 1, (own, other))


@pytest.mark.parametrize(
    ("rule", "changes", "sentence"),
    [
        (
            StopRule(target=2.9, holds=1),
            {},
            "The final loss is forecast at 3 (90 % between 2.979 and 3.021) and misses the target 2.9 with probability "
            "over 99.9%; stopping at step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(best=2.97, holds=1),
            {"metric": "val_loss"},
            "The final `val_loss` is forecast at 3 (90 % between 2.979 and 3.021) and does not beat the best so far, "
            "2.97, with probability 98.0%; stopping at step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(),
            {"ranking": ranking()},
            "Compared with the other run at 40% of the plan the run will not be the best with probability 99.0% and is "
            "expected to end 0.09 behind 'run-7'; stopping at step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(),
            {"ranking": ranking(same=False)},
            "Compared with the other run at 40% of the plan, allowing for their different schedules, the run will not "
            "be the best with probability 99.0% and is expected to end 0.09 behind 'run-7'; stopping at step 400 saves "
            "60% of the planned compute.",
        ),
        (
            StopRule(value=1000, price_per_hour=30, holds=1),
            {"hours_left": 10.0},
            "The rest of the run costs 300, but even a gain of 0.221, with a probability of only 5.0% of more, is "
            "worth no more than 221.3; stopping at step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(),
            {"divergence": Divergence(350, 0.8, 3.1, True), "forecast": forecast(trust="low"), "loss": 5.2},
            "The loss has gone from 3.1 back up to 5.2 since step 350 and stays there: 80% of what the run had gained "
            "is lost; stopping at step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(),
            {"nonfinite_tail": 25, "deviation": UNDECIDABLE, "loss": math.nan},
            "The last 25 losses, since about step 376, are not finite: the weights are very likely lost; stopping at "
            "step 400 saves 60% of the planned compute.",
        ),
        (
            StopRule(),
            {"nonfinite_tail": 25, "fraction": None, "metric": "acc"},
            "The last 25 values of `acc`, since about step 376, are not finite: the weights are very likely lost; the "
            "run is stopped at step 400.",
        ),
    ],
)
def test_every_reason_is_one_plain_sentence_with_numbers(rule, changes, sentence):
    assert rule.decide(state(**changes)).reason == sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"forecast": forecast(trust="low")},
        {"forecast": forecast(trust="none")},
        {"deviation": UNDECIDABLE},
        {"forecast": forecast(ends=False)},
        {"forecast": forecast(scale=0.2)},
    ],
)
def test_without_trust_or_verdict_or_certainty_nothing_is_stopped(changes):
    rule = StopRule(target=2.9, best=2.95, value=1.0, price_per_flop=1e-12, holds=1)
    assert rule.decide(state(flops_left=1e6, **changes)) is None


def test_the_comparison_too_needs_a_verdict_and_trust_in_the_forecast():
    rule = StopRule()
    assert rule.decide(state(ranking=ranking())).kind == "best"
    assert rule.decide(state(ranking=ranking(), forecast=forecast(trust="low"))) is None
    assert rule.decide(state(ranking=ranking(), deviation=UNDECIDABLE)) is None
    assert rule.decide(state(ranking=ranking(ready=False))) is None
    assert rule.decide(state(ranking=ranking(best=0.1))) is None


def test_what_rests_on_the_forecast_must_hold_for_three_updates():
    rule = StopRule(target=2.9)
    sure, unsure = state(), state(forecast=forecast(trust="low"))
    assert [rule.decide(one) is not None for one in (sure, sure, unsure, sure, sure, sure)] == [False] * 5 + [True]


def test_a_passing_divergence_is_no_reason():
    assert StopRule().decide(state(divergence=Divergence(350, 0.8, 3.1, False))) is None


def test_cost_is_what_the_forecast_still_promised():
    decision = StopRule(target=2.9, holds=1).decide(state())
    assert decision.cost == pytest.approx(0.2)
    assert decision.saving == pytest.approx(0.6)
    assert StopRule().decide(state(divergence=Divergence(1, 0.8, 3.1, True))).cost is None


def test_a_price_that_is_not_known_stops_nothing():
    rule = StopRule(value=1.0, price_per_flop=1.0, holds=1)
    assert rule.decide(state()) is None
    assert rule.decide(state(flops_left=1e3)).kind == "value"


def test_a_decision_survives_as_builtins():
    decision = StopRule(target=2.9, holds=1).decide(state())
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_more_is_better_for_some_metrics():
    rising = replace(state(metric="acc", mode="max"), loss=0.8, forecast=forecast(final=0.9))
    assert rising.forecast_gain == pytest.approx(0.1)
    assert replace(rising, forecast=forecast(final=0.7)).forecast_gain == 0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"target": "low"}, TypeError, "`target` must be a finite number"),
        ({"probability": 0.3}, ValueError, "`probability` must be at least 0.5"),
        ({"price_per_hour": 3.0}, ValueError, "needs `value`"),
        ({"value": 3.0}, ValueError, "needs a price"),
        ({"value": -1.0, "price_per_flop": 1.0}, ValueError, "`value` must be a positive number"),
    ],
)
def test_arguments_are_checked(arguments, error, text):
    with pytest.raises(error, match=text):
        StopRule(**arguments)
