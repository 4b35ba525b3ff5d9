"""The plan against the rates that real Lightning runs use, step by step."""

from __future__ import annotations

import importlib
import importlib.util
import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_scaling.schedule.from_trainer import plan_from_trainer

L = importlib.import_module("lightning.pytorch" if importlib.util.find_spec("lightning") else "pytorch_lightning")
GradientAccumulationScheduler = L.callbacks.GradientAccumulationScheduler
ModelCheckpoint, StochasticWeightAveraging = L.callbacks.ModelCheckpoint, L.callbacks.StochasticWeightAveraging

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
    pytest.mark.filterwarnings("ignore:.*You're resuming from a checkpoint.*"),
    pytest.mark.filterwarnings("ignore:.*dirpath.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step.*"),
    pytest.mark.filterwarnings("ignore:.*OneCycleLR.*scheduler is using 'interval'.*"),
    pytest.mark.filterwarnings("ignore:.*SWA is currently only supported every epoch.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


class Warmup(lrs.LRScheduler):
    def get_lr(self):
        return [base * min(1.0, (self.last_epoch + 1) / 4) for base in self.base_lrs]


SCHEDULERS = {
    "lambda": lambda o: lrs.LambdaLR(o, lambda e: min(1.0, (e + 1) / 5) * math.exp(-e / 9)),
    "multiplicative": lambda o: lrs.MultiplicativeLR(o, lambda e: 0.9 if e % 2 else 0.8),
    "step": lambda o: lrs.StepLR(o, 2, 0.5),
    "multistep": lambda o: lrs.MultiStepLR(o, [1, 3, 3, 7], 0.5),
    "constant": lambda o: lrs.ConstantLR(o, 0.25, 3),
    "linear": lambda o: lrs.LinearLR(o, 0.1, 1.0, 6),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.8),
    "polynomial": lambda o: lrs.PolynomialLR(o, 9, 2.0),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 7, 0.01),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    "onecycle": lambda o: lrs.OneCycleLR(o, 1.0, total_steps=60),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.01, 0.5, 3, 4, mode="triangular2"),
    "swalr": lambda o: SWALR(o, 0.02, 5),
    "sequential": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, 1.0, 3), lrs.CosineAnnealingLR(o, 12), lrs.ConstantLR(o, 0.1, 100)], [3, 12]
    ),
    "chained": lambda o: lrs.ChainedScheduler([lrs.LinearLR(o, 0.1, 1.0, 4), lrs.ExponentialLR(o, 0.9)]),
    "user": Warmup,
}


class Module(L.LightningModule):
    def __init__(self, configure, manual=None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.configure = configure
        self.used = []
        self.manual = manual
        self.automatic_optimization = manual is None

    def training_step(self, batch, batch_idx):
        if self.manual is not None:
            self.manual(self, batch_idx)
            return None
        return self.layer(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer):
        self.used.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        return self.configure(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9))


