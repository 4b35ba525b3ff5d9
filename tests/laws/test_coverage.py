"""Intervals hold as often as they say, and are where the profile says."""

import numpy as np
import pytest
from planted import CASES
from scipy.stats import t as student

from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.solvers.objectives import Objective

DRAWS, LEVEL = 500, 0.9
COSTLY = {"multi_power"}


def simulated(case, objective, draws):
    law = case.law
    clean = law.evaluate(case.truth, **case.inputs)
    e = case.noise * np.random.default_rng(7).standard_normal((draws, len(clean)))
    y = clean * np.exp(e) if law.space == "log" else clean + e * np.std(clean)
    return Problem(law, case.inputs, y, np.ones(len(clean)), Settings(objective, law.space))


@pytest.mark.parametrize("name", CASES)
def test_profile_intervals_cover_at_their_nominal_rate(name):
    draws = DRAWS // 5 if name in COSTLY else DRAWS
    problem = simulated(CASES[name], Objective("least_squares"), draws)
    truth = problem.to_coordinates(np.array([CASES[name].truth[p.name] for p in problem.free]))
    ends = problem.descend(np.tile(truth, (draws, 1)))
    spare = problem.size - len(truth)
    rise_allowed = student.ppf((1 + LEVEL) / 2, spare) ** 2 * ends.value / spare
    for j, parameter in enumerate(problem.free):
        lower, upper = np.tile(problem.lower, (draws, 1)), np.tile(problem.upper, (draws, 1))
        lower[:, j] = upper[:, j] = truth[j]
        held = problem.descend(ends.u, lower=lower, upper=upper)
        covered = np.mean(held.value - ends.value <= rise_allowed)
        error = np.sqrt(LEVEL * (1 - LEVEL) / draws)
        assert abs(covered - LEVEL) < 3.5 * error, (parameter.name, covered)


@pytest.mark.parametrize("name", [name for name in CASES if name not in COSTLY])
def test_the_ends_of_an_interval_are_where_the_objective_has_risen_by_as_much_as_chance_allows(name):
    case = CASES[name]
    law = case.law
    table = case.seen(noise=case.noise, seed=3)
    fit = law.fit(table, objective="least_squares")
    found = fit.conf_int(LEVEL)
    allowed = student.ppf((1 + LEVEL) / 2, fit.dof_resid) ** 2 * fit.residual_variance
    assert fit.residual_variance == pytest.approx(2 * fit.diagnostics["objective"] / fit.dof_resid, rel=1e-6)
    widen = np.sqrt((1 + fit.diagnostics["autocorrelation"]) / (1 - fit.diagnostics["autocorrelation"]))
    for p in law.parameters:
        low, high = found[p.name]
        assert low < fit.params[p.name] < high
        for end in (low, high):
            if end in (p.lower, p.upper):
                continue
            held = law.fit(table, objective="least_squares", fixed={p.name: end})
            rise = 2 * (held.diagnostics["objective"] - fit.diagnostics["objective"])
            assert rise == pytest.approx(allowed * widen**2, rel=0.05), (p.name, end)


@pytest.mark.parametrize("objective", ["huber", "least_squares"])
def test_intervals_of_predictions_and_parameters_cover_new_data(objective):
    case = CASES["chinchilla"]
    law = case.law
    new = {"params": 3e9, "tokens": 3e11}
    truth = float(law.evaluate(case.truth, **new))
    hits, band, inside = [], [], []
    for seed in range(150):
        fit = law.fit(case.seen(noise=0.004, seed=seed), objective=objective)
        low, high = fit.interval(0.9, of="law", **new)
        band.append(low <= truth <= high)
        low, high = fit.conf_int(0.9)["alpha"]
        inside.append(low <= case.truth["alpha"] <= high)
        if seed % 5 == 0:
            seen = truth * np.exp(0.004 * np.random.default_rng(1000 + seed).standard_normal())
            low, high = fit.interval(0.9, **new)
            hits.append(low <= seen <= high)
    assert 0.82 <= np.mean(inside) <= 0.97
    assert 0.82 <= np.mean(band) <= 0.97
    assert np.mean(hits) >= 0.84


def test_a_bootstrap_agrees_with_the_profile_on_clean_data():
    case = CASES["chinchilla"]
    fit = case.law.fit(case.seen(noise=0.004, seed=1), objective="least_squares", bootstrap=400)
    drawn, profiled = fit.conf_int(0.9), fit.conf_int(0.9, method="profile")
    for name in ("alpha", "beta", "E"):
        width = profiled[name][1] - profiled[name][0]
        assert drawn[name] == pytest.approx(profiled[name], abs=0.45 * width)


def test_with_groups_the_errors_count_runs_not_points():
    case = CASES["chinchilla"]
    rng = np.random.default_rng(0)
    table = {name: np.repeat(values, 12) for name, values in case.inputs.items()}
    run = np.repeat(np.arange(len(case.inputs["params"])), 12)
    clean = case.law.evaluate(case.truth, **table)
    table["loss"] = clean * np.exp(
        0.004 * rng.standard_normal(run.max() + 1)[run] + 1e-4 * rng.standard_normal(len(run))
    )
    table["run"] = run
    naive = case.law.fit(table, objective="least_squares").standard_errors["alpha"]
    fit = case.law.fit(table, objective="least_squares", groups="run", bootstrap=300)
    clustered = case.law.fit(table, objective="least_squares", groups="run").standard_errors["alpha"]
    assert clustered > 2.5 * naive
    assert fit.standard_errors["alpha"] == pytest.approx(clustered, rel=0.35)
