import json
import math

import numpy as np
import pytest

from lightning_scaling.allocation import isoflop_minima


def minima_of(runs, **options):
    return isoflop_minima(runs["params"], runs["loss"], flops=runs["flops"], **options)


def test_minima_and_power_law_of_a_planted_surface(make_runs, best_size):
    minima = minima_of(make_runs(noise=0.0))
    assert minima.status == "ok"
    assert minima.inside.all()
    assert minima.params == pytest.approx(best_size(minima.flops), rel=0.02)
    assert minima.tokens == pytest.approx(minima.flops / 6 / minima.params)
    assert minima.slope == pytest.approx(0.37 / 0.72, abs=0.005)
    assert minima.exponent == pytest.approx(0.37 / 0.72, abs=0.015)
    assert float(minima.params_at(1e21)) == pytest.approx(best_size(1e21), rel=0.05)
    assert minima.coefficient * 1e19**minima.slope == pytest.approx(best_size(1e19), rel=0.02)


def test_intervals_hold_the_truth_and_widen_with_the_distance(make_runs, best_size):
    inside = 0
    for seed in range(20):
        minima = minima_of(make_runs(noise=0.003, seed=seed))
        lower, upper = minima.interval(1e21)
        inside += lower < best_size(1e21) < upper
    assert inside >= 17
    width = [math.log(upper / lower) for lower, upper in map(minima.interval, (1e20, 1e21, 1e23))]
    assert width == sorted(width)
    assert width[0] < 0.5 * width[2]
    low, high = minima.exponent_interval(0.9)
    assert low < minima.exponent < high


def test_grids_next_to_the_optimum_lean_on_the_shape_of_the_others(make_runs, best_size):
    centred, beside = make_runs(budgets=[1e18, 1e19]), make_runs(budgets=[3e18, 3e19], shift=2.5, span=3.0, seed=1)
    runs = {name: np.concatenate([centred[name], beside[name]]) for name in centred}
    minima = minima_of(runs)
    assert minima.inside.all()
    assert minima.params == pytest.approx(best_size(minima.flops), rel=0.2)


def test_runs_far_above_the_minimum_do_not_move_the_minimum(make_runs):
    runs = make_runs(noise=0.0, span=30.0, sizes=14)
    plain = minima_of(runs)
    least = np.repeat([runs["loss"][runs["flops"] == c].min() for c in np.unique(runs["flops"])], 14)
    small = (runs["loss"] > 1.15 * least) & (runs["params"] < np.repeat(plain.params, 14))
    bent = runs | {"loss": np.where(small, runs["loss"] * 1.3, runs["loss"])}
    assert small.sum() >= 7
    assert minima_of(bent).params == pytest.approx(plain.params, rel=0.1)


def test_one_bad_run_does_not_move_the_power_law(make_runs):
    runs = make_runs()
    spoilt = runs | {"loss": runs["loss"].copy()}
    spoilt["loss"][12] *= 1.05
    good, bad = minima_of(runs), minima_of(spoilt)
    assert float(bad.params_at(1e21)) == pytest.approx(float(good.params_at(1e21)), rel=0.1)


def test_budgets_without_a_minimum_inside_are_reported_and_left_out(make_runs, best_size):
    inner = make_runs(budgets=[1e18, 3e18, 1e19])
    outer = make_runs(budgets=[1e20], shift=8.0, span=2.0)
    runs = {name: np.concatenate([inner[name], outer[name]]) for name in inner}
    minima = minima_of(runs)
    assert minima.inside.tolist() == [True, True, True, False]
    assert "At 1e+20 FLOPs the minimum is below the smallest size run" in minima.message
    assert "no minimum inside" in minima.summary()
    assert float(minima.params_at(1e20)) == pytest.approx(best_size(1e20), rel=0.1)


def test_no_minimum_anywhere_is_a_status_and_not_an_exception(make_runs):
    minima = minima_of(make_runs(shift=0.1, span=2.0))
    assert minima.status == "no_minimum"
    assert "above the largest" in minima.message
    assert math.isnan(minima.exponent)
    assert math.isnan(minima.params_at(1e20))
    assert all(map(math.isnan, minima.interval(1e20)))
    assert all(map(math.isnan, minima.exponent_interval()))
    json.dumps(minima.to_dict())


def test_two_budgets_are_few(make_runs):
    minima = minima_of(make_runs(budgets=[1e18, 1e19]))
    assert minima.status == "few_budgets"
    assert "Only 2 of 2 budgets" in minima.message
    one = minima_of(make_runs(budgets=[1e18]))
    assert math.isnan(one.slope)
    assert one.exponent == pytest.approx(0.53, abs=0.01)


