"""Runs of an MLflow experiment as they are read: monitored, foreign and broken ones."""

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory
from lightning_scaling.history import HistoryError
from lightning_scaling.history.backends.mlflow_client import ClientStore
from lightning_scaling.history.backends.mlflow_sqlite import SqliteStore, database_of

STEPS = np.arange(10, 401, 10)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def read(past, **settings):
    return RunHistory.from_mlflow("past", tracking_uri=past.uri, **settings)


def curves(history):
    return [(run.name, run.step.tolist(), run.loss.tolist()) for run in history]


def test_a_run_of_ours_comes_back_with_all_that_was_logged(past):
    run_id = past.ours(name="small")
    (run,) = read(past)
    assert (run.name, run.family, run.params, run.total_steps) == ("small", "past", 1234, 400)
    assert run.tokens_per_step == 64
    assert run.flops_per_step == 1e6
    assert run.step[-1] == 400
    assert run.step[0] == 6, "a mean of the first ten steps stands in their middle"
    assert run.plan.known
    assert run.plan.at(200) == pytest.approx(1e-3 * (1 - 200 / 401), rel=0.01)
    assert run.meta["start_time"] <= run.meta["end_time"]
    assert {key: value for key, value in run.meta.items() if not key.endswith("_time")} == {
        "run_id": run_id,
        "status": "FINISHED",
        "metric": "scaling/loss",
        "steps": "optimizer steps",
    }


def test_a_foreign_run_is_taken_as_it_was_logged(past):
    past.foreign(params={"n_params": "5e3"})
    (run,) = read(past)
    assert run.step.tolist() == STEPS.tolist()
    assert (run.params, run.total_steps) == (5000, 400)
    assert run.lr.tolist() == [1e-3] * STEPS.size
    assert (run.meta["metric"], run.meta["steps"]) == ("train_loss", "steps as logged")


def test_names_are_taken_in_their_order_and_exactly(past):
    loss = (STEPS, 2 + 3 / STEPS)
    past.log({"val_loss": loss, "train/loss": (STEPS, 1 + 3 / STEPS), "my_train_loss_x": loss})
    past.log({"val_loss": loss})
    past.log({"my_train_loss_x": loss})
    history = read(past)
    assert [run.meta["metric"] for run in history] == ["train/loss", "val_loss"]
    assert history.skipped == {"no loss": 1}


def test_the_user_names_metric_and_rate(past):
    past.log({"nll": (STEPS, 2 + 3 / STEPS), "train_loss": (STEPS, 3 / STEPS), "rate": (STEPS, STEPS * 1e-5)})
    (run,) = read(past, metric=["bpb", "nll"], lr="rate")
    assert run.meta["metric"] == "nll"
    assert run.lr[-1] == pytest.approx(4e-3)


def test_what_a_monitored_run_followed_goes_by_its_own_name(past):
    past.ours(params={"scaling.monitor": "val_loss"})
    past.ours()
    assert [run.meta["metric"] for run in read(past)] == ["val_loss", "scaling/loss"]
    assert [run.meta["metric"] for run in read(past, metric="val_loss")] == ["val_loss"]
    assert [run.meta["metric"] for run in read(past, metric=["scaling/loss", "train_loss"])] == ["scaling/loss"]


def test_broken_runs_are_counted_and_never_fatal(past):
    loss = falling = 2 + 3 / STEPS
    ends_badly = np.where(STEPS > 350, np.nan, falling)
    past.ours(name="good")
    past.log({"accuracy": (STEPS, loss)})
    past.log({"train_loss": (STEPS, ends_badly)})
    past.log({"train_loss": (STEPS[:3], loss[:3])})
    past.log({"train_loss": (STEPS, loss)}, status=None)
    past.log({"train_loss": (STEPS, loss)}, status="FAILED")
    past.log({"train_loss": (STEPS, loss)}, status=None, params={"max_steps": 1000}, name="under way")
    past.log({"train_loss": (STEPS, loss)}, status="KILLED", params={"max_steps": 1000}, name="broken off")
    history = read(past)
    assert [run.name for run in history] == ["good", "under way", "broken off"]
    assert [run.total_steps for run in history] == [400, 1000, 1000]
    assert history.skipped == {
        "no loss": 1,
        "the loss is not finite at its end": 1,
        "too few losses": 1,
        "not finished, and its planned length is not known": 2,
    }
    assert history.lacking == {
        "still running": 1,
        "no parameter count": 2,
        "no learning rate": 2,
        "ended before its plan did": 1,
    }
    assert "5 left out (1 no loss, " in history.summary()
    assert "\n" not in history.summary()


def test_a_loss_that_was_not_finite_on_the_way_stays_one(past):
    loss = 2 + 3 / STEPS
    loss[4], loss[7] = np.nan, np.inf
    past.log({"loss": (STEPS, loss)})
    (run,) = read(past)
    assert np.flatnonzero(~np.isfinite(run.loss)).tolist() == [4, 7]


def test_of_steps_logged_twice_the_later_value_counts(past):
    again = np.concatenate([STEPS, STEPS[20:]])
    past.log({"loss": (again, np.concatenate([np.full(40, 5.0), np.full(20, 4.0)]))})
    (run,) = read(past)
    assert run.step.tolist() == STEPS.tolist()
    assert run.loss.tolist() == [5.0] * 20 + [4.0] * 20


