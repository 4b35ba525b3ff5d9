"""Following a logged metric by name, whatever it is logged on."""

import numpy as np
import pytest
import torch

from lightning_scaling.callbacks import ScalingLawMonitor


def observe(name, **settings):
    return ScalingLawMonitor(name, journal=False, max_overhead=1, **settings)


@pytest.fixture
def validated(module):
    """A module that logs the number of its validation, as it is asked to."""

    def make(pl, **how):
        class Model(type(module(pl))):
            validations = 0

            def validation_step(self, batch, batch_idx):
                value = torch.tensor(10.0 - self.validations)
                self.log("val_loss", value, **how)

            def on_validation_epoch_end(self):
                self.validations += not self.trainer.sanity_checking

            def val_dataloader(self):
                return torch.utils.data.DataLoader(torch.zeros(4, 4), batch_size=2)

        return Model()

    return make


def test_a_metric_of_every_step(both, module, fit):
    def log(model, batch, batch_idx):
        model.log("double", model.true[-1] * 2)

    monitor, model = observe("double"), module(both, log=log)
    fit(both, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, [2 * float(loss) for loss in model.true])


def test_an_accuracy_is_followed_upwards_and_said_so(pl, module, fit, caplog):
    def log(model, batch, batch_idx):
        model.log("train_acc", 1 - 1 / (2 + model.global_step))

    monitor, model = observe("train_acc", on_advice=None), module(pl, log=log)
    fit(pl, monitor, model, max_epochs=10)
    assert "`train_acc`: higher is better, between 0 and 1" in caplog.text
    assert monitor.run.meta["mode"] == "max"
    assert 0.9 < monitor.forecast.final <= 1
    assert monitor.forecast.interval(0.999)[1] <= 1


@pytest.mark.parametrize(("settings", "said"), [({"mode": "up"}, "`mode`"), ({"bounds": (1, 0)}, "`bounds`")])
def test_wrong_words_about_the_metric_are_told_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        ScalingLawMonitor("val_acc", **settings)


def test_of_steps_and_epochs_under_one_name_the_steps_count(pl, module, fit):
    def log(model, batch, batch_idx):
        model.log("both", model.true[-1], on_step=True, on_epoch=True)

    monitor, model = observe("both"), module(pl, log=log)
    fit(pl, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, [float(loss) for loss in model.true])


def test_a_metric_logged_now_and_then_counts_where_it_was_logged(pl, module, fit):
    def log(model, batch, batch_idx):
        if batch_idx % 3 == 1:
            model.log("seldom", model.true[-1], on_step=True, on_epoch=True)

    monitor, model = observe("seldom"), module(pl, log=log)
    fit(pl, monitor, model)
    assert monitor.run.step.tolist() == [2, 5, 8, 11]
    np.testing.assert_array_equal(monitor.run.loss, [float(model.true[step - 1]) for step in (2, 5, 8, 11)])


def test_a_metric_of_whole_epochs(pl, module, fit):
    def log(model, batch, batch_idx):
        model.log("train", model.true[-1], on_step=False, on_epoch=True, batch_size=1)

    monitor, model = observe("train"), module(pl, log=log)
    fit(pl, monitor, model, max_epochs=3)
    assert monitor.run.step.tolist() == [6, 12, 18]
    epochs = np.array([float(loss) for loss in model.true]).reshape(3, 6).mean(1)
    np.testing.assert_allclose(monitor.run.loss, epochs, rtol=1e-6)


def test_a_metric_that_the_module_logs_at_the_very_end_of_an_epoch(pl, module, fit):
    model = module(pl)
    model.on_train_epoch_end = lambda: model.log("late", torch.tensor(float(model.current_epoch)))
    monitor = observe("late")
    fit(pl, monitor, model, max_epochs=3)
    assert monitor.run.step.tolist() == [6, 12, 18]
    assert monitor.run.loss.tolist() == [0, 1, 2]


def test_validation(both, validated, fit):
    monitor = observe("val_loss")
    fit(both, monitor, validated(both), max_epochs=3, num_sanity_val_steps=2)
    assert monitor.run.step.tolist() == [6, 12, 18]
    assert monitor.run.loss.tolist() == [10, 9, 8]
    assert monitor.counters["samples"] == 66


def test_validation_in_the_middle_of_epochs(pl, validated, fit):
    monitor = observe("val_loss")
    fit(pl, monitor, validated(pl), val_check_interval=2, batches=24)
    assert monitor.run.step.tolist() == [2, 4, 6, 8, 10, 12]
    assert monitor.run.loss.tolist() == [10, 9, 8, 7, 6, 5]


def test_validation_outside_of_training_is_not_part_of_the_run(pl, validated, trainer, loader):
    monitor, model = observe("val_loss"), validated(pl)
    made = trainer(pl, monitor)
    made.validate(model, verbose=False)
    assert monitor.run is None
    made.fit(model, loader())
    made.validate(model, verbose=False)
    assert len(monitor.run) == 2


def test_a_name_that_is_never_logged_is_told_once_with_those_that_are(pl, validated, fit):
    monitor = observe("val_los")
    with pytest.warns(UserWarning, match=r"`val_los`.*available: val_loss") as reported:
        fit(pl, monitor, validated(pl), max_epochs=3)
    assert sum("val_los`" in str(one.message) for one in reported) == 1
    assert monitor.run is None
    assert monitor.counters["samples"] == 66


def test_a_metric_of_validations_that_are_still_to_come_is_waited_for(pl, validated, fit):
    monitor = observe("val_loss")
    fit(pl, monitor, validated(pl), max_epochs=4, check_val_every_n_epoch=3)
    assert monitor.run.step.tolist() == [18]


def test_no_loss_at_all_is_told_once(pl, module, fit):
    monitor = ScalingLawMonitor(journal=False)
    with pytest.warns(UserWarning, match="No loss has been seen.*monitor=") as reported:
        fit(pl, monitor, module(pl, "manual_silent"))
    assert sum("No loss" in str(one.message) for one in reported) == 1
    assert monitor.counters["skipped"] == 12


def test_a_loss_that_is_not_one_number_is_told_and_training_goes_on(pl, module, fit):
    model = module(pl, "manual")
    step = model.training_step
    model.training_step = lambda batch, batch_idx: step(batch, batch_idx).expand(3)
    with pytest.warns(UserWarning, match=r"single number, but it has shape \(3,\).*training continues") as reported:
        assert fit(pl, ScalingLawMonitor(journal=False), model).global_step == 12
    assert sum("single number" in str(one.message) for one in reported) == 1


def test_two_monitors_of_different_metrics(pl, validated, fit):
    loss, validation = ScalingLawMonitor(journal=False, max_overhead=1), observe("val_loss")
    fit(pl, [loss, validation], validated(pl))
    assert len(loss.run) == 12
    assert validation.run.step.tolist() == [6, 12]
