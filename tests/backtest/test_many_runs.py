import json
import math
import pickle

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory, replay, replay_many
from lightning_scaling.backtest.many_runs import ReplayCollection, past_runs_of
from lightning_scaling.backtest.single_run import Replay
from lightning_scaling.engine.records import Update


@pytest.fixture
def family(make_run):
    """Five runs of one family, each of another length, one after the other."""
    return [
        make_run(
            "wsd",
            total=1000 + 200 * i,
            kappa=1.8,
            seed=i,
            name=f"run {i}",
            family="bytes",
            params=10_000,
            tokens_per_step=100,
            meta={"start_time": 100 * i, "end_time": 100 * i + 90},
        )
        for i in range(5)
    ]


def timeless(run, **other):
    known = {name: value for name, value in vars(run).items() if name not in ("step", "loss", "lr")}
    return Run(run.step, run.loss, run.lr, **{**known, "meta": {}, **other})


def names(history):
    return [run.name for run in history]


def test_forecasts_are_compared_with_the_outcome(make_run):
    made = Replay.of(make_run())
    checks = made.checks()
    assert [check.fraction for check in checks] == [0.1, 0.25, 0.5, 0.75]
    for check, update in zip(checks, replay(made.run, at=[0.1, 0.25, 0.5, 0.75]), strict=True):
        assert check.final == update.forecast.final
        assert (check.lower, check.upper) == update.forecast.interval(0.9)
        assert check.error == pytest.approx(check.final / made.outcome - 1)
        assert check.inside == (check.lower <= made.outcome <= check.upper) == (0.05 <= check.quantile <= 0.95)
    assert made.outcome == pytest.approx(made.run.loss[-4:].mean(), rel=1e-3)
    assert made.stop is made.alarm is made.given_up is None
    assert made.saved == 0


def test_a_run_that_did_not_reach_its_end_has_no_outcome(make_run):
    run = make_run()
    made = Replay.of(Run(run.step[:200], run.loss[:200], run.lr[:200], total_steps=4000))
    assert made.outcome is None
    assert made.checks() == []


def test_what_stopping_saves_and_gives_up(make_run):
    made = Replay.of(make_run(), target=2.0)
    assert made.stop.advice.action == "stop"
    assert made.saved == 1 - made.stop.fraction == made.stop.advice.saving
    assert made.given_up == pytest.approx(made.stop.loss - made.outcome)
    assert made.summary()["advice"]["action"] == "stop"


def test_the_gravest_advice_counts_not_the_first(make_run):
    run = make_run("cosine", every=1, total=2000)
    loss = run.loss.copy()
    loss[700:1000:100] = np.inf
    loss[1500:] = np.inf
    made = Replay.of(Run(run.step, loss, run.lr, total_steps=2000))
    assert any(update.advice.action == "investigate" for update in made.updates if update.step < 1000)
    assert made.advised is made.stop
    assert made.stop.step == 1520


def test_earlier_runs_of_the_family_are_past_runs_where_times_are_known(family, make_run):
    stranger = make_run(name="stranger", family="other", meta={"start_time": 0, "end_time": 1})
    running = timeless(family[1], name="running", meta={"start_time": 0, "end_time": None})
    how, histories = past_runs_of([*family, stranger, running])
    assert how == "earlier_runs"
    assert [names(one) for one in histories[:5]] == [names(family[:i]) for i in range(5)]
    overlapping = timeless(family[4], meta={"start_time": 250, "end_time": 300})
    assert names(past_runs_of([*family[:3], overlapping])[1][3]) == ["run 0", "run 1"]


def test_all_but_itself_and_its_replicates_are_past_runs_where_they_are_not(family):
    runs = [timeless(run) for run in family]
    replicate = timeless(family[2], name="replicate")
    how, histories = past_runs_of([*runs, replicate])
    assert how == "other_runs"
    assert names(histories[2]) == names(histories[5]) == ["run 0", "run 1", "run 3", "run 4"]
    assert names(histories[0]) == ["run 1", "run 2", "run 3", "run 4", "replicate"]


