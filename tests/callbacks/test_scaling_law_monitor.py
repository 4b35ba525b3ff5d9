"""The callback in a Trainer: what it gives, and that the run comes first."""

import copy
import csv
import gc
import logging
import pickle
import warnings
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lightning_scaling import Run
from lightning_scaling.callbacks import ScalingAdviceWarning, ScalingLawMonitor
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.tracking import read_journal


def observe(**settings):
    return ScalingLawMonitor(**{"journal": False, "max_overhead": 1, **settings})


def diverge(model, after):
    """Let the loss of a module be NaN after some steps."""
    plain = model.loss_of
    model.loss_of = lambda batch: plain(batch) * (1.0 if len(model.true) < after else float("nan"))
    return model


@pytest.mark.parametrize("alone", [True, False])
def test_one_line_is_enough(both, module, fit, alone, tmp_path):
    monitor = ScalingLawMonitor()
    fit(both, monitor if alone else [monitor], module(both), max_epochs=10)
    assert monitor.run.total_steps == 60
    assert monitor.forecast.trust in ("low", "ok")
    lower, upper = monitor.forecast.interval(0.9)
    assert lower < monitor.forecast.final < upper
    assert monitor.deviation.alarm is False
    assert monitor.advice.action == "continue"
    assert monitor.advice_log[-1].action == "continue"
    assert monitor.forecast_log[-1]["step"] == 60
    (journal,) = (tmp_path / "scaling_journals").glob("*.jsonl")
    points = read_journal(journal).points
    np.testing.assert_array_equal(points.loss, monitor.run.loss)


def test_before_training_there_is_nothing():
    monitor = ScalingLawMonitor()
    assert (monitor.run, monitor.forecast, monitor.deviation, monitor.advice) == (None, None, None, None)
    assert (monitor.advice_log, monitor.forecast_log, monitor.counters, monitor.overhead) == ([], [], {}, 0.0)


@pytest.mark.parametrize("step", ["automatic", "manual_two"])
def test_training_is_the_same_bit_for_bit(pl, module, fit, random_state, step):
    def train(callbacks):
        model = module(pl, step, optimizers=2 if step == "manual_two" else 1)
        fit(pl, callbacks, model, max_epochs=3)
        return [parameter.tolist() for parameter in model.parameters()], random_state()

    assert train([]) == train([observe()])


def test_the_plan_of_the_trainer_is_followed(pl, module, fit):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    monitor = observe()
    fit(pl, monitor, module(pl, schedule=schedule), max_epochs=10)
    np.testing.assert_allclose(monitor.run.plan.at(monitor.run.step), monitor.run.lr, rtol=1e-9)
    assert monitor.forecast.horizon == 60
    assert "not known" not in monitor.forecast.why


def test_a_schedule_that_the_module_steps_itself_is_found_out(pl, module, fit):
    model = module(pl, "manual", schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60))
    step = model.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        model.lr_schedulers().step()
        return loss

    model.training_step = training_step
    monitor = observe()
    fit(pl, monitor, model, max_epochs=10)
    np.testing.assert_allclose(monitor.run.plan.at(monitor.run.step), monitor.run.lr, rtol=1e-9)


def test_an_internal_error_is_reported_once_and_changes_nothing(pl, module, fit, monkeypatch):
    plain = module(pl)
    fit(pl, [], plain)

    def broken(self, *args, **kwargs):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Monitor, "observe", broken)
    model, monitor = module(pl), ScalingLawMonitor()
    with pytest.warns(
        UserWarning, match=r"RuntimeError: out of order\). Monitoring is off; training continues"
    ) as reported:
        made = fit(pl, monitor, model)
    assert sum("out of order" in str(one.message) for one in reported) == 1
    assert made.global_step == 12
    assert [p.tolist() for p in model.parameters()] == [p.tolist() for p in plain.parameters()]
    assert monitor.run is None


@pytest.mark.parametrize("where", ["__init__", "flush", "finish", "close", "state_dict"])
def test_no_internal_error_reaches_the_run(pl, module, fit, monkeypatch, where):
    def broken(self, *args, **kwargs):
        raise OSError("the disk is on fire")

    from lightning_scaling.callbacks.session import Session

    monkeypatch.setattr(Session, where, broken)
    keep = pl.callbacks.ModelCheckpoint(every_n_train_steps=5)
    with pytest.warns(UserWarning, match="the disk is on fire"):
        assert fit(pl, [ScalingLawMonitor(), keep], module(pl)).global_step == 12


