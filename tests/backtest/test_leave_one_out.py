"""Finished runs forecast from one another, and what that does to the forecasts of the next."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_scaling import Monitor, Run, RunHistory, replay
from lightning_scaling.backtest import leave_one_out
from lightning_scaling.backtest.leave_one_out import calibrate
from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.calibrated import forecast_log_of, updated_with_logs
from lightning_scaling.forecast.calibration import FRACTIONS, Calibration, ErrorSpread


def family_of(make_run, totals=(1000, 1400, 2000, 2800), **known):
    return [
        make_run(kind, total=total, kappa=1.2, seed=seed, params=10_000_000, name=f"{kind}-{total}", **known)
        for seed, (kind, total) in enumerate((kind, total) for total in totals for kind in ("cosine", "wsd"))
    ]


@pytest.fixture
def runs(make_run):
    return family_of(make_run)


_made = {}


@pytest.fixture
def report(runs):
    """Made once: it takes seconds and nothing changes it."""
    if not _made:
        _made["report"] = calibrate(RunHistory(runs), family="made", version="9")
    return _made["report"]


def factors(factor, mode="family"):
    return Calibration({mode: ErrorSpread(1000, (1000,) * 6, (factor,) * 6)}, Forecaster.law)


def test_every_finished_run_is_forecast_in_both_modes(runs, report):
    assert report.runs == len(runs)
    for mode in ("family", "alone"):
        recorded = {row.run for row in report.rows if row.mode == mode and row.fraction == 0.5}
        assert recorded == {run.name for run in runs}
    assert report.calibration
    assert (report.calibration.family, report.calibration.version) == ("made", "9")
    lines = report.table()
    assert {line["mode"] for line in lines} == {"family", "alone"}
    assert all(0 <= line["inside_50"] <= line["inside_90"] <= 1 for line in lines)
    assert all(line["live"] == 0 and line["kinds"] == line["runs"] for line in lines)


def test_past_runs_make_early_forecasts_better(report):
    error = {(line["mode"], line["fraction"]): line["error"] for line in report.table()}
    assert error["family", 0.25] < error["alone", 0.25]


def test_a_run_is_not_forecast_from_its_replicates(make_run, runs, monkeypatch):
    replicate = make_run("cosine", total=2000, kappa=1.2, seed=99, params=10_000_000, name="replicate")
    sizes = []
    real = leave_one_out.Family
    monkeypatch.setattr(
        leave_one_out, "Family", lambda used, *size, **config: sizes.append(len(used)) or real(used, *size, **config)
    )
    report = calibrate([*runs, replicate])
    assert sorted(set(sizes)) == [len(runs) - 1, len(runs)]
    kinds = {row.run: row.kind for row in report.rows}
    assert kinds["replicate"] == kinds["cosine-2000"] != kinds["wsd-2000"]
    half = next(line for line in report.table() if line["fraction"] == 0.5)
    assert half["runs"] == half["kinds"] + 1


def test_where_all_are_replicates_only_the_run_itself_is_left_out(make_run):
    replicates = [make_run("cosine", total=1000, kappa=1.2, seed=seed, name=str(seed)) for seed in range(5)]
    report = calibrate(replicates)
    assert {row.run for row in report.rows if row.mode == "family"} == {run.name for run in replicates}
    assert report.calibration.spreads["family"].kinds == (1,) * 6


def test_unfinished_runs_inform_and_are_not_judged(runs, make_run):
    part = make_run("cosine", total=8000, kappa=1.2, seed=50, params=10_000_000, name="part")
    seen = part.step <= 4000
    part = Run(part.step[seen], part.loss[seen], total_steps=8000, planned_lr=(part.step, part.lr), name="part")
    report = calibrate([*runs, part])
    assert "part" not in {row.run for row in report.rows}


def test_too_few_runs_are_said_to_be(runs):
    report = calibrate(runs[:3])
    assert not report.calibration
    assert report.judgement().startswith("With past runs: 3 runs could be forecast, 5 are needed.")
    assert calibrate([]).table() == []


def test_progress_is_told(runs):
    recorded = []
    calibrate(runs[:4], progress=lambda done, total: recorded.append((done, total)))
    assert recorded == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_judgement_names_what_is_off(report):
    assert report.judgement().count("With past runs:") == 1
    off = leave_one_out.CalibrationReport(factors(1.5), report.rows, report.runs)
    assert "too narrow at 5%, 10%, 25%, 50%, 75%, 90% (factor 1.50, " in off.judgement()
    wide = leave_one_out.CalibrationReport(factors(0.5), report.rows, report.runs)
    assert "wider than need be at 5%" in wide.judgement()
    right = leave_one_out.CalibrationReport(factors(1.0), report.rows, report.runs)
    assert "With past runs: the intervals hold what they promise." in right.judgement()


# ------------------------------------------------------------------ what a calibration does


def test_the_calibration_of_a_history_scales_its_forecasts_and_nothing_else(runs, make_run):
    new = make_run("cosine", total=3000, kappa=1.2, seed=70, params=10_000_000)
    plain, wide = (
        replay(new, history=RunHistory(runs, calibration=one), at=[0.25, 0.75]) for one in (None, factors(2.0))
    )
    for before, after in zip(plain, wide, strict=True):
        assert after.forecast.final == before.forecast.final
        widths = [np.diff(update.forecast.interval())[0] for update in (before, after)]
        assert widths[1] == pytest.approx(widths[0] * factors(2.0).factor("family", 0.5), rel=1e-9)
        assert after.deviation == before.deviation


def test_one_for_runs_alone_leaves_informed_ones_as_they_are(runs, make_run):
    new = make_run("cosine", total=3000, kappa=1.2, seed=70, params=10_000_000)
    plain, other = (
        replay(new, history=RunHistory(runs, calibration=one), at=[0.5]) for one in (None, factors(2.0, "alone"))
    )
    assert plain[0].to_dict() == other[0].to_dict()


def test_a_stale_one_is_not_used(runs, make_run):
    new = make_run("cosine", total=3000, kappa=1.2, seed=70, params=10_000_000)
    stale = Calibration(factors(2.0).spreads, "another_law")
    plain, other = (replay(new, history=RunHistory(runs, calibration=one), at=[0.5]) for one in (None, stale))
    assert plain[0].to_dict() == other[0].to_dict()


# ------------------------------------------------------------------ forecast logs


def watched(run, history=None):
    monitor = Monitor(run.plan, history=history, params=run.params)
    monitor.observe(run.step, run.loss, lr=run.lr)
    monitor.finish()
    return monitor


def test_a_log_tells_the_errors_as_they_were_before_correction(runs, make_run):
    new = make_run("cosine", total=3000, kappa=1.2, seed=70, params=10_000_000)
    plain, wide = (
        forecast_log_of(watched(new, RunHistory(runs, calibration=one)).forecast_log, new)
        for one in (None, factors(2.0))
    )
    assert plain == wide
    assert set(plain["mode"]) == {"family"}
    assert plain["at"][-4:] == list(FRACTIONS)[-4:]
    assert len(json.dumps(plain)) < 1000


def test_a_log_says_what_a_replay_says(runs, make_run):
    new = make_run("cosine", total=3000, kappa=1.2, seed=70, params=10_000_000, name="new")
    log = forecast_log_of(watched(new).forecast_log, new)
    assert set(log["mode"]) == {"alone"}
    replayed = {row.fraction: row for row in calibrate([*runs, new]).rows if (row.run, row.mode) == ("new", "alone")}
    for at, error, scale in zip(log["at"], log["error"], log["scale"], strict=True):
        assert error == pytest.approx(replayed[at].error, abs=0.3 * replayed[at].scale)
        assert scale == pytest.approx(replayed[at].scale, rel=0.1)


def test_a_run_that_did_not_finish_leaves_no_log(make_run):
    run = make_run("cosine", total=2000, kappa=1.2)
    seen = run.step <= 1500
    part = Run(run.step[seen], run.loss[seen], total_steps=2000, planned_lr=(run.step, run.lr))
    assert forecast_log_of(watched(part).forecast_log, part) is None


def with_forecasts(run, scale, *, law=Forecaster.law):
    error = 0.05 * (-1) ** run.total_steps
    log = {"version": 1, "law": law, "revision": 1, "steps": run.total_steps, "at": list(FRACTIONS)}
    log |= {"mode": ["family"] * 6, "error": [error] * 6, "scale": [scale] * 6}
    known = {"total_steps": run.total_steps, "params": run.params, "name": run.name, "meta": {"forecasts": log}}
    return Run(run.step, run.loss, run.lr, **known)


def test_what_was_said_live_counts_in_place_of_the_replay(runs):
    report = calibrate([with_forecasts(run, 0.005) for run in runs])
    assert all(row.live and row.scale == 0.005 for row in report.rows if row.mode == "family")
    assert not any(row.live for row in report.rows if row.mode == "alone")
    assert report.calibration.factor("family", 0.5) > 2


def test_logs_alone_make_a_calibration_and_join_one_that_is_kept(runs):
    recorded = [with_forecasts(run, 0.005) for run in runs]
    found = updated_with_logs(None, recorded)
    assert found.spreads["family"].runs == len(runs)
    assert updated_with_logs(found, recorded) is found  # none is counted twice
    half = updated_with_logs(None, recorded[:5])
    assert updated_with_logs(half, recorded).spreads == found.spreads
    assert not updated_with_logs(None, recorded[:4])
    assert not updated_with_logs(None, runs)


@pytest.mark.parametrize("log", [None, 3, "text", {}, {"version": 1}, {"version": 1, "law": "x", "revision": 1}])
def test_what_is_no_log_is_ignored(runs, log):
    run = Run(runs[0].step, runs[0].loss, runs[0].lr, total_steps=1000, meta={"forecasts": log})
    assert not updated_with_logs(None, [run])
    assert not updated_with_logs(None, [with_forecasts(one, 0.005, law="another_law") for one in runs])
