"""A run that was interrupted and resumed counts as the uninterrupted one does."""

import warnings

import numpy as np
import pytest
import torch

from lightning_scaling import Run
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.tracking import read_journal

PER_BATCH = 10**18
BUILTINS = {int, float, str, bool, list, dict, tuple, type(None)}

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


def observe(**settings):
    settings = {"journal": False, "max_overhead": 1, "flops": PER_BATCH, "count": 5, **settings}
    return ScalingLawMonitor(**settings)


def saving(pl, tmp_path, **when):
    return pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)


def totals(monitor):
    return {name: value for name, value in monitor.counters.items() if name != "seconds"}


def types_in(value):
    yield type(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield type(key)
            yield from types_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from types_in(item)


def state_of(path):
    (state,) = (
        state
        for key, state in torch.load(path, weights_only=True)["callbacks"].items()
        if key.startswith("ScalingLawMonitor")
    )
    return state


@pytest.mark.parametrize("accumulate", [1, 4])
def test_at_the_end_of_an_epoch(both, module, fit, tmp_path, accumulate):
    whole = observe()
    fit(both, [whole, saving(both, tmp_path, every_n_epochs=1)], module(both), accumulate_grad_batches=accumulate)
    per_epoch = 6 if accumulate == 1 else 2
    again = observe()
    fit(
        both,
        again,
        module(both),
        ckpt_path=tmp_path / f"step={per_epoch}.ckpt",
        accumulate_grad_batches=accumulate,
    )
    assert totals(again) == totals(whole)
    assert again.counters["samples"] == 44
    assert again.run.step.tolist() == whole.run.step.tolist()
    np.testing.assert_array_equal(again.run.loss[:per_epoch], whole.run.loss[:per_epoch])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_the_middle_of_an_epoch(both, module, fit, tmp_path, accumulate):
    whole = observe()
    keep = saving(both, tmp_path, every_n_train_steps=2)
    fit(both, [whole, keep], module(both), batches=24, accumulate_grad_batches=accumulate)
    again = observe()
    resumed = fit(
        both,
        again,
        module(both),
        batches=24,
        ckpt_path=tmp_path / "step=2.ckpt",
        accumulate_grad_batches=accumulate,
    )
    assert totals(again) == totals(whole)
    assert again.counters["steps"] == resumed.global_step
    assert again.run.step.tolist() == whole.run.step.tolist()


def test_within_a_group_of_accumulated_batches(pl, module, fit, tmp_path):
    path = tmp_path / "within.ckpt"

    class SaveOnce(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.fit_loop.total_batch_idx == 1:
                trainer.save_checkpoint(path)

    first, model = observe(), module(pl)
    fit(pl, [first, SaveOnce()], model, batches=24, accumulate_grad_batches=4, max_epochs=1)
    before = [float(loss) for loss in model.true[:2]]
    again, model = observe(), module(pl)
    fit(pl, again, model, batches=24, accumulate_grad_batches=4, max_epochs=1, ckpt_path=path)
    assert totals(again) == totals(first)
    after = [float(loss) for loss in model.true[:2]]
    assert again.run.loss[0] == np.mean(before + after)


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_manual_optimization_with_two_optimizers(pl, module, fit, tmp_path):
    whole = observe()
    keep = saving(pl, tmp_path, every_n_train_steps=8)
    fit(pl, [whole, keep], module(pl, "manual_two", optimizers=2), batches=24)
    again = observe()
    model = module(pl, "manual_two", optimizers=2)
    fit(pl, again, model, batches=24, ckpt_path=tmp_path / "step=8.ckpt")
    assert totals(again) == totals(whole)
    assert (again.counters["steps"], again.counters["optimizer_steps"]) == (12, 24)


def test_the_state_is_small_plain_and_complete(pl, module, fit, tmp_path):
    monitor = observe(journal=tmp_path / "journals")
    fit(pl, [monitor, saving(pl, tmp_path, every_n_train_steps=7)], module(pl))
    state = state_of(tmp_path / "step=7.ckpt")
    assert set(types_in(state)) <= BUILTINS
    assert isinstance(state["version"], int)
    assert state["capture"]["steps"] == 7
    assert state["capture"]["samples"] == 22 + 4
    assert len(repr(state)) < 200_000


def test_time_goes_on_from_where_it_was(pl, module, fit, tmp_path):
    first = observe()
    fit(pl, [first, saving(pl, tmp_path, every_n_epochs=1)], module(pl))
    before = state_of(tmp_path / "step=6.ckpt")["capture"]["seconds"]
    again = observe()
    fit(pl, again, module(pl), ckpt_path=tmp_path / "step=6.ckpt")
    assert 0 < before < again.counters["seconds"]


def test_the_journal_goes_on_in_the_same_file_and_says_so(pl, module, fit, tmp_path):
    folder = tmp_path / "journals"
    fit(pl, [observe(journal=folder), saving(pl, tmp_path, every_n_epochs=1)], module(pl))
    fit(pl, observe(journal=folder), module(pl), ckpt_path=tmp_path / "step=6.ckpt")
    (path,) = folder.glob("*.jsonl")
    contents = read_journal(path)
    assert len(contents.segments) == 2
    assert '"resumed at step 6"' in path.read_text()


def test_a_checkpoint_from_before_the_callback_was_added(pl, module, fit, tmp_path):
    fit(pl, saving(pl, tmp_path, every_n_epochs=1), module(pl))
    late = observe()
    fit(pl, late, module(pl), ckpt_path=tmp_path / "step=6.ckpt")
    assert late.run.step.tolist() == list(range(7, 13))
    assert late.counters["samples"] == 22


def test_state_of_a_later_version_turns_monitoring_off_and_nothing_else(pl, module, fit, tmp_path):
    fit(pl, [observe(), saving(pl, tmp_path, every_n_epochs=1)], module(pl))
    path = tmp_path / "step=6.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for key, state in checkpoint["callbacks"].items():
        if key.startswith("ScalingLawMonitor"):
            state["capture"]["version"] = 99
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match=r"version 99.*Monitoring is off; training continues"):
        assert fit(pl, observe(), module(pl), ckpt_path=path).global_step == 12


def test_fitting_on_with_the_same_trainer(pl, module, loader, trainer):
    monitor, model = observe(), module(pl)
    fitted = trainer(pl, monitor, max_epochs=1)
    fitted.fit(model, loader())
    fitted.fit_loop.max_epochs = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(model, loader())
    assert monitor.counters["steps"] == fitted.global_step == 12
    assert monitor.run.step.tolist() == list(range(1, 13))


def test_a_new_trainer_begins_a_new_run(pl, module, fit):
    monitor = observe()
    fit(pl, monitor, module(pl))
    fit(pl, monitor, module(pl), max_epochs=1)
    assert monitor.counters["steps"] == 6
    assert len(monitor.run) == 6


def test_what_is_known_of_a_finished_run_survives_its_resume(pl, module, fit, tmp_path):
    saving = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    first = ScalingLawMonitor(max_overhead=1.0)
    fit(pl, [first, saving], module(pl), max_epochs=8)
    again = ScalingLawMonitor(max_overhead=1.0)
    fit(pl, again, module(pl), max_epochs=8, ckpt_path=tmp_path / "last.ckpt")
    assert again.forecast.final == first.forecast.final
    assert again.advice.action == first.advice.action
    np.testing.assert_array_equal(again.run.loss, first.run.loss)
    assert again.run.total_steps == first.run.total_steps


def test_a_resume_from_an_emergency_checkpoint_goes_on_in_the_journal(pl, module, fit, tmp_path):
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 40:
                raise ValueError("enough")

    class EmergencyCheckpoint(pl.callbacks.Checkpoint):
        def on_exception(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "emergency.ckpt")

    def observe():
        return ScalingLawMonitor(max_overhead=1.0, journal=tmp_path / "journals")

    broken = observe()
    with pytest.raises(ValueError, match="enough"):
        fit(pl, [broken, Break(), EmergencyCheckpoint()], module(pl), max_epochs=10)
    again = observe()
    fit(pl, again, module(pl), max_epochs=10, ckpt_path=tmp_path / "emergency.ckpt")
    (journal,) = (tmp_path / "journals").glob("*.jsonl")
    run = Run.from_journal(journal)
    assert run.gaps == ()
    assert run.step[:40].tolist() == broken.run.step.tolist() == list(range(1, 41))
    made = [[(row["step"], row["final"]) for row in one.forecast_log] for one in (broken, again)]
    assert made[1][: len(made[0])] == made[0]
