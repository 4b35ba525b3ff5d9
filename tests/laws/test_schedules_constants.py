"""Laws that know the schedule against plain sums over every step; collapse."""

import json

import numpy as np
import pytest
from planted_schedules import RATES

from lightning_scaling import laws
from lightning_scaling.laws.catalogue.schedules.collapse import collapse, spread

TISSUE = {"L0": 2.8, "A": 0.5, "alpha": 0.5, "C": 0.5, "lambda_": 0.998}


def warmup(steps=2000, peak=3e-4):
    return peak * np.arange(1, steps + 1) / steps


def cosine(total, last):
    left = np.arange(1, total - 2000 + 1) / (total - 2000)
    return np.concatenate([warmup(), last + (3e-4 - last) * 0.5 * (1 + np.cos(np.pi * left))])


def stable_then_exponential(total, start):
    decay = 0.1 ** (np.arange(1, total - start + 1) / (total - start))
    return np.concatenate([warmup(), np.full(start - 2000, 3e-4), 3e-4 * decay])


SCHEDULES = {
    "cosine": cosine(16000, 3e-5),
    "cosine to zero": cosine(9000, 0.0),
    "exponential": stable_then_exponential(12000, 9000),
    "steps": np.concatenate([warmup(), np.full(5000, 3e-4), np.full(3000, 9e-5), np.full(2000, 2e-5)]),
    "triangles": 3e-4 * (0.6 + 0.4 * np.abs((np.arange(8000) / 1000) % 2 - 1)),
}


def plain_multi_power(p, rates, steps):
    total = np.cumsum(rates)
    result = []
    for t in steps:
        k = np.arange(1, t)
        since = total[t - 1] - total[k - 1]
        rate = np.maximum(rates[k], 1e-9 * rates.max())
        gain = 1 - (1 + p["C"] * rate ** -p["gamma"] * since) ** -p["beta"]
        result.append(
            p["L0"] + p["A"] * total[t - 1] ** -p["alpha"] - p["B"] * np.sum((rates[k - 1] - rates[k]) * gain)
        )
    return np.array(result)


def plain_tissue(p, rates, steps):
    total = np.cumsum(rates)
    peak = int(np.argmax(rates >= 0.999 * rates.max()))
    while peak + 1 < len(rates) and rates[peak + 1] >= rates[peak]:
        peak += 1
    momentum, area = 0.0, np.zeros(len(rates))
    for i in range(1, len(rates)):
        momentum = p["lambda_"] * momentum + (rates[i - 1] - rates[i] if i > peak else 0.0)
        area[i] = area[i - 1] + momentum
    at = np.asarray(steps) - 1
    return p["L0"] + p["A"] * total[at] ** -p["alpha"] - p["C"] * area[at]


@pytest.mark.parametrize("name", SCHEDULES)
def test_sums_over_every_step_are_matched(name):
    rates = SCHEDULES[name]
    steps = np.unique(
        np.append(np.linspace(2100, len(rates), 40).astype(int), np.arange(len(rates) - 4, len(rates) + 1))
    )
    published = laws.get("multi_power").published["100M"].values
    got = laws.get("multi_power", rates=rates).evaluate(published, steps=steps)
    np.testing.assert_allclose(got, plain_multi_power(published, rates, steps), rtol=6e-5)
    got = laws.get("tissue", rates=rates).evaluate(TISSUE, steps=steps)
    np.testing.assert_allclose(got, plain_tissue(TISSUE, rates, steps), rtol=3e-5)


def test_jumps_are_exact():
    rates = np.concatenate([np.full(4000, 3e-4), np.full(3000, 9e-5), np.full(3000, 2e-5)])
    steps = np.array([10, 4000, 4001, 4002, 4100, 7000, 7001, 10000])
    published = laws.get("multi_power").published["25M"].values
    got = laws.get("multi_power", rates=rates).evaluate(published, steps=steps)
    np.testing.assert_allclose(got, plain_multi_power(published, rates, steps), rtol=1e-12)


@pytest.mark.parametrize("name", ["tissue", "multi_power"])
def test_stretches_stand_for_steps(name):
    p = TISSUE if name == "tissue" else laws.get(name).published["25M"].values
    steps = np.linspace(100, 5000, 20)
    by_step = laws.get(name, rates=np.repeat([3e-4, 1e-4], [3000, 2000]))
    by_stretch = laws.get(name, rates=[[3000, 3e-4], [2000, 1e-4]])
    np.testing.assert_array_equal(by_step.evaluate(p, steps=steps), by_stretch.evaluate(p, steps=steps))