class Planner(L.Callback):
    """Plans at the start of training and after every ``every`` batches, and checks that nothing live changes."""

    def __init__(self, every=5, step=lambda trainer: None):
        self.every, self.step = every, step
        self.plans = []

    def on_train_start(self, trainer, pl_module):
        self.plans.append((trainer.global_step, self.plan(trainer)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.fit_loop.total_batch_idx + 1) % self.every == 0:
            self.plans.append((trainer.global_step, self.plan(trainer)))

    def plan(self, trainer):
        def state():
            configs = trainer.lr_scheduler_configs
            return repr(
                (
                    [{k: v for k, v in c.scheduler.__dict__.items() if k != "optimizer"} for c in configs],
                    [{k: v for k, v in g.items() if k != "params"} for o in trainer.optimizers for g in o.param_groups],
                    torch.get_rng_state().sum(),
                    sorted(vars(trainer.fit_loop.epoch_loop.batch_progress.current).items()),
                )
            )

        before = state()
        plan = plan_from_trainer(trainer, step=self.step(trainer))
        assert state() == before
        return plan


def data(batches):
    return DataLoader(TensorDataset(torch.ones(batches, 2)), batch_size=1)


def fit(module, loader, *callbacks, ckpt_path=None, **options):
    planner = Planner()
    if callbacks and isinstance(callbacks[0], Planner):
        planner, *callbacks = callbacks
    options = {"max_epochs": 4, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[planner, *callbacks],
        **options,
    )
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return planner.plans, trainer


def assert_plans(plans, used, *, total=None, before=0):
    """Every plan gives the rates used after it was made, and before it where it says."""
    assert plans
    for made, plan in plans:
        assert plan.known, plan.why
        assert plan.total_steps == (len(used) + before if total is None else total)
        steps = np.arange(max(int(plan.steps[0]), before + 1), len(used) + before + 1)
        assert plan.steps[0] in (1, made + 1)
        np.testing.assert_allclose(plan.at(steps), np.array(used)[steps - 1 - before], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("batches", "accumulate"), [(5, 1), (9, 4)])
@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_plan_gives_the_rate_of_every_step(name, interval, frequency, batches, accumulate):
    module = Module(lambda o: ([o], [{"scheduler": SCHEDULERS[name](o), "interval": interval, "frequency": frequency}]))
    plans, trainer = fit(module, data(batches), accumulate_grad_batches=accumulate)
    assert trainer.global_step == len(module.used)
    assert_plans(plans, module.used)
    assert all(plan.steps[0] == 1 for _, plan in plans)


@pytest.mark.parametrize("limits", [{"max_epochs": 5}, {"max_epochs": -1, "max_steps": 17}])
@pytest.mark.parametrize("every", [3, 10])
@pytest.mark.parametrize("name", ["sequential", "restarts", "chained", "user"])
def test_a_resumed_run_has_the_plan_of_the_whole_run(name, every, limits, tmp_path):
    def configure(o):
        return [o], [
            {"scheduler": SCHEDULERS[name](o), "interval": "step"},
            {"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "epoch", "frequency": 2},
        ]

    if name in ("restarts", "user"):
        configure = lambda o: ([o], [{"scheduler": SCHEDULERS[name](o), "interval": "step", "frequency": 2}])  # noqa: E731
    whole = Module(configure)
    save = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    _, trainer = fit(whole, data(9), save, accumulate_grad_batches=2, **limits)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert checkpoints
    for checkpoint in checkpoints:
        step = int(checkpoint.stem.partition("=")[2])
        if step == trainer.global_step:
            continue
        resumed = Module(configure)
        plans, _ = fit(resumed, data(9), ckpt_path=checkpoint, accumulate_grad_batches=2, **limits)
        assert plans[0][0] == step
        np.testing.assert_allclose(resumed.used, whole.used[step:], rtol=1e-9)
        assert_plans(plans, whole.used)
        assert all(plan.steps[0] == 1 for _, plan in plans)


def test_resume_at_the_end_of_an_epoch(tmp_path):
    configure = lambda o: ([o], [{"scheduler": lrs.StepLR(o, 1, 0.5), "interval": "epoch", "frequency": 2}])  # noqa: E731
    whole = Module(configure)
    fit(whole, data(4), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}"), max_epochs=6)
    for epoch in range(5):
        resumed = Module(configure)
        plans, _ = fit(resumed, data(4), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", max_epochs=6)
        assert plans[0][0] == 4 * (epoch + 1)
        assert_plans(plans, whole.used)


def test_two_schedulers_of_one_optimizer_multiply():
    module = Module(
        lambda o: (
            [o],
            [
                {"scheduler": lrs.MultiStepLR(o, [1, 2], 0.5), "interval": "epoch"},
                {"scheduler": lrs.LinearLR(o, 0.1, 1.0, 8), "interval": "step"},
            ],
        )
    )
    plans, _ = fit(module, data(6))
    assert_plans(plans, module.used)


def test_accumulation_that_changes_with_the_epoch():
    module = Module(
        lambda o: (
            [o],
            [
                {"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "step", "frequency": 2},
                {"scheduler": lrs.StepLR(o, 1, 0.7), "interval": "epoch"},
            ],
        )
    )
    plans, _ = fit(module, data(7), GradientAccumulationScheduler({1: 2, 3: 4}), max_epochs=5)
    assert len(module.used) == 7 + 4 + 4 + 2 + 2
    assert_plans(plans, module.used)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_both_namespaces(package):
    pl = pytest.importorskip(package)

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.used = []

        def training_step(self, batch, batch_idx):
            self.used.append(self.optimizers().param_groups[0]["lr"])
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [{"scheduler": lrs.CosineAnnealingLR(optimizer, 20), "interval": "step"}]

    class Reader(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.plan = plan_from_trainer(trainer)

    reader, module = Reader(), Model()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, max_steps=8, enable_model_summary=False, callbacks=[reader], **options
    )
    trainer.fit(module, data(6))
    assert reader.plan.total_steps == 8
    np.testing.assert_allclose(reader.plan.at(np.arange(1, 9)), module.used)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"max_epochs": 3}, 9),
        ({"max_epochs": 3, "max_steps": 5}, 5),
        ({"max_epochs": 1, "max_steps": 50}, 3),
        ({"max_epochs": None, "max_steps": 7}, 7),
        ({"max_epochs": 3, "limit_train_batches": 3}, 6),
        ({"max_epochs": 3, "overfit_batches": 4}, 6),
    ],
)
def test_the_horizon_is_the_tighter_of_steps_and_epochs(options, total):
    module = Module(lambda o: o)
    plans, trainer = fit(module, data(5), accumulate_grad_batches=2, **options)
    assert trainer.global_step == total
    assert {plan.total_steps for _, plan in plans} == {total}
    assert {plan.why for _, plan in plans} == {""}


