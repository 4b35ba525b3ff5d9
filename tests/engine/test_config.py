from dataclasses import replace

from lightning_scaling import RunHistory
from lightning_scaling.engine import Monitor
from lightning_scaling.forecast.config import DEFAULT


def test_tuned_numbers_of_forecasts_reach_the_prior_from_past_runs(make_run):
    past = RunHistory(make_run("cosine", total=total, seed=total, params=10**7) for total in (800, 1000, 1200))
    strict = replace(DEFAULT, family=replace(DEFAULT.family, min_runs=4))
    plan = make_run("cosine").plan
    assert Monitor(plan, history=past, params=10**7).forecast.final > 0
    assert not Monitor(plan, history=past, params=10**7, forecast=strict).forecast.final > 0


def test_tuned_numbers_of_forecasts_reach_the_answers_about_other_plans(make_run):
    run = make_run("cosine")
    coarse = replace(DEFAULT, counterfactual=replace(DEFAULT.counterfactual, min_share_of_loss=0.5))
    usual, wide = Monitor(run.plan), Monitor(run.plan, forecast=coarse)
    for monitor in (usual, wide):
        monitor.observe(run.step[:100], run.loss[:100])
    scales = [
        [monitor.what_if("longer", factor=2.0).difference.scale, monitor.what_ifs(["longer"])[1].difference.scale]
        for monitor in (usual, wide)
    ]
    assert scales[1][0] > scales[0][0]
    assert scales[1][1] > scales[0][1]