def test_warnings_turned_into_errors_do_not_stop_a_run(pl, module, fit, monkeypatch):
    monkeypatch.setattr(Monitor, "observe", lambda self, *args, **kwargs: 1 / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        assert fit(pl, ScalingLawMonitor(), module(pl)).global_step == 12


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_keeps_all_that_was_seen(pl, module, fit, tmp_path, error):
    model = module(pl)
    step = model.training_step

    def training_step(batch, batch_idx):
        if len(model.true) == 9:
            raise error("enough")
        return step(batch, batch_idx)

    model.training_step = training_step
    monitor = ScalingLawMonitor(journal=tmp_path)
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        fit(pl, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, [float(loss) for loss in model.true])
    (journal,) = tmp_path.glob("*.jsonl")
    assert len(read_journal(journal).points.step) == 9


@pytest.mark.parametrize("status", ["finished", "stopped_early", "interrupted"])
def test_how_a_run_ended_is_recorded(pl, module, fit, tmp_path, status):
    class End(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 20 and status != "finished":
                trainer.should_stop = True
                if status == "interrupted":
                    raise ValueError("enough")

    monitor = ScalingLawMonitor(journal=tmp_path)
    with pytest.raises(ValueError, match="enough") if status == "interrupted" else nullcontext():
        fit(pl, [monitor, End()], module(pl), max_epochs=10)
    (journal,) = tmp_path.glob("*.jsonl")
    assert read_journal(journal).end["status"] == status
    assert Run.from_journal(journal).meta["status"] == ("FAILED" if status == "interrupted" else "FINISHED")


def test_fast_dev_run_and_sanity_checks_are_not_observed(pl, module, fit):
    monitor = ScalingLawMonitor()
    fit(pl, monitor, module(pl), fast_dev_run=True)
    assert monitor.run is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_can_be_pickled_and_copied(pl, module, fit, when):
    monitor = observe(name="mine")
    if when == "after":
        fit(pl, monitor, module(pl), max_epochs=4)
    for clone in (pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor)):
        assert clone.state_key == monitor.state_key
        if when == "after":
            assert clone.forecast.final == monitor.forecast.final
            np.testing.assert_array_equal(clone.run.loss, monitor.run.loss)
        fit(pl, clone, module(pl), max_epochs=1)
        assert len(clone.run) == 6


def test_it_can_be_copied_in_the_middle_of_training(pl, module, fit):
    clones = []

    class Copier(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                clones.append(pickle.loads(pickle.dumps(monitor)))

    monitor = observe()
    fit(pl, [monitor, Copier()], module(pl))
    assert len(monitor.run) == 12
    assert len(clones) == 1


def test_nothing_keeps_a_graph_or_what_else_a_step_returns(pl, module, fit):
    seen = []
    model = module(pl, "as_dict")
    step = model.training_step

    def training_step(batch, batch_idx):
        output = step(batch, batch_idx)
        seen.extend([weakref.ref(output["aux"]), weakref.ref(output["loss"])])
        return output

    model.training_step = training_step

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            gc.collect()
            assert sum(one() is not None for one in seen[:-2]) == 0

    fit(pl, [ScalingLawMonitor(journal=False), Look()], model)


def test_after_training_it_does_not_keep_the_model(pl, module, fit):
    model = module(pl, schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12))
    monitor = observe()
    seen = [weakref.ref(model), weakref.ref(model.net[0].weight)]
    fit(pl, monitor, model)
    del model, monitor.log, monitor.log_dict  # these two are Lightning's
    gc.collect()
    assert [one() for one in seen] == [None, None]
    assert len(monitor.run) == 12
    assert monitor.counters["samples"] == 44


def test_advice_warns_once_for_each_change_and_stops_nothing(pl, module, fit):
    monitor = observe()
    with pytest.warns(ScalingAdviceWarning, match="not finite|non-finite|NaN") as reported:
        made = fit(pl, monitor, diverge(module(pl), after=20), max_epochs=10)
    assert made.global_step == 60
    actions = [advice.action for advice in monitor.advice_log]
    assert monitor.advice.action == "stop"
    warned = [one for one in reported if one.category is ScalingAdviceWarning]
    assert len(warned) == sum(action != "continue" for action in actions)


def test_advice_goes_to_a_function_and_becomes_a_warning_once_that_raises(pl, module, fit):
    received = []

    def listen(advice):
        received.append(advice.action)
        raise ValueError("deaf")

    monitor = observe(on_advice=listen)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit(pl, monitor, diverge(module(pl), after=20), max_epochs=10)
    assert len(received) == 1
    assert sum("`on_advice` raised ValueError: deaf" in str(one.message) for one in warned) == 1
    assert any(one.category is ScalingAdviceWarning and "stop" in str(one.message) for one in warned)


@pytest.mark.parametrize("way", ["log", "ignore", None])
def test_advice_can_be_logged_or_left_alone(pl, module, fit, caplog, way):
    caplog.set_level(logging.INFO, "lightning_scaling")
    fit(pl, observe(on_advice=way), diverge(module(pl), after=20), max_epochs=10)
    assert any("Scaling advice" in record.message for record in caplog.records) is (way == "log")


def test_the_first_line_says_what_is_counted_and_the_others_how_it_goes(pl, module, fit, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    fit(pl, observe(count=3), module(pl), max_epochs=20)
    lines = [record.message for record in caplog.records if record.name == "lightning_scaling"]
    assert "3 per sample as given" in lines[0]
    assert "FLOPs" in lines[0]
    assert "120 steps" in lines[0]
    progress = [line for line in lines if line.startswith("step ")]
    assert 5 <= len(progress) <= 11
    assert progress[-1].startswith("step 120/120 (100%): loss ")


def test_lines_leave_the_progress_bar_whole(pl, module, trainer, loader, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    printed = []
    bar = pl.callbacks.TQDMProgressBar()
    monkeypatch.setattr(bar, "print", lambda *args, **kwargs: printed.append(args[0]))
    trainer(pl, [observe(), bar], enable_progress_bar=True).fit(module(pl), loader())
    assert printed[0].startswith("Scaling monitor: counting samples")
    assert logging.getLogger("lightning_scaling").handlers == []


def test_points_in_other_loggers_join_those_of_lightning(both, module, fit, tmp_path):
    logger = both.loggers.CSVLogger(tmp_path, flush_logs_every_n_steps=1)

    def log(model, batch, batch_idx):
        model.log("raw", model.true[-1])

    fit(both, observe(), module(both, log=log), logger=logger, max_epochs=4, log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    table = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    ours = {int(row["step"]): row for row in table if row.get("scaling/loss")}
    lightnings = {int(row["step"]) for row in table if row.get("raw")}
    assert max(ours) == 23
    assert set(ours) <= lightnings
    assert float(ours[23]["scaling/samples"]) == 88
    assert float(ours[23]["scaling/log10_flops"]) == pytest.approx(np.log10(88 * 2 * (4 * 8 * 2 + 8 * 2 * 3)))


@pytest.mark.parametrize(
    ("figure", "what", "sentence"),
    [
        ("count", "tokens", r"`count` failed \(RuntimeError: no ids\); tokens are not counted any more"),
        ("flops", "flops", "FLOPs are left out from here: RuntimeError: no ids"),
    ],
)
def test_a_function_of_the_user_that_raises_switches_off_its_figure_alone(pl, module, fit, figure, what, sentence):
    calls = []

    def raising(batch):
        calls.append(batch)
        if len(calls) >= 5:  # beyond those that measure the first batch
            raise RuntimeError("no ids")
        return 7

    monitor = observe(**{figure: raising})
    with pytest.warns(UserWarning, match=sentence):
        assert fit(pl, monitor, module(pl)).global_step == 12
    assert len(monitor.run) == 12
    counters = monitor.counters
    assert (counters["samples"], counters[what]) == (44, None)


def test_a_count_that_is_no_number_switches_off_tokens_alone(pl, module, fit):
    with pytest.warns(UserWarning, match=r"`count`.*'many'.*training continues"):
        assert fit(pl, observe(count=lambda batch: "many"), module(pl)).global_step == 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": -0.1}, "`alpha` must lie between 0 and 1, but got -0.1"),
        ({"alpha": 1}, "`alpha` must lie between 0 and 1, but got 1"),
        ({"alpha": "x"}, "`alpha` must be a number, but got 'x'"),
        ({"max_overhead": 0}, "`max_overhead` must lie between 0 and 1, but got 0"),
        ({"monitor": 3}, "`monitor` must be a string or None, but got 3"),
        ({"monitor": " "}, "`monitor` must not be empty"),
        ({"name": ""}, "`name` must not be empty"),
        ({"history": [1]}, "`history` must be a RunHistory, a folder of CSV files"),
        ({"law": "nonsense"}, "`law` must be one of 'auto'"),
        ({"target": float("nan")}, "`target` must be a finite loss or None, but got nan"),
        ({"params": 0}, "`params` must be a positive whole number or None, but got 0"),
        ({"on_advice": "shout"}, '`on_advice` must be "warn", "log", "ignore", None or a function'),
        ({"count": "bananas"}, "`count` must be"),
        ({"flops": -1}, "`flops` must be a finite positive number"),
        ({"journal": 3}, "`journal` must be a folder, True, False or None, but got 3"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(settings, said):
    with pytest.raises((TypeError, ValueError)) as refused:
        ScalingLawMonitor(**settings)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_history_and_target_reach_the_engine(pl, module, fit):
    monitor = observe(history=RunHistory([]), target=0.5, alpha=0.05, params=1000)
    fit(pl, monitor, module(pl), max_epochs=1)
    assert monitor.run.params == 1000


def test_the_monitor_keeps_to_its_share_of_the_time(pl, module, fit, monkeypatch):
    monkeypatch.setattr("lightning_scaling.callbacks.overhead._FREE_SECONDS", 0.0)
    eager, thrifty = observe(), ScalingLawMonitor(journal=False, max_overhead=1e-9)
    for monitor in (eager, thrifty):
        fit(pl, monitor, module(pl), max_epochs=30)
    assert len(thrifty.forecast_log) < len(eager.forecast_log)
    assert thrifty.forecast_log[-1]["step"] == eager.forecast_log[-1]["step"] == 180
    assert 0 < thrifty.overhead < eager.overhead


def test_an_announced_change_is_kept_and_begins_a_new_segment(pl, module, fit):
    monitor = observe()

    class Announce(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                monitor.mark("new data", follow_rates=True)

    monitor.mark("before training: nothing to do")
    fit(pl, [monitor, Announce()], module(pl))
    assert monitor._engine.curve.segments == [(6, "new data")]
    assert len(monitor.run) == 12


def test_a_fit_from_the_first_batch_on_is_a_new_run(pl, module, fit, tmp_path):
    monitor = observe()
    keep = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit(pl, [monitor, keep], module(pl))
    monitor.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][monitor.state_key])
    fit(pl, monitor, module(pl), max_epochs=3)
    assert (monitor.counters["steps"], monitor.counters["samples"], len(monitor.run)) == (18, 66, 18)


def test_a_search_for_a_learning_rate_leaves_no_trace(pl, module, fit):
    monitor = observe()

    def tunable():
        model = module(pl)
        model.lr = 0.01
        return model

    for _ in range(2):  # folds with the same callback object
        search = pl.callbacks.LearningRateFinder(num_training_steps=20)
        model = tunable()
        fit(pl, [search, monitor], model, batches=120, max_epochs=1)
        steps = len(model.true) - 20  # older Lightning goes on in the epoch where the search left it, newer begins anew
        assert (monitor.counters["steps"], monitor.counters["samples"]) == (steps, 4 * steps)
        assert monitor.run.step.tolist() == list(range(1, steps + 1))


def test_two_monitors_of_one_metric_are_refused(pl):
    monitors = [ScalingLawMonitor(journal=False), ScalingLawMonitor(journal=False, count=3)]
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `ScalingLawMonitor`"):
        pl.Trainer(callbacks=monitors, logger=False, enable_checkpointing=False)


def test_two_monitors_of_different_metrics_log_under_different_names(pl, module, fit, tmp_path):
    model = module(pl)
    step = model.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        model.log("seen", loss)
        return loss

    model.training_step = training_step
    settings = {"journal": False, "max_overhead": 1, "count": 3}
    monitors = [ScalingLawMonitor(**settings), ScalingLawMonitor("seen", **settings)]
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(pl, monitors, model, logger=logger, max_epochs=8, log_every_n_steps=1)
    with open(logger.experiment.metrics_file_path) as file:
        logged = set(csv.DictReader(file).fieldnames)
    assert {"scaling/loss", "scaling/tokens", "scaling/seen/loss", "scaling/seen/tokens"} <= logged