def stop_after(batches):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 >= batches

    return Stop()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([torch.ones(2)] * 12)


@pytest.mark.parametrize(
    ("loader", "options", "total", "why"),
    [
        (data(12), {"max_epochs": -1}, None, "neither max_steps nor max_epochs"),
        (DataLoader(Stream()), {"max_epochs": 4}, None, "has no length"),
        (DataLoader(Stream()), {"max_epochs": 4, "max_steps": 9}, 9, ""),
        (data(12), {"max_epochs": -1, "max_time": {"hours": 1}}, None, "max_time"),
        (data(12), {"max_epochs": -1, "max_steps": 9, "max_time": {"hours": 1}}, 9, "max_time"),
    ],
)
def test_a_run_without_a_known_end_says_so(loader, options, total, why):
    module = Module(lambda o: ([o], [{"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "step"}]))
    module.training_step = lambda batch, batch_idx: module.layer(torch.ones(2)).sum()
    plans, _ = fit(module, loader, stop_after(6), **options)
    for _, plan in plans:
        assert plan.known
        assert plan.total_steps == total
        assert why in plan.why
        assert bool(plan.why) == bool(why)
        np.testing.assert_allclose(plan.at(np.arange(1, 7)), module.used)


def test_a_scheduler_stepped_by_epochs_of_unknown_length_is_unknown():
    module = Module(lambda o: ([o], [{"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "epoch"}]))
    module.training_step = lambda batch, batch_idx: module.layer(torch.ones(2)).sum()
    plans, _ = fit(module, DataLoader(Stream()), max_steps=20, max_epochs=-1)
    assert not plans[0][1].known
    assert "steps an epoch has is unknown" in plans[0][1].why


def test_a_rate_that_waits_for_a_metric_is_unknown():
    def configure(o):
        return [o], [
            {"scheduler": lrs.LinearLR(o, 0.1, 1.0, 8), "interval": "step"},
            {"scheduler": lrs.ReduceLROnPlateau(o), "monitor": "loss"},
        ]

    module = Module(configure)
    module.on_train_epoch_end = lambda: module.log("loss", 1.0)
    plans, _ = fit(module, data(6), max_epochs=2)
    plan = plans[0][1]
    assert not plan.known
    assert "ReduceLROnPlateau" in plan.why
    assert "'loss'" in plan.why
    np.testing.assert_allclose(plan.at(np.arange(1, 13)), module.used)


def test_without_a_scheduler_the_rate_is_constant_and_known():
    plans, _ = fit(Module(lambda o: o), data(5))
    assert all(plan.known and plan.source == "constant" and plan.peak == 0.1 for _, plan in plans)


def test_a_module_that_steps_its_schedulers_by_epoch_number():
    class Own(Module):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step(epoch=self.current_epoch + 1)

    module = Own(lambda o: ([o], [{"scheduler": lrs.CosineAnnealingLR(o, 6), "interval": "epoch"}]))
    plans, _ = fit(module, data(3))
    for made, plan in plans:
        assert plan.known
        np.testing.assert_allclose(plan.at(np.arange(made + 1, 13)), module.used[made:])


class OddScheduler:
    """Not a torch scheduler: sets rates by the number of updates it is told."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step_update(self, updates):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 / (1 + updates)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_scheduler_of_another_library():
    class Own(Module):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step_update(self.global_step)

    module = Own(lambda o: ([o], [{"scheduler": OddScheduler(o), "interval": "step"}]))
    plans, _ = fit(module, data(4))
    for made, plan in plans:
        assert plan.known
        np.testing.assert_allclose(plan.at(np.arange(made + 1, 17)), module.used[made:])


def test_a_module_whose_stepping_cannot_be_foreseen():
    class Own(Module):
        def lr_scheduler_step(self, scheduler, metric):
            if self.layer.weight.sum() < 1e9:
                scheduler.step()

    module = Own(lambda o: ([o], [{"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "step"}]))
    plans, _ = fit(module, data(4))
    assert not plans[0][1].known
    assert "lr_scheduler_step asks for 'layer'" in plans[0][1].why


def test_weight_averaging_takes_over_the_rate():
    module = Module(lambda o: ([o], [{"scheduler": lrs.ExponentialLR(o, 0.9), "interval": "epoch"}]))
    plans, _ = fit(
        module, data(3), StochasticWeightAveraging(0.02, swa_epoch_start=3, annealing_epochs=2), max_epochs=6
    )
    first = plans[0][1]
    assert not first.known
    assert "after step 6" in first.why
    np.testing.assert_allclose(first.at(np.arange(1, 7)), module.used[:6])
    made, late = plans[-1]
    assert late.known
    np.testing.assert_allclose(late.at(np.arange(made + 1, 19)), module.used[made:])


def manual(step_scheduler, optimizers=1):
    def training_step(module, batch_idx):
        found = module.optimizers()
        found = found if isinstance(found, list) else [found]
        assert len(found) == optimizers
        module.used.append(found[0].param_groups[0]["lr"])
        for optimizer in found:
            optimizer.zero_grad()
            module.manual_backward(module.layer(torch.ones(2)).sum())
            optimizer.step()
        step_scheduler(module, batch_idx)

    return training_step


class ManualModule(Module):
    def on_before_optimizer_step(self, optimizer):
        pass


@pytest.mark.parametrize("optimizers", [1, 2])
def test_manual_optimization_shows_its_cadence_after_a_step(optimizers):
    def configure(o):
        others = [torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=9.0) for _ in range(optimizers - 1)]
        return [o, *others], [lrs.CosineAnnealingLR(p, 16) for p in [o, *others]]

    def step_all(module, batch_idx):
        found = module.lr_schedulers()
        for scheduler in found if isinstance(found, list) else [found]:
            scheduler.step()

    module = ManualModule(configure, manual(step_all, optimizers))
    batches = lambda trainer: trainer.fit_loop.total_batch_idx + 1  # noqa: E731
    planner = Planner(every=3, step=batches)
    plans, trainer = fit(module, data(8), planner, max_epochs=4, max_steps=11 * optimizers)
    assert trainer.global_step == 11 * optimizers
    assert len(module.used) == 11
    assert {plan.total_steps for _, plan in plans} == {11}
    assert not plans[0][1].known
    assert "The module steps CosineAnnealingLR itself" in plans[0][1].why
    for _, plan in plans[1:]:
        assert plan.known
        np.testing.assert_allclose(plan.at(np.arange(1, 12)), module.used)


def test_manual_optimization_by_the_epoch():
    def step_last(module, batch_idx):
        if batch_idx == 2:
            module.lr_schedulers().step()

    module = ManualModule(lambda o: ([o], [lrs.ExponentialLR(o, 0.5)]), manual(step_last))
    plans, _ = fit(module, data(3), Planner(every=1), max_epochs=5)
    assert not plans[2][1].known
    _, plan = plans[4]
    assert plan.known
    assert plan.total_steps == 15
    np.testing.assert_allclose(plan.at(np.arange(1, 16)), module.used)


def test_the_plan_can_be_read_from_any_later_hook():
    seen = []

    class Reader(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(plan_from_trainer(trainer))

        def on_validation_end(self, trainer, pl_module):
            seen.append(plan_from_trainer(trainer))

        def on_train_end(self, trainer, pl_module):
            seen.append(plan_from_trainer(trainer))

    class Validated(Module):
        def validation_step(self, batch, batch_idx):
            pass

    module = Validated(lambda o: ([o], [{"scheduler": lrs.ExponentialLR(o, 0.5), "interval": "epoch", "frequency": 2}]))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=5,
        num_sanity_val_steps=0,
        val_check_interval=0.5,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Reader()],
    )
    trainer.fit(module, data(6), data(1))
    assert len(seen) > 15
    for plan in seen:
        assert plan.total_steps == 15
        np.testing.assert_allclose(plan.at(np.arange(1, 16)), module.used)