def test_a_long_curve_is_thinned_to_means(past):
    steps = np.arange(1, 5001)
    past.log({"loss": (steps, 2 + steps / 1000 + np.where(steps % 2, 0.1, -0.1)), "lr": (steps, steps * 1e-6)})
    (run,) = read(past)
    assert 250 <= len(run) <= 300
    assert run.step[-1] == 5000
    assert run.step[:5].tolist() == [1, 2, 3, 4, 5]
    late = run.step > 1000
    assert np.abs(run.loss - (2 + run.step / 1000))[late].max() < 0.05
    assert run.lr[late] == pytest.approx(run.step[late] * 1e-6, rel=0.01)
    assert len(Run.from_mlflow(run.meta["run_id"], tracking_uri=past.uri)) == 5000


def test_the_family_is_a_tag_or_param_or_else_the_experiment(past):
    past.ours(tags={"family": "tagged"})
    past.ours(params={"scaling.family": "param"})
    past.ours()
    assert [run.family for run in read(past)] == ["tagged", "param", "past"]


def test_the_family_by_names_of_the_user(past):
    past.ours(params={"width": 64, "data": "pile"})
    past.ours(params={"width": 64})
    history = read(past, family=["data", "width"])
    assert [run.family for run in history] == ["data=pile, width=64"]
    assert history.skipped == {"no tag or param `data`": 1}
    assert [run.family for run in read(past, family="width")] == ["64", "64"]


def test_filter_number_of_runs_and_deleted_runs(past):
    names = [past.ours(name=f"r{index}", params={"width": index}) for index in range(4)]
    assert [run.name for run in read(past, filter="params.width = '2'")] == ["r2"]
    assert {run.name for run in read(past, max_runs=2)} < {f"r{index}" for index in range(4)}
    assert len(read(past, max_runs=2)) == 2
    past.client.delete_run(names[1])
    assert "r1" not in [run.name for run in read(past)]


def test_an_experiment_by_its_id(past):
    past.ours()
    assert len(RunHistory.from_mlflow(past.id, tracking_uri=past.uri)) == 1


def test_an_experiment_that_is_not_there_is_named_with_those_that_are(past):
    with pytest.raises(HistoryError, match=r"no experiment 'future' at .*'past'"):
        RunHistory.from_mlflow("future", tracking_uri=past.uri)


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    file = tmp_path / "none.db"
    with pytest.raises(HistoryError, match="no MLflow database at"):
        RunHistory.from_mlflow("past", tracking_uri=f"sqlite:///{file}", filter="params.a = 'b'")
    assert not file.exists()


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"metric": 3}, TypeError, "`metric` must be a name"),
        ({"family": []}, ValueError, "`family` must hold at least one name"),
        ({"max_runs": 0}, ValueError, "`max_runs` must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(past, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        read(past, **settings)


def test_one_run_without_a_loss_says_what_it_logged(past):
    run_id = past.log({"accuracy": (STEPS, STEPS / 400)})
    with pytest.raises(HistoryError, match=rf"{run_id} cannot be used: no loss. It logged `accuracy`"):
        Run.from_mlflow(run_id, tracking_uri=past.uri)
    with pytest.raises(HistoryError, match="no run 'nothing'"):
        Run.from_mlflow("nothing", tracking_uri=past.uri)


def test_the_curve_left_with_a_run_is_preferred_to_its_metrics(past):
    run_id = past.ours()
    rows = [f"{4 * i},{2 + 1 / i},0.001,,,,4" for i in range(1, 101)]
    past.client.log_text(run_id, "\n".join(["step,loss,lr,tokens,flops,seconds,count", *rows]), "scaling/curve.csv")
    (run,) = read(past)
    assert len(run) == 100
    assert run.step[[0, 1, -1]].tolist() == [2, 6, 400]
    assert run.loss[0] == 3
    assert curves(read(past)) == curves([run]), "and so from the cache"


@pytest.fixture
def mixed(past):
    past.ours(name="a", tags={"family": "x"})
    past.foreign(name="b", params={"n_params": 10})
    again = np.concatenate([STEPS, STEPS[:5]])
    past.log({"loss": (again, np.where(again == 50, np.inf, 1 / again))}, name="c")
    past.log({"loss": (STEPS, np.full(40, np.nan))}, name="d")
    return past


def test_the_file_and_the_client_say_the_same(mixed):
    file, client = SqliteStore(database_of(mixed.uri)), ClientStore(mixed.uri, 30)
    assert repr(file.search(mixed.id, 10)) == repr(client.search(mixed.id, 10))
    assert file.experiment("past") == client.experiment("past") == client.experiment(mixed.id)
    assert set(file.experiments()) == set(client.experiments())
    infos = file.search(mixed.id, 10)
    wanted = {info.run_id: sorted(info.metrics) for info in infos}
    by_file, by_client = dict(file.series(wanted)), dict(client.series(wanted))
    for run_id, keys in wanted.items():
        assert repr(file.run(run_id)) == repr(client.run(run_id))
        for key in keys:
            np.testing.assert_array_equal(by_file[run_id][key], by_client[run_id][key])


def test_tables_of_another_kind_are_left_to_the_client(mixed, monkeypatch):
    expected = read(mixed, cache=False)

    def unknown(self, wanted):
        raise AssertionError("the file was read directly")

    monkeypatch.setattr("lightning_scaling.history.backends.mlflow_sqlite._LAYOUT", ("SELECT sizes FROM runs LIMIT 0",))
    monkeypatch.setattr(SqliteStore, "series", unknown)
    found = read(mixed, cache=False)
    assert curves(found) == curves(expected)
    assert found.skipped == expected.skipped
    run_id = expected[0].meta["run_id"]
    assert len(Run.from_mlflow(run_id, tracking_uri=mixed.uri)) == len(expected[0])
