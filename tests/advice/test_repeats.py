"""Repeated data: their count, their value and the sentences on them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lightning_scaling import Run, laws, replay
from lightning_scaling.advice import Adviser, RunState
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecast
from lightning_scaling.schedule import Plan

TOTAL = 1000


def planted(steps, seed=0, noise=0.004):
    return 2 + 4 * np.asarray(steps) ** -0.3 + np.random.default_rng(seed).normal(0, noise, len(steps))


def watched(loss, *, plan=None, tokens=1000.0, until=TOTAL, facts=None, **settings):
    """The monitor of a run of so many tokens a step, and what it said."""
    steps = np.arange(1, until + 1)
    monitor = Monitor(plan or Plan([1, TOTAL], [1e-3, 1e-3], total_steps=TOTAL, known=True), **settings)
    monitor.note({"unit": "tokens", "tensors": 24, **(facts or {})})
    said = monitor.observe(steps, loss[:until], tokens=None if tokens is None else steps * tokens)
    return monitor, said


# ------------------------------------------------------------------ the numbers


@pytest.mark.parametrize(("passes", "value"), [(2, 1.97), (4, 3.73), (8, 6.62), (16, 10.6), (32, 14.3)])
def test_passes_have_the_value_of_the_law_of_the_catalogue(passes, value):
    law = laws.get("data_constrained").known("muennighoff")
    p, params, unique = law.params, 1e8, 1e10

    def effective(count):
        loss = float(law.predict(params=params, tokens=count * unique, unique_tokens=unique)[()])
        return ((loss - p["E"] - p["A"] / params ** p["alpha"]) / p["B"]) ** (-1 / p["beta"]) / unique

    assert effective(passes) == pytest.approx(value, rel=0.005)
    another = Repeats(passes - 0.5, 100, unique).next_pass
    assert another == pytest.approx(effective(passes + 1) - effective(passes), rel=1e-6)


@pytest.mark.parametrize(("passes", "number"), [(0.0, 1), (0.4, 1), (1.0, 1), (1.01, 2), (2.0, 2), (2.5, 3)])
def test_the_pass_under_way(passes, number):
    assert Repeats(passes, 100).number == number


# -------------------------------------------------------------------- the counts


def test_the_unique_tokens_are_those_of_a_pass():
    monitor, _ = watched(planted(range(1, 1001)), facts={"epoch_steps": 150}, until=600)
    here = monitor.repeats
    assert (here.passes, here.number, here.length, here.planned) == (4.0, 4, 150, pytest.approx(1000 / 150))
    assert here.unique == pytest.approx(150_000)


def test_unique_tokens_that_are_given_go_before_the_length_of_a_pass():
    monitor, _ = watched(planted(range(1, 1001)), facts={"epoch_steps": 10}, until=600, unique_tokens=400_000)
    here = monitor.repeats
    assert (here.passes, here.length, here.unique) == (pytest.approx(1.5), pytest.approx(400), 400_000)


@pytest.mark.parametrize("settings", [{}, {"unique_tokens": 1e5, "tokens": None}])
def test_of_data_without_a_known_length_nothing_is_said(settings):
    monitor, said = watched(np.append(planted(range(1, 501)), planted(range(501, 1001)) * 1.05), **settings)
    assert monitor.repeats is None
    assert any(one.advice.action == "investigate" for one in said)
    assert not any("pass" in one.advice.reason or "unique" in one.advice.reason for one in said)


def test_without_counts_passes_are_known_by_their_steps():
    monitor, _ = watched(planted(range(1, 1001)), tokens=None, facts={"epoch_steps": 150}, until=600)
    assert (monitor.repeats.passes, monitor.repeats.unique, monitor.repeats.next_pass) == (4.0, None, None)
    assert monitor.repeats.clause == "this is pass 4 over the data"


def test_passes_of_another_length_are_counted_from_where_they_begin():
    monitor, _ = watched(planted(range(1, 1001)), facts={"epoch_steps": 20}, until=600)
    monitor.note({"epoch_steps": 200})
    steps = np.arange(601, 701)
    monitor.observe(steps, planted(steps), tokens=steps * 1000.0)
    assert monitor.repeats.passes == pytest.approx(0.5)
    assert monitor.repeats.planned is None
    monitor.note({"epoch_steps": None})
    assert monitor.update().advice.action == "continue"
    assert monitor.repeats is None


def test_the_count_survives_a_resume():
    first, _ = watched(planted(range(1, 1001)), facts={"epoch_steps": 20}, until=600)
    first.note({"epoch_steps": 200})
    second = Monitor(first.plan)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for monitor in (first, second):
        monitor.note({"epoch_steps": 200})
        steps = np.arange(601, 701)
        monitor.observe(steps, planted(steps), tokens=steps * 1000.0)
    assert second.repeats.passes == pytest.approx(0.5)
    assert (first.repeats.passes, first.repeats.unique) == (second.repeats.passes, second.repeats.unique)


@pytest.mark.parametrize("wrong", [0, -5, math.inf, math.nan])
def test_unique_tokens_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="`unique_tokens` must be a positive number or None"):
        Monitor(None, unique_tokens=wrong)


# ---------------------------------------------------------------------- the hint


HINT = (
    "A hint: the plan goes 12 times over the 120M unique tokens; by the data-constrained law its 1.44B tokens are "
    "worth 1.06B new ones (74%). The law's constants come from language models, and it knows nothing of overfitting: "
    "watch a held-out loss."
)


def test_the_hint_in_full():
    assert Repeats(0.1, 100, 1.2e8, planned=12.0).hint() == HINT


@pytest.mark.parametrize(
    "here",
    [
        Repeats(0.1, 100, 1.2e8, planned=5.0),
        Repeats(0.1, 100, 1.2e8, planned=None),
        Repeats(0.1, 100, 5e4, "samples", planned=90.0),
        Repeats(0.1, 100, None, planned=90.0),
    ],
)
def test_repeats_that_cost_little_or_cannot_be_judged_are_no_hint(here):
    assert here.hint() == ""


def test_the_monitor_gives_the_hint_once():
    _, said = watched(planted(range(1, 1001)), facts={"epoch_steps": 50}, until=300)
    hints = [one.advice.reason for one in said if "A hint" in one.advice.reason]
    assert len(hints) == 1
    assert "A hint: the plan goes 20 times over the 50k unique tokens; " in hints[0]
    _, said = watched(planted(range(1, 1001)), facts={"epoch_steps": 250}, until=300)
    assert not any("A hint" in one.advice.reason for one in said)


def test_a_recorded_run_can_be_given_its_unique_tokens():
    steps = np.arange(1, 401)
    run = Run(steps, planted(steps), total_steps=TOTAL, tokens_per_step=1000)
    assert not any("A hint" in update.advice.reason for update in replay(run))
    hints = [update.advice.reason for update in replay(run, unique_tokens=1e5) if "A hint" in update.advice.reason]
    assert len(hints) == 1
    assert "goes 10 times over the 100k unique tokens" in hints[0]


# ------------------------------------------------------- where a new pass begins


def jumped(at, factor=1.04):
    steps = np.arange(1, TOTAL + 1)
    return planted(steps) * np.where(steps > at, factor, 1.0)


def causes(said):
    return {one.advice.evidence["cause"] for one in said if one.deviation.alarm and one.deviation.direction == "above"}


@pytest.mark.parametrize(("at", "expected"), [(500, "repeated_data"), (610, "data")])
def test_a_jump_where_a_pass_begins_is_put_down_to_the_data_that_come_again(at, expected):
    _, said = watched(jumped(at), facts={"epoch_steps": 250}, until=700)
    assert causes(said) == {expected}
    assert ("pass_began" in said[-1].advice.evidence) == (at == 500)


def test_passes_too_short_to_locate_the_start_of_trouble_are_no_causes():
    _, said = watched(jumped(500), facts={"epoch_steps": 50}, until=700)
    assert causes(said) == {"data"}
    assert ", then the repeats (this is pass " in said[-1].advice.reason


def test_a_pass_that_begins_with_a_higher_learning_rate_is_no_cause():
    stairs = Plan([1, 500, 501, TOTAL], [1e-3, 1e-3, 1.2e-3, 1.2e-3], total_steps=TOTAL, known=True)
    monitor, said = watched(jumped(500), plan=stairs, facts={"epoch_steps": 250}, until=700)
    assert monitor.repeats.boundary is None
    assert "repeated_data" not in causes(said)


def test_the_first_pass_is_no_repeat():
    monitor, said = watched(jumped(500), facts={"epoch_steps": 800}, until=700)
    assert causes(said) == {"data"}
    assert "the repeats" not in said[-1].advice.reason
    assert "passes" not in said[-1].advice.evidence
    assert not monitor.repeats.repeated


# ------------------------------------------------------------- data held out


def turning(best=300, slope=0.35):
    """A loss that falls, and rises again from one step on."""
    steps = np.arange(1, TOTAL + 1)
    return planted(steps) + np.maximum(steps - best, 0) / TOTAL * slope


@pytest.mark.parametrize(("metric", "expected"), [("val_loss", "repeated_data"), (None, "learning_rate")])
def test_a_held_out_loss_that_turns_up_on_repeated_data_is_overfitting(metric, expected):
    _, said = watched(turning(), facts={"epoch_steps": 60}, monitor=metric)
    advice = [one.advice for one in said if one.advice.action == "investigate"]
    assert advice[0].evidence["cause"] == expected
    assert (": the model then overfits (this is pass " in advice[0].reason) == (metric is not None)


def test_a_held_out_loss_that_turns_up_in_the_first_pass_is_none():
    _, said = watched(turning(), facts={"epoch_steps": 1000}, monitor="val_loss")
    assert {"repeated_data"} & causes(said) == set()


# --------------------------------------------------------------------- sentences


def path(steps):
    return np.full(np.shape(steps), 3.0), np.full(np.shape(steps), 0.02)


def advised(kind="plateau", excess=0.062, direction="above", **changes):
    values = {
        "step": 500,
        "fraction": 0.5,
        "loss": 3.1 + excess,
        "forecast": Forecast(500, TOTAL, "relative_multi_power", "ok", "", path=path),
        "deviation": Deviation(True, 250.0, direction, 400, "deviating", excess, 3.1, kind),
        "divergence": None,
        "nonfinite_tail": 0,
        "nonfinite": 0,
        "rate_ratio": 1.0,
        "target": None,
        "repeats": Repeats(3.5, 143, 1.2e8),
    }
    return Adviser().advise(RunState(**{**values, **changes}))


BEGUN = (
    "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 to 1 against "
    "chance)"
)
HELD_OUT = BEGUN.replace("The loss", "`val_loss`")
ENDED = ". If nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is still to be spent."
AGAIN = (
    "this is pass 4 over the 120M unique tokens, and by the data-constrained law of language models one more is worth "
    "80% of as many new ones"
)
AT_BOUNDARY = Repeats(2.5, 200, 1.2e8, boundary=400)
WORN = Repeats(11.5, 43, 1.2e8)
VAL = {"metric": "val_loss", "held_out": True, "best": (410, 3.046)}


@pytest.mark.parametrize(
    ("changes", "cause", "sentence"),
    [
        (
            {"facts": {"tensors": 24}},
            "learning_rate",
            f"{BEGUN}, and it has stopped improving; check first the learning rate, which may have become too low (all "
            f"24 parameter tensors that had a gradient still have one), then the repeats ({AGAIN}){ENDED}",
        ),
        (
            {},
            "frozen_layers",
            f"{BEGUN}, and it has stopped improving; check first whether layers are frozen or cut off from the loss, "
            f"then whether the learning rate has become too low, then the repeats ({AGAIN}){ENDED}",
        ),
        (
            {"kind": "slow_divergence"},
            "learning_rate",
            f"{BEGUN}, and it moves further and further away; check first the learning rate, which may be too high, "
            f"then the precision and the clipping of gradients, then the data, then the repeats ({AGAIN}){ENDED}",
        ),
        (
            {"kind": "level_shift", "abrupt": True, "repeats": Repeats(3.5, 143, 5e4, "samples")},
            "data",
            f"{BEGUN}, all at once; check first the data that arrived since then (a damaged shard, wrong labels, "
            "inputs scaled in another way), then the learning rate, then the precision, then the repeats (this is pass "
            f"4 over the 50k samples){ENDED}",
        ),
        (
            {"kind": "level_shift", "abrupt": True, "repeats": AT_BOUNDARY},
            "repeated_data",
            f"{BEGUN}, all at once; check first the data, which begin anew right where the trouble did, at step 400 "
            "(this is pass 3 over the 120M unique tokens, and by the data-constrained law of language models one more "
            "is worth 85% of as many new ones): their order, their shuffling, a part that not every pass has; then the "
            f"learning rate, then the precision{ENDED}",
        ),
        (
            {"kind": "slow_divergence", "repeats": WORN, **VAL},
            "repeated_data",
            f"{HELD_OUT}, and it moves further and further away; check first whether the training loss still gets "
            "better: the model then overfits (this is pass 12 over the 120M unique tokens, and the best so far was "
            "3.046 at step 410), and new data or fewer passes help; then the learning rate, then whether the held-out "
            f"data have changed{ENDED}",
        ),
        (
            {"repeats": WORN, **VAL},
            "repeated_data",
            f"{HELD_OUT}, and it has stopped improving; check first whether the training loss still gets better: the "
            "model then overfits (this is pass 12 over the 120M unique tokens, and the best so far was 3.046 at step "
            "410), and new data or fewer passes help; then the learning rate, then whether the held-out data have "
            f"changed{ENDED}",
        ),
        (
            {"kind": "better_than_forecast", "excess": -0.093, "direction": "below", "repeats": AT_BOUNDARY},
            "repeated_data",
            "The loss is 3.007 at step 500 where 3.1 was forecast at step 400: 3.0% below its path (odds 250 to 1 "
            "against chance); check first whether the same data come again and again (this is pass 3 over the 120M "
            "unique tokens, which began right there), then whether the answer leaks into the inputs, then whether the "
            "loss is still computed as before.",
        ),
        (
            {"kind": "slow_divergence", "divergence": Divergence(450, 0.3, 3.0, False), "repeats": WORN, **VAL},
            "repeated_data",
            "`val_loss` has gone from 3 back up to 3.162 since step 450, 30% of what the run had gained; check first "
            "whether the training loss still gets better: the model then overfits (this is pass 12 over the 120M "
            "unique tokens, and the best so far was 3.046 at step 410), and new data or fewer passes help; then the "
            "learning rate, then whether the held-out data have changed. If it does not come back, the run has "
            "diverged.",
        ),
    ],
)
def test_every_sentence_on_repeats(changes, cause, sentence):
    advice = advised(**changes)
    assert advice.reason == sentence
    assert (advice.action, advice.evidence["cause"]) == ("investigate", cause)


def test_the_numbers_are_in_the_evidence():
    found = advised().evidence
    assert (found["passes"], found["unique"]) == (3.5, 1.2e8)
    assert found["next_pass"] == pytest.approx(0.797, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"kind": "plateau", "repeats": Repeats(3.5, 143, 1.2e8)}, "frozen_layers"),
        ({"kind": "level_shift", "abrupt": True, "repeats": WORN}, "data"),
        ({"kind": "level_shift", "abrupt": False, "repeats": WORN}, "repeated_data"),
        ({"kind": "slow_divergence", "repeats": Repeats(0.9, 500, 1.2e8)}, "learning_rate"),
        ({"kind": "slow_divergence", "repeats": WORN, "facts": {"idle": 3, "tensors": 24}}, "frozen_layers"),
        ({"kind": "slow_divergence", "repeats": WORN, "marked": (390, "new data")}, "marked_change"),
        ({"kind": "slow_divergence", "repeats": WORN, "divergence": Divergence(390, 0.3, 3.0, False)}, "learning_rate"),
    ],
)
def test_when_a_held_out_metric_speaks_for_repeats(changes, cause):
    kind = changes.pop("kind")
    deviation = Deviation(True, 250.0, "above", 400, "deviating", 0.062, 3.1, kind)
    if "idle" in changes.get("facts", {}):
        changes["facts"] |= {"idle_share": 0.5, "idle_names": "`first`", "idle_since": 480}
    assert advised(deviation=deviation, **VAL, **changes).evidence["cause"] == cause