def test_tokens_do_as_well_as_flops(make_runs):
    runs = make_runs()
    by_tokens = isoflop_minima(runs["params"], runs["loss"], tokens=runs["tokens"])
    assert by_tokens.params == pytest.approx(minima_of(runs).params)
    counted = isoflop_minima(runs["params"], runs["loss"], tokens=runs["tokens"], flops_per_token=lambda n: 8 * n)
    assert counted.flops == pytest.approx(by_tokens.flops * 8 / 6)
    assert counted.tokens == pytest.approx(by_tokens.tokens)


def test_compute_may_scatter_within_a_budget(make_runs, best_size):
    runs = make_runs(noise=0.0, sizes=10)
    rng = np.random.default_rng(3)
    tokens = runs["tokens"] * np.exp(0.04 * rng.uniform(-1, 1, len(runs["tokens"])))
    p = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}
    loss = p["E"] + p["A"] / runs["params"] ** p["alpha"] + p["B"] / tokens ** p["beta"]
    minima = isoflop_minima(runs["params"], loss, tokens=tokens)
    assert len(minima.flops) == 7
    assert minima.params == pytest.approx(best_size(minima.flops), rel=0.05)


def test_runs_without_a_common_budget_are_left_out_and_reported(make_runs):
    runs = make_runs()
    stray = {"params": [1e8, 2e8], "tokens": [1e9, 1e9], "flops": [3e21, 3e21], "loss": [3.0, 2.9]}
    found = minima_of({name: np.concatenate([runs[name], stray[name]]) for name in runs})
    assert found.skipped == ((pytest.approx(3e21), "2 sizes only"),)
    assert len(found.flops) == 7
    flops = np.geomspace(1e18, 1e20, 200)
    with pytest.raises(ValueError, match="No budget has runs of at least 3 sizes"):
        isoflop_minima(np.geomspace(1e7, 1e9, 200), np.linspace(4, 3, 200), flops=flops)


def test_without_drift_and_prior_it_is_a_straight_line(make_runs):
    minima = minima_of(make_runs(noise=0.003), prior=None, drift=0.0)
    steps = np.diff(np.log(minima.params_at([1e18, 1e20, 1e22])))
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)
    assert minima.exponent == pytest.approx(minima.slope, abs=0.02)


def test_a_change_of_exponent_is_followed(make_runs):
    runs = make_runs(budgets=np.geomspace(1e18, 1e21, 10))
    minima = minima_of(runs)
    bent = minima_of({**runs, "params": runs["params"] * (runs["flops"] / 1e21) ** (0.25 * (runs["flops"] < 1e20))})
    assert bent.slope > minima.slope + 0.1
    assert abs(bent.exponent - minima.exponent) < 0.5 * (bent.slope - minima.slope)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flops": None}, "Give the compute of each run"),
        ({"tokens": [1.0] * 6}, "Give the compute of each run"),
        ({"loss": [3.0] * 5}, "same length, but got params 6, loss 5"),
        ({"loss": [3.0, 2.9, float("nan"), 3, 3, 3]}, "`loss` must be positive and finite in every run, but holds nan"),
        ({"params": [0.0] * 6}, "`params` must be positive"),
        ({"params": "many"}, "`params` must"),
        ({"params": [[1.0]] * 6}, "must have one dimension"),
        ({"width": 0}, "`width` must be a positive"),
    ],
)
def test_bad_input_is_reported_in_a_sentence(change, expected):
    good = {"params": np.geomspace(1e7, 1e9, 6), "loss": [3.2, 3.0, 2.9, 2.9, 3.0, 3.2], "flops": [1e18] * 6}
    with pytest.raises(ValueError, match=expected):
        isoflop_minima(**(good | change))


def test_input_is_left_alone_and_the_result_can_be_written(make_runs):
    runs = make_runs()
    before = {name: values.copy() for name, values in runs.items()}
    for values in runs.values():
        values.setflags(write=False)
    minima = minima_of(runs)
    assert all(np.array_equal(runs[name], before[name]) for name in runs)
    document = json.loads(json.dumps(minima.to_dict()))
    assert document["params"] == minima.params.tolist()
    assert document["status"] == "ok"
    text = minima.summary()
    assert "IsoFLOP minima: ok" in text
    assert "exponent at 1e+20 FLOPs" in text
    with pytest.raises(ValueError, match="`flops` must be positive"):
        minima.params_at([1e20, -1])
