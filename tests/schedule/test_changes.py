from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.changes import (
    decay_now,
    first_difference,
    lengthen,
    parse_change,
    replaced,
    stop_at,
    wsd,
)
from lightning_scaling.schedule.progress import Progress

TOTAL = 1000
STEPS = np.arange(1, TOTAL + 1)
COSINE = Plan(
    STEPS, np.minimum(STEPS / 50, 1) * 3e-4 * (0.55 + 0.45 * np.cos(np.pi * STEPS / TOTAL)), total_steps=TOTAL
)
FLAT = Plan([1, 50], [0.0, 1e-3], total_steps=TOTAL)
UNKNOWN = Plan.constant(1e-3, TOTAL, known=False, why="no learning rate is recorded")


@pytest.mark.parametrize("plan", [COSINE, FLAT], ids=["cosine", "constant"])
@pytest.mark.parametrize(
    "vary",
    [
        lambda p, s: stop_at(p, s),
        lambda p, s: decay_now(p, s, 0.3, "sqrt"),
        lambda p, s: lengthen(p, s, 3),
        lambda p, s: wsd(p, s, 0.1, "cosine"),
        lambda p, s: replaced(p, s, [1, 1500], [1e-2, 1e-5]),
    ],
    ids=["stop", "decay", "longer", "wsd", "own"],
)
def test_the_past_stays_as_it_was(plan, vary):
    for step in (400, 777):
        varied = vary(plan, step)
        past = np.arange(1, step + 1)
        np.testing.assert_allclose(varied.at(past), plan.at(past), rtol=1e-12, atol=0)
        assert varied.known
        assert varied.total_steps >= step


def test_stopping_cuts_the_plan_off():
    assert stop_at(COSINE, 400).total_steps == 400
    assert first_difference(COSINE, stop_at(COSINE, 400)) >= 400
    with pytest.raises(ValueError, match="ends at step 1,000"):
        stop_at(COSINE, 1001)


def test_a_decay_begins_now_and_takes_a_share_of_the_planned_steps():
    for shape, half in (("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))):
        plan = decay_now(FLAT, 400, 0.2, shape)
        assert plan.total_steps == 600
        np.testing.assert_allclose(plan.at([400, 500, 600]), [1e-3, half * 1e-3, 0.0], atol=2e-6)
    assert decay_now(FLAT, 400, 0.1, to=0.1).at(500) == pytest.approx(1e-4)
    assert decay_now(COSINE, 999, 0.1, to=0.9).at(1099) == pytest.approx(COSINE.at(999))
    assert decay_now(Plan.constant(1e-3), 500, 0.2).total_steps == 600


def test_lengthening_stretches_the_future():
    plan = lengthen(COSINE, 500, 2)
    assert plan.total_steps == 2000
    ahead = np.linspace(500, 1000, 40)
    np.testing.assert_allclose(plan.at(500 + 3 * (ahead - 500)), COSINE.at(ahead), rtol=1e-6)
    assert lengthen(COSINE, 500, 0.6).total_steps == 600
    with pytest.raises(ValueError, match=r"a number above 0\.5"):
        lengthen(COSINE, 500, 0.5)


def test_wsd_holds_and_then_decays():
    plan = wsd(COSINE, 500, 0.2)
    np.testing.assert_allclose(plan.at([600, 800]), COSINE.at(500))
    assert plan.at(900) == pytest.approx(COSINE.at(500) / 2)
    assert plan.at(1000) == 0
    assert wsd(FLAT, 20, 0.2).at(700) == pytest.approx(1e-3), "a warm-up is finished first"
    assert wsd(FLAT, 900, 0.2).at(950) == pytest.approx(5e-4), "a decay that is due begins at once"


def test_any_other_future_can_be_given():
    plan = replaced(COSINE, 400, [1, 401, 800], [1.0, 2e-4, 1e-4])
    assert plan.total_steps == 800
    np.testing.assert_allclose(plan.at([401, 800]), [2e-4, 1e-4])
    assert replaced(COSINE, 400, [1], [1e-4], total_steps=900).at(600) == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="must end after the present step"):
        replaced(COSINE, 400, [1, 300], [1e-4, 1e-5])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: decay_now(UNKNOWN, 10), "but no learning rate is recorded"),
        (lambda: decay_now(FLAT, 10, over=0), "`over` must be a fraction"),
        (lambda: decay_now(FLAT, 10, shape="square"), "`shape` must be one of 'linear'"),
        (lambda: decay_now(FLAT, 10, to=2), "`to` is a fraction of the peak rate"),
        (lambda: wsd(FLAT, 10, decay=1.5), "`decay` must be a fraction"),
        (lambda: wsd(FLAT, 1000), "nothing of it is ahead"),
        (lambda: lengthen(Plan.constant(1e-3), 10), "cannot be made longer"),
        (lambda: stop_at(FLAT, 1.5), "whole number"),
    ],
)
def test_what_cannot_be_done_is_said(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_two_plans_are_told_apart_where_they_part():
    assert first_difference(FLAT, FLAT) == math.inf
    assert first_difference(FLAT, decay_now(FLAT, 300)) == 300
    assert first_difference(FLAT, Plan.constant(5e-4)) == 0


def test_a_changed_plan_is_measured_in_the_units_of_the_original():
    whole = Progress(FLAT, TOTAL)
    longer = Progress(lengthen(FLAT, 500, 2), 2 * TOTAL, unit=whole)
    np.testing.assert_allclose(longer.progress([200, 500]), whole.progress([200, 500]), rtol=1e-3)
    assert longer.progress(2 * TOTAL) == pytest.approx(2, rel=0.03)
    higher = Progress(replaced(FLAT, 500, [500, 1000], [2e-3, 2e-3]), TOTAL, unit=whole)
    assert higher.rate(900) == pytest.approx(2)
    assert (higher.annealing([900]) < 0).all(), "a rise of the rate costs"
    np.testing.assert_allclose(higher.progress([400]), whole.progress([400]), rtol=1e-3)


def test_changes_can_be_written_in_one_word():
    assert parse_change("stop") == ("stop", {})
    assert parse_change("stop:900") == ("stop", {"at": 900})
    assert parse_change("decay:0.2:cosine") == ("decay", {"over": 0.2, "shape": "cosine"})
    for text, sentence in (
        ("jump", "no change of a plan"),
        ("longer:2:3", "says too much"),
        ("longer:two", "must have a number"),
        ("stop:1.5", "whole number of steps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parse_change(text)
