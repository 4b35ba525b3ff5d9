"""The hint on the batch: every form of it in full, and when it is given."""

from __future__ import annotations

import math

import pytest

from lightning_scaling.advice.hints import batch_size_hint, steps_by_noise
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.schedule import Plan

NOISE = {"noise_scale": 455.0, "noise_low": 400.0, "noise_high": 520.0}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            {**NOISE, "batch": 4096.0, "unit": "samples"},
            "A hint on the batch: 4,096 samples are 9 times the gradient-noise scale of 455 (95 % between 400 "
            "and 520), so training takes 10 times the least data it could do with; at a batch of 455 and a "
            "lower learning rate it would take 20% of the compute for 1.8 times the steps.",
        ),
        (
            {**NOISE, "batch": 32.0, "unit": "samples"},
            "A hint on the batch: 32 samples are 1/14 of the gradient-noise scale of 455 (95 % between 400 and "
            "520), so training takes 15 times the fewest steps it could do with; a batch of 455, on more ranks "
            "and with a higher learning rate, would take 13% of the steps for 1.9 times the compute.",
        ),
        (
            {"batch": 65536.0, "noise_scale": 2.4e6, "noise_low": 2.1e6, "noise_high": 2.9e6, "unit": "tokens"},
            "A hint on the batch: 65,536 tokens are 1/37 of the gradient-noise scale of 2,400,000 (95 % between "
            "2,100,000 and 2,900,000), so training takes 38 times the fewest steps it could do with; a batch of "
            "2,400,000, on more ranks and with a higher learning rate, would take 5% of the steps for 1.9 times "
            "the compute.",
        ),
        (
            {"batch": 32.0, "noise_low": 400.0, "unit": "samples"},
            "A hint on the batch: 32 samples are less than 1/12 of the gradient-noise scale, which is above 400 "
            "(97.5 % sure), so training takes over 14 times the fewest steps it could do with; 12 times the "
            "batch, on more ranks and with a higher learning rate, would take at most 15% of the steps for at "
            "most 1.9 times the compute.",
        ),
    ],
)
def test_every_form(facts, sentence):
    assert batch_size_hint(facts, 0.5) == sentence


def test_the_two_factors_are_those_of_the_law():
    times = 9.0
    steps, data = 1 + 1 / times, 1 + times
    assert (steps - 1) * (data - 1) == pytest.approx(1)
    assert 2 / data == pytest.approx(0.2)
    assert 2 / steps == pytest.approx(1.8)


@pytest.mark.parametrize("batch", [101.0, 455.0, 2079.0])
def test_nothing_is_said_within_a_factor_four_of_the_interval(batch):
    assert batch_size_hint({**NOISE, "batch": batch}, 0.5) == ""


def test_nothing_is_said_too_early_of_nothing_known_or_of_the_absurd():
    large, small = {**NOISE, "batch": 4096.0}, {**NOISE, "batch": 32.0}
    assert batch_size_hint(large, 0.2) == batch_size_hint(small, 0.05) == ""
    assert batch_size_hint(large, 0.25)
    assert batch_size_hint(small, 0.1)
    assert batch_size_hint(large, None)
    assert batch_size_hint({}, 0.5) == batch_size_hint({"batch": 64.0}, 0.5) == ""
    assert batch_size_hint({"batch": 1e9, "noise_scale": 1.0, "noise_low": 0.9, "noise_high": 1.1}, 0.5) == ""


def test_a_smaller_batch_takes_more_steps():
    factor, scale = steps_by_noise({**NOISE, "batch": 455.0}, 0.5)
    assert scale == 455
    assert factor == pytest.approx((1 + 1) / (1 + 0.5))
    assert steps_by_noise({**NOISE, "batch": 455.0}, 2.0) is None
    assert steps_by_noise({"batch": 455.0, "noise_low": 100.0}, 0.5) is None


def losses(steps):
    return [2 + 3 * step**-0.3 for step in steps]


def test_it_is_given_once_as_advice_to_go_on_and_announced_once():
    monitor = Monitor(Plan.constant(total_steps=1000))
    monitor.note({**NOISE, "batch": 32.0, "unit": "samples"})
    updates = monitor.observe(range(1, 1001), losses(range(1, 1001)))
    said = [update.advice for update in updates if "hint on the batch" in update.advice.reason]
    assert [advice.step for advice in said] == [100]
    assert {update.advice.action for update in updates} == {"continue"}
    assert [advice.topic for advice in monitor.advice_log] == [("continue", None), ("continue", "batch")]
    assert updates[-1].advice.evidence["noise_scale"] == 455.0


def test_it_waits_for_graver_advice_to_pass_and_survives_a_resume():
    plan = Plan.constant(total_steps=1000)
    first = Monitor(plan)
    first.note({**NOISE, "batch": 32.0, "unit": "samples"})
    bad = [
        math.nan if 95 <= step <= 105 else loss for step, loss in zip(range(1, 301), losses(range(1, 301)), strict=True)
    ]
    updates = first.observe(range(1, 301), bad)
    (said,) = [update.advice for update in updates if "hint on the batch" in update.advice.reason]
    assert said.step > 105
    second = Monitor(plan)
    second.load_state_dict(first.state_dict())
    later = second.observe(range(301, 501), losses(range(301, 501)))
    assert not any("hint on the batch" in update.advice.reason for update in later)
    assert later[-1].advice.topic == ("continue", "batch")
