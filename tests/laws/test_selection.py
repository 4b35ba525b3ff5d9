"""The choice among laws by what they forecast."""

import math

import numpy as np
import pytest

from lightning_scaling import laws
from lightning_scaling.laws.ensemble import combine
from lightning_scaling.laws.selection import compare

STEPS = np.geomspace(100.0, 1e5, 60)
CURVE = {
    "steps": STEPS,
    "loss": (2.0 + 8.0 * STEPS**-0.4) * np.exp(0.002 * np.random.default_rng(0).standard_normal(60)),
}


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(5)
    params, tokens = 10 ** rng.uniform(7.5, 9.5, 70), 10 ** rng.uniform(9, 11, 70)
    loss = laws.get("chinchilla").known("besiroglu").predict(params=params, tokens=tokens)
    return {"params": params, "tokens": tokens, "loss": loss * np.exp(0.003 * rng.standard_normal(70))}


def test_the_law_behind_the_points_wins(grid):
    found = compare(grid, ["kaplan_params_tokens", "chinchilla", "kaplan_params"])
    assert found.best == "chinchilla"
    assert [row["law"] for row in found.table] == ["chinchilla", "kaplan_params_tokens", "kaplan_params"]
    assert found.table[0]["median_error"] < 0.01
    assert found.table[0]["coverage"] >= 0.85
    assert found.by == "6*params*tokens"


def test_scores_are_those_of_the_later_points():
    found = compare(CURVE, ["m1", "m2"], origins=(0.5,))
    assert found.best == "m2"
    edge, seen, later = found.splits[0]
    assert (seen, later) == (30, 30)
    assert edge == pytest.approx(STEPS[29])
    fit = laws.get("m2").fit({name: values[:30] for name, values in CURVE.items()})
    ratio = fit.predict(steps=STEPS[30:]) / CURVE["loss"][30:]
    row = found.table[0]
    assert row["rmsle"] == pytest.approx(np.sqrt(np.mean(np.log(ratio) ** 2)))
    assert row["median_error"] == pytest.approx(np.median(np.abs(ratio - 1)))
    lower, upper = fit.interval(0.9, steps=STEPS[30:])
    assert row["coverage"] == pytest.approx(np.mean((lower <= CURVE["loss"][30:]) & (CURVE["loss"][30:] <= upper)))


def test_a_better_fit_in_sample_does_not_win():
    x = np.geomspace(10, 1e4, 40)
    loss = (3 * x**-0.3) * np.exp(0.03 * np.random.default_rng(4).standard_normal(40))
    data = {"steps": x, "loss": loss}
    wide, plain = laws.get("bnsl", breaks=3), laws.get("m1")
    inside = [law.fit(data, objective="least_squares").diagnostics["rms_residual"] for law in (wide, plain)]
    assert inside[0] < inside[1]
    assert compare(data, [wide, plain], objective="least_squares").best == "m1"


def test_without_names_everything_that_can_be_fitted_takes_part(grid):
    found = compare(CURVE, origins=(0.6,))
    ranked = [row["law"] for row in found.table]
    assert {"m1", "m2", "m3", "m4", "bnsl", "median(m2, m3, m4, bnsl)"} <= set(ranked)
    assert "tokens" in found.skipped["chinchilla"]
    assert set(ranked) | set(found.skipped) >= {n for n in laws.names() if laws.get(n).output == "loss"}
    scores = [row["score"] for row in found.table]
    assert scores == sorted(scores)


def test_combinations_and_objects_compete_by_name():
    found = compare(CURVE, [combine(("m2", "m3")), laws.get("m2"), "m4"])
    assert {row["law"] for row in found.table} == {"median(m2, m3)", "m2", "m4"}
    again = found.laws[found.best].fit(CURVE)
    assert again.predict(steps=2e5) == pytest.approx(2.0 + 8.0 * 2e5**-0.4, rel=0.02)


def test_points_of_one_budget_stay_together():
    flops = np.repeat([1e18, 2e18, 4e18, 8e18, 1.6e19], 6)
    params = np.tile(np.geomspace(1e7, 1e9, 6), 5)
    tokens = flops / (6 * params)
    loss = laws.get("chinchilla").known("besiroglu").predict(params=params, tokens=tokens)
    found = compare({"flops": flops, "params": params, "tokens": tokens, "loss": loss}, ["chinchilla"])
    assert found.by == "flops"
    assert [seen % 6 for _, seen, _ in found.splits] == [0] * len(found.splits)
    assert found.table[0]["rmsle"] < 1e-3


def test_any_column_may_order_the_points_and_any_function_may_rank(grid):
    def worst(predicted, observed):
        return float(np.max(np.abs(predicted - observed)))

    found = compare(grid, ["chinchilla", "kaplan_params_tokens"], by="params", metric=worst, origins=(0.7,))
    assert found.by == "params"
    assert found.metric == "worst"
    assert found.splits[0][0] < grid["params"].max()
    assert found.table[0]["score"] == pytest.approx(found.table[0]["origins"][0]["score"])
    assert compare(grid, ["chinchilla"], metric="median_error").table[0]["score"] < 0.01


def test_a_law_that_cannot_be_fitted_is_named_with_the_reason():
    x = np.geomspace(10, 1e3, 6)
    found = compare({"steps": x, "loss": 2 + 3 * x**-0.5}, ["m2", "bnsl", "chinchilla"])
    assert found.best == "m2"
    assert "5 points" in found.skipped["bnsl"]
    assert "params, tokens" in found.skipped["chinchilla"]
    text = found.summary()
    assert "not ranked" in text
    assert "bnsl" in text
    assert "chinchilla (params, tokens)" in text


def test_a_law_with_many_parameters_is_scored_where_it_can_be_fitted():
    x = np.geomspace(10, 1e3, 9)
    found = compare({"steps": x, "loss": 2 + 3 * x**-0.5}, ["bnsl", "m2"])
    assert {row["law"]: len(row["origins"]) for row in found.table} == {"m2": 3, "bnsl": 2}
    assert found.best == "m2"


def test_nothing_to_rank_is_no_error():
    found = compare({"steps": STEPS, "loss": CURVE["loss"]}, ["chinchilla"], by="steps")
    assert found.best is None
    assert found.table == []
    assert "no law could be ranked" in found.summary()


def test_columns_may_have_other_names_and_rows_may_be_unusable(grid):
    data = {"N": grid["params"].copy(), "D": grid["tokens"], "ce": grid["loss"].copy()}
    data["ce"][3], data["N"][5] = math.nan, 0.0
    found = compare(data, ["chinchilla"], loss="ce", columns={"params": "N", "tokens": "D"})
    assert sum(found.splits[0][1:]) == 68
    assert found.table[0]["median_error"] < 0.01


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"metric": "r2"}, ValueError, "metric"),
        ({"origins": (0.5, 1.5)}, ValueError, "origins"),
        ({"origins": ()}, ValueError, "origins"),
        ({"by": "flops"}, ValueError, "flops"),
        ({"loss": "error"}, ValueError, "error"),
        ({"names": ["m22"]}, KeyError, "m22"),
    ],
)
def test_what_cannot_be_done_is_said(options, error, told):
    with pytest.raises(error, match=told):
        compare(CURVE, **({"names": ["m2"]} | options))


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="cannot be split"):
        compare({"steps": [10.0, 10.0, 10.0], "loss": [3.0, 2.0, 2.5]}, ["m1"])
    with pytest.raises(ValueError, match="positive"):
        compare({"steps": [10.0, 20.0], "loss": [-3.0, -2.0]}, ["m1"])
