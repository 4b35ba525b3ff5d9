import dataclasses
import json
import math

import numpy as np
import pytest

from lightning_scaling import laws
from lightning_scaling.allocation import allocate, compare_approaches, isoflop_minima


def columns(runs):
    return {name: runs[name] for name in ("params", "tokens", "loss")}


@pytest.fixture
def bent(make_runs):
    """Runs whose small models on long training do worse than the surface says, far from the optimum only."""
    runs = make_runs(span=40.0, sizes=16)
    least = np.repeat([runs["loss"][runs["flops"] == c].min() for c in np.unique(runs["flops"])], 16)
    wall = np.maximum(runs["loss"] / least - 1.05, 0.0) * (runs["tokens"] < runs["params"])
    return runs | {"loss": runs["loss"] * (1 + 5 * wall)}


def test_surface_and_minima_of_the_same_runs_agree(fitted, best_size):
    found = compare_approaches(fitted)
    assert found.status == "agree"
    assert found.flops == pytest.approx(1e21)
    assert found.surface == pytest.approx(best_size(1e21), rel=0.15)
    assert found.measured == pytest.approx(best_size(1e21), rel=0.15)
    assert found.factor == pytest.approx(found.surface / found.measured)
    assert found.in_range == pytest.approx(1, abs=0.1)
    assert found.surface_exponent == pytest.approx(0.37 / 0.72, abs=0.03)
    lower, upper = found.shifts()
    assert lower < 1 < upper
    json.dumps(found.to_dict())


def test_a_law_that_misses_the_minima_contradicts_them(fitted, make_runs):
    runs = make_runs()
    minima = isoflop_minima(runs["params"], runs["loss"], flops=runs["flops"])
    wrong = dataclasses.replace(laws.get("chinchilla").known("hoffmann"), params={**fitted.params, "A": 100.0})
    found = compare_approaches(wrong, minima, flops=1e20)
    assert found.status == "contradict"
    assert found.in_range < 0.5
    assert "already within the range of the runs" in found.message
    best = allocate(wrong, flops=1e20, minima=minima)
    assert best.status == "contradicted"
    assert not best.ok
    lower, upper = best.intervals()["params"]
    assert lower <= best.params
    assert upper > minima.params_at(1e20)
    most, fewest = best.intervals()["tokens"][::-1]
    assert fewest == pytest.approx(1e20 / 6 / upper)
    assert most == pytest.approx(1e20 / 6 / lower)


def test_a_contradiction_at_the_target_alone_is_found_too(fitted, make_runs):
    runs = make_runs()
    minima = isoflop_minima(runs["params"], runs["loss"], flops=runs["flops"])
    p = dict(fitted.params)
    swung = p | {"alpha": 0.7, "A": p["A"] * p["alpha"] / 0.7 * 7e8 ** (0.7 - p["alpha"])}
    wrong = dataclasses.replace(laws.get("chinchilla").known("hoffmann"), params=swung)
    found = compare_approaches(wrong, minima, flops=3e22)
    assert found.status == "contradict"
    assert "they contradict each other" in found.message


def test_allocation_holds_a_fit_against_its_own_points(fitted):
    best = allocate(fitted, 1e21)
    assert best.comparison.status == "agree"
    assert "they agree" in best.message
    assert best.to_dict()["comparison"]["status"] == "agree"
    served = allocate(fitted, 1e21, inference_tokens=1e11)
    lower, upper = served.intervals()["params"]
    assert lower < served.params < upper


def test_runs_far_from_the_optimum_bend_a_surface_and_weights_help(bent, best_size):
    law = laws.get("chinchilla")
    plain = allocate(law.fit(columns(bent)), 1e21)
    weighted = allocate(law.fit(columns(bent), weights="frontier"), 1e21)
    truth = best_size(1e21)
    assert abs(math.log(weighted.params / truth)) < abs(math.log(plain.params / truth))
    assert weighted.ok
    assert weighted.params == pytest.approx(truth, rel=0.25)


def test_comparison_needs_minima(make_runs):
    runs = columns(make_runs(budgets=np.geomspace(1e18, 1e20, 40), sizes=2))
    fit = laws.get("chinchilla").fit(runs)
    assert allocate(fit, 1e20).comparison is None
    with pytest.raises(ValueError, match="pass `minima`"):
        compare_approaches(fit)
    with pytest.raises(ValueError, match="pass `minima`"):
        compare_approaches(laws.get("chinchilla").known())


def test_runs_without_a_minimum_leave_nothing_to_compare(besiroglu, make_runs):
    runs = make_runs(shift=0.1, span=2.0)
    minima = isoflop_minima(runs["params"], runs["loss"], flops=runs["flops"])
    found = compare_approaches(besiroglu, minima)
    assert found.status == "unknown"
    assert "the runs show no minimum" in found.message
    assert allocate(besiroglu, 1e20, minima=minima).comparison is None