@pytest.mark.parametrize("rates", [RATES, SCHEDULES["cosine"]], ids=["several", "one"])
def test_options_make_the_same_law_again(rates):
    law = laws.get("multi_power", rates=rates)
    again = laws.get("multi_power", **json.loads(json.dumps(law.options())))
    inputs = {"steps": np.array([500.0, 5999.0]), "schedule": np.array([0.0, 2.0])}
    inputs = {name: inputs[name] for name in law.inputs}
    p = law.published["400M"].values
    np.testing.assert_array_equal(law.evaluate(p, **inputs), again.evaluate(p, **inputs))
    assert again.schedules == law.schedules


def test_schedules_are_counted_in_the_order_given():
    law = laws.get("tissue", rates=RATES)
    assert law.schedules == ("cosine", "constant", "two-stage")
    for number, name in enumerate(law.schedules):
        alone = laws.get("tissue", rates=RATES[name]).evaluate(TISSUE, steps=[1000.0, 6000.0])
        np.testing.assert_allclose(law.evaluate(TISSUE, steps=[1000.0, 6000.0], schedule=number), alone, rtol=1e-12)


def test_decaying_rates_lower_the_loss():
    law = laws.get("tissue", rates=RATES)
    cosine_end, constant_end = law.evaluate(TISSUE | {"C": 2.0}, steps=6000.0, schedule=[0.0, 1.0])
    assert cosine_end < constant_end


def test_a_law_without_rates_can_be_looked_at_but_not_evaluated():
    law = laws.get("multi_power")
    assert law.options() == {}
    with pytest.raises(ValueError, match="needs the learning rate of every step"):
        law.evaluate(law.published["25M"].values, steps=100.0)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([], "not all zero"),
        ([1e-3, np.nan], "finite"),
        ([1e-3, -1e-3], "not negative"),
        ([0.0, 0.0], "not all zero"),
        (np.ones((3, 3)), "shape"),
        ([[0, 1e-3]], "positive number of steps"),
        (["fast"], "must be numbers"),
        ({}, "empty mapping"),
    ],
)
def test_bad_rates_are_refused(rates, message):
    with pytest.raises(ValueError, match=message):
        laws.get("tissue", rates=rates)


def test_steps_beyond_the_schedule_are_refused():
    with pytest.raises(ValueError, match=r"step 6001 lies beyond the 6000 steps of the schedule 'cosine'"):
        laws.get("tissue", rates=RATES).evaluate(TISSUE, steps=6001.0, schedule=0.0)
    with pytest.raises(ValueError, match="no schedule number 3"):
        laws.get("tissue", rates=RATES).evaluate(TISSUE, steps=600.0, schedule=3.0)


def test_collapsed_curves_of_one_shape_coincide():
    x = np.linspace(0.05, 1, 60)
    curves = []
    for size, points in ((1.0, x), (0.4, x[::2] / x[::2][-1])):
        loss = 2.0 + size * (0.3 + points**-0.4)
        curves.append((points, collapse(points, loss, 2.0)))
    assert curves[0][1][-1] == 1.0
    np.testing.assert_allclose(spread(curves, np.linspace(0.1, 1, 10)), 0, atol=1e-2)
    wrong = [(p, collapse(p, 2.0 + s * (0.3 + p**-0.4), 1.0)) for s, (p, _) in zip((1.0, 0.4), curves, strict=True)]
    assert spread(wrong, 0.2)[0] > 0.05


def test_collapse_needs_the_end_of_the_run_and_a_floor_below_it():
    with pytest.raises(ValueError, match="must end at 1"):
        collapse([0.2, 0.8], [3.0, 2.5], 2.0)
    with pytest.raises(ValueError, match="`floor` must lie below"):
        collapse([0.2, 1.0], [3.0, 2.5], 2.5)
    with pytest.raises(ValueError, match="must rise"):
        collapse([1.0, 1.0], [3.0, 2.5], 2.0)
    with pytest.raises(ValueError, match="at least two curves"):
        spread([([0.1, 1.0], [2.0, 1.0])], 0.5)
    with pytest.raises(ValueError, match="but curve 1 only from"):
        spread([([0.1, 1.0], [2.0, 1.0]), ([0.6, 1.0], [2.0, 1.0])], 0.5)


def test_a_fully_decayed_checkpoint_gains_all():
    p = {"E": 1.7, "A": 450.0, "alpha": 0.35, "B": 1800.0, "beta": 0.36, "F": 0.3, "r": -0.06}
    at_peak, half, decayed = laws.get("annealed_ladder").evaluate(
        p, params=1e9, tokens=2e10, rate_fraction=[1.0, 0.5, 0.0]
    )
    chinchilla = laws.get("chinchilla").evaluate(
        {k: p[k] for k in ("E", "A", "alpha", "B", "beta")}, params=1e9, tokens=2e10
    )
    assert at_peak == pytest.approx(chinchilla)
    assert at_peak - decayed == pytest.approx(0.3 * 1e9**-0.06)
    assert at_peak - half == pytest.approx(half - decayed)