def test_at_most_a_hundred_are_past_runs_and_those_nearest_in_size(make_run):
    runs = [
        make_run(total=400, params=int(1000 * 1.06**i), alpha=0.3 + i / 1000, seed=i, name=str(i)) for i in range(120)
    ]
    _, histories = past_runs_of(runs)
    assert names(histories[119]) == [str(i) for i in range(19, 119)]


def test_a_set_is_the_runs_one_by_one(family):
    seen = []
    made = replay_many(RunHistory(family, skipped={"no loss": 3}), each=seen.append)
    assert seen == made.replays
    assert [one.past_runs for one in made.replays] == [0, 1, 2, 3, 4]
    history = RunHistory(family[:4])
    alone, informed = (Replay.of(family[4], history=past).checks() for past in (None, history))
    assert made.replays[4].checks() == informed != alone
    summary = made.summary()
    assert summary["runs"] == summary["reached_their_end"] == 5
    assert summary["skipped"] == {"no loss": 3}
    assert summary["with_history"] == 3
    assert summary["forecasts"][2]["count"] == 5
    errors = sorted(abs(one.checks((0.5,))[0].error) for one in made.replays)
    assert summary["forecasts"][2]["median_error"] == pytest.approx(errors[2])


def test_the_others_can_be_given_or_left_out(family):
    given = replay_many(family, history=RunHistory(family))
    assert given.history_source == "given_runs"
    assert [one.past_runs for one in given.replays] == [4] * 5
    alone = replay_many(family, history=None)
    assert alone.history_source == "none"
    assert [one.checks() for one in alone.replays] == [Replay.of(run).checks() for run in family]


def test_compute_saved_is_counted_in_the_best_unit_that_all_runs_know(family):
    made = replay_many(family, history=None, target=2.0)
    unit, planned, saved = made.compute
    assert unit == "FLOPs (6 N D)"
    cost = [6 * 10_000 * 100 * run.total_steps for run in family]
    assert planned == sum(cost)
    assert saved > 0
    assert saved == pytest.approx(sum(c * one.saved for c, one in zip(cost, made.replays, strict=True)))
    flops = [timeless(run, flops_per_step=7.0) for run in family]
    assert replay_many(flops, history=None).compute[:2] == ("FLOPs", 7 * sum(run.total_steps for run in family))
    plain = [timeless(run, params=None, tokens_per_step=None) for run in family]
    assert replay_many(plain, history=None).compute[:2] == ("steps", sum(run.total_steps for run in family))


def test_an_empty_set_adds_up_to_nothing():
    summary = replay_many([]).summary()
    assert summary["runs"] == 0
    assert math.isnan(summary["forecasts"][0]["median_error"])
    assert summary["compute"]["share"] == 0


def test_bad_arguments_are_refused(family):
    with pytest.raises(ValueError, match="`alpha` is a probability"):
        replay_many(family, alpha=2)


def test_a_replay_is_short_to_read_and_can_be_pickled(make_run):
    made = Replay.of(make_run(name="<b>"))
    assert repr(made).startswith("Replay('<b>', 100 updates, loss 2.7")
    assert len(repr(made)) < 160
    assert "&lt;b&gt;" in made._repr_html_()
    assert "<b>" not in made._repr_html_()
    again = pickle.loads(pickle.dumps(made))
    assert json.dumps(again.to_dict()) == json.dumps(made.to_dict())


def test_replays_come_back_from_builtins(family):
    made = replay_many(family[:2], target=2.0)
    again = ReplayCollection.from_dict(json.loads(json.dumps(made.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(made.to_dict())
    assert again.summary() == made.summary()
    assert [repr(one) for one in again.replays] == [repr(one) for one in made.replays]
    assert [one.checks() for one in again.replays] == [one.checks() for one in made.replays]
    first = made.replays[0].updates[-1]
    assert repr(Update.from_dict(first.to_dict())) == repr(first)
