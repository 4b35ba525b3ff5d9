"""Trainings that Lightning allows and that are not as they were planned: optimizers without a rate, ends that move."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.tracking import read_journal


@pytest.fixture
def monitor():
    return ScalingLawMonitor(journal=False, on_advice="ignore", max_overhead=1.0)


class Unrated(torch.optim.Optimizer):
    """Works its rate out by itself, as Adafactor does."""

    def __init__(self, parameters, **defaults):
        super().__init__(parameters, defaults)

    def step(self, closure=None):
        loss = None if closure is None else closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(0.01 * parameter.grad)
        return loss


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None")
@pytest.mark.parametrize(
    "made",
    [lambda model: Unrated(model.parameters()), lambda model: Unrated(model.parameters(), lr=None), lambda _: None],
)
def test_optimizers_without_a_rate_are_monitored(pl, module, fit, monitor, made):
    model = module(pl)
    model.configure_optimizers = lambda: made(model)
    fit(pl, monitor, model, max_epochs=4)
    assert monitor.run.loss.tolist() == [float(loss) for loss in model.true]
    assert monitor.run.lr is None
    assert monitor.run.total_steps == 24
    assert not monitor.run.plan.known


def test_the_epoch_that_recounts_batch_normalization_is_no_training(pl, module, fit, monitor):
    model = module(pl)
    model.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    averaging = pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    fit(pl, [monitor, averaging], model, batches=24, max_epochs=4)
    assert len(model.true) == 30
    assert monitor.counters["steps"] == 24
    assert monitor.counters["samples"] == 4 * 24
    assert monitor.run.total_steps == 24


@pytest.mark.parametrize("grows", [True, False])
def test_loaders_that_change_their_length(pl, module, fit, monitor, grows):
    model = module(pl)
    samples = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))

    def train_dataloader():
        epochs = model.trainer.current_epoch + 1 if grows else 4 - model.trainer.current_epoch
        return DataLoader(samples[: 16 * epochs], batch_size=4)

    model.train_dataloader = train_dataloader
    fit(pl, monitor, model, batches=None, max_epochs=4, reload_dataloaders_every_n_epochs=1)
    assert monitor.counters["steps"] == 40
    assert monitor.run.total_steps == 40


def test_epochs_that_a_callback_adds(pl, module, fit, monitor):
    class Longer(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.fit_loop.max_epochs = 6

    fit(pl, [monitor, Longer()], module(pl), max_epochs=3)
    assert monitor.run.total_steps == 36
    assert "step 36" in monitor.advice.reason


def test_a_scheduler_that_is_exchanged(pl, module, fit, monitor):
    class Exchange(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                (optimizer,) = trainer.optimizers
                optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = 0.02
                constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
                trainer.strategy.lr_scheduler_configs[0].scheduler = constant

    model = module(pl, schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 36))
    fit(pl, [monitor, Exchange()], model, max_epochs=6)
    assert monitor.run.plan.at([36]) == pytest.approx(0.02)
    assert "planned" not in monitor.advice.reason


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_another_batch_size_after_a_resume(pl, module, fit, monitor, loader, tmp_path):
    saving = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    fit(
        pl,
        [ScalingLawMonitor(journal=False, on_advice="ignore"), saving],
        module(pl),
        batches=loader(64, 4),
        max_epochs=4,
    )
    fit(pl, monitor, module(pl), batches=loader(64, 8), max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert monitor.counters["steps"] == 2 * 16 + 2 * 8
    assert monitor.run.total_steps == 48


def test_a_module_that_grows_is_counted_anew(pl, module, fit, monitor):
    class Grow(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                layer = torch.nn.Linear(2, 2)
                module.net.append(layer)
                trainer.optimizers[0].add_param_group({"params": layer.parameters()})

    model = module(pl)
    before = sum(one.numel() for one in model.parameters())
    fit(pl, [Grow(), monitor], model, max_epochs=3)
    assert monitor.run.params == before + 6


def test_batches_without_a_step_are_no_change_of_the_plan(pl, module, fit, tmp_path):
    """Each moves the end that the settings lead to; tests begun anew at every epoch would find little."""
    monitor = ScalingLawMonitor(journal=tmp_path, on_advice="ignore", max_overhead=1.0)
    fit(pl, monitor, module(pl, "skipping"), max_epochs=6)
    (journal,) = tmp_path.glob("*.jsonl")
    assert [mark["reason"] for mark in read_journal(journal).marks] == ["facts"]


def test_parameters_that_cannot_be_counted_are_reported_once(pl, module, fit, monitor, monkeypatch, recwarn, caplog):
    def count_params(module):
        raise RuntimeError("no")

    monkeypatch.setattr("lightning_scaling.callbacks.scaling_law_monitor.count_params", count_params)
    fit(pl, monitor, module(pl), max_epochs=4)
    said = [str(one.message) for one in recwarn] + [record.message for record in caplog.records]
    assert sum("could not be counted" in text for text in said) == 1
    assert monitor.run.total_steps == 24
