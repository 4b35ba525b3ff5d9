"""Measuring inside real Trainers: the number is right and the training is the same to the last bit."""

import importlib
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_scaling.compute import FlopMeter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
HOWS = ("nothing", "measure", "watch")


def namespace(name):
    logging.getLogger(name).setLevel(logging.ERROR)
    return importlib.import_module(name)


def fit(pl, make, data, how, **options):
    """Train, measuring every new batch shape; give back the meter, FLOPs of each batch, the module and its numbers."""
    meter, flops = FlopMeter(), []

    class Measuring(pl.Callback):
        watch = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if meter.per_batch(batch) is None and how == "measure":
                meter.measure(pl_module, batch, batch_idx)
            if meter.per_batch(batch) is None and how == "watch":
                self.watch = meter.watch(pl_module, batch)
                self.watch.begin()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if self.watch is not None:
                self.watch.end()
            flops.append(meter.per_batch(batch))

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    module = make()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[Measuring()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False} | options,
    )
    trainer.fit(module, DataLoader(data, batch_size=6))
    numbers = {name: value.clone() for name, value in module.state_dict().items()}
    numbers["next random"] = torch.tensor([torch.rand(1).item(), random.random(), np.random.rand()])
    return meter, flops, module, numbers, trainer


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def classifier(pl):
    from torchmetrics.classification import MulticlassAccuracy

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 3)
            )
            self.accuracy, self.seen, self.table = MulticlassAccuracy(3), [], {"steps": 0}
            self.noise, self.calls = torch.Generator().manual_seed(1), 0

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.calls += 1
            self.table["steps"] += 1
            x = x + torch.randn(x.shape, generator=self.noise) + random.random() + np.random.rand()
            logits = self.net(x)
            loss = F.cross_entropy(logits, y) * (1 + self.trainer.global_step / self.trainer.max_epochs)
            self.seen.append(loss.item())
            self.accuracy(logits, y)
            self.log("loss", loss, prog_bar=True)
            self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
            if self.logger is not None:
                self.logger.log_metrics({"mine": loss.item()})
            print("a step")
            return {"loss": loss, "logits": logits}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Classifier


IMAGES = TensorDataset(torch.linspace(-1, 1, 14 * 36).view(14, 1, 6, 6), torch.arange(14) % 3)


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_automatic_optimization_is_untouched(name, capsys, tmp_path):
    pl = namespace(name)
    runs = {}
    for how in HOWS if name == "lightning.pytorch" else HOWS[1:]:
        logger = importlib.import_module(f"{name}.loggers").CSVLogger(tmp_path, name=how)
        runs[how] = fit(pl, classifier(pl), IMAGES, how, logger=logger, log_every_n_steps=1)
        assert capsys.readouterr().out.count("a step") == 3
    convolution, linear = 2 * 9 * 4 * 16, 2 * 64 * 3
    per_sample = 2 * convolution + 3 * linear
    reference = next(iter(runs.values()))
    for how, (meter, flops, module, numbers, trainer) in runs.items():
        assert same(numbers, reference[3]), how
        assert (module.calls, module.table, len(module.seen)) == (3, {"steps": 3}, 3)
        assert trainer.callback_metrics["accuracy"] == reference[4].callback_metrics["accuracy"]
        rows = (tmp_path / how / "version_0" / "metrics.csv").read_text()
        assert rows == (tmp_path / next(iter(runs)) / "version_0" / "metrics.csv").read_text()
        if how != "nothing":
            assert flops == [6 * per_sample, 6 * per_sample, 2 * per_sample]
            assert meter.provenance == "counter"


def adversaries(pl):
    class Adversaries(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.maker = nn.Linear(4, 36)
            self.judge = nn.Sequential(nn.Linear(36, 8), nn.Dropout(0.1), nn.Linear(8, 1))

        def training_step(self, batch, batch_idx):
            real = batch[0].flatten(1)
            for_maker, for_judge = self.optimizers()
            schedule, _ = self.lr_schedulers()
            noise = torch.randn(len(real), 4)
            self.toggle_optimizer(for_maker)
            loss = -self.judge(self.maker(noise)).mean()
            for_maker.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(for_maker, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            for_maker.step()
            self.untoggle_optimizer(for_maker)

            def closure():
                total = F.softplus(self.judge(self.maker(noise).detach())).mean() + F.softplus(-self.judge(real)).mean()
                for_judge.zero_grad()
                self.manual_backward(total)
                return total

            with for_judge.toggle_model():
                for_judge.step(closure)
            schedule.step()
            for group in for_judge.param_groups:
                group["lr"] *= 0.99
            self.log("loss", loss)

        def configure_optimizers(self):
            both = [torch.optim.Adam(self.maker.parameters(), 1e-3), torch.optim.Adam(self.judge.parameters(), 1e-3)]
            return both, [torch.optim.lr_scheduler.StepLR(one, 1) for one in both]

    return Adversaries


def test_manual_optimization_with_two_optimizers():
    pl = namespace("lightning.pytorch")
    runs = {how: fit(pl, adversaries(pl), IMAGES, how) for how in HOWS}
    maker, first, second = 2 * 4 * 36, 2 * 36 * 8, 2 * 8
    for_maker = 2 * maker + 2 * (first + second)  # the judge's weights are frozen, the noise needs no gradient
    for_judge = maker + 2 * (2 * first + 3 * second)
    for how, (meter, flops, _, numbers, trainer) in runs.items():
        assert same(numbers, runs["nothing"][3]), how
        assert trainer.global_step == 6
        if how != "nothing":
            # The rehearsed step is toggled like the real one, so the maker's pass through the judge is no dearer.
            assert flops == [rows * (for_maker + for_judge) for rows in (6, 6, 2)]
            assert meter.provenance == "counter"


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision):
    pl = namespace("lightning.pytorch")

    class Dense(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(36, 3)

        def training_step(self, batch):
            return F.cross_entropy(self.net(batch[0].flatten(1)) * torch.ones(3), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    for how in ("measure", "watch"):
        meter, flops, *_ = fit(pl, Dense, IMAGES, how, precision=precision)
        assert flops == [rows * 4 * 36 * 3 for rows in (6, 6, 2)]
        assert meter.provenance == "counter", meter.describe()


def test_steps_that_cannot_run_on_a_copy_fall_back_and_train_on():
    pl = namespace("lightning.pytorch")

    class Iterating(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.stream = nn.Linear(36, 3), (n for n in range(100))

        def training_step(self, batch, batch_idx):
            next(self.stream)
            return F.cross_entropy(self.net(batch[0].flatten(1)), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    meter, flops, module, *_ = fit(pl, Iterating, IMAGES, "measure")
    assert flops == [rows * 6 * 111 for rows in (6, 6, 2)]
    assert meter.provenance == "6ND"
    assert "Not counted: cannot pickle 'generator' object." in meter.note
    assert next(module.stream) == 3
    meter, flops, *_ = fit(pl, Iterating, IMAGES, "watch")
    assert flops == [rows * 4 * 108 for rows in (6, 6, 2)]
    assert meter.provenance == "counter"


def test_talk_between_ranks_is_not_rehearsed():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:

        class Talking(nn.Linear):
            def forward(self, x):
                y = super().forward(x)
                torch.distributed.all_reduce(y.detach())
                return y

        meter = FlopMeter()
        assert meter.measure(Talking(4, 4), torch.ones(2, 4)) == 6 * 20 * 2
        assert "talks to other ranks" in meter.note
    finally:
        torch.distributed.destroy_process_group()


def test_gathering_pretends_to_have_all_ranks():
    pl = namespace("lightning.pytorch")

    class Contrastive(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(36, 3)

        def training_step(self, batch, batch_idx):
            ours = self.net(batch[0].flatten(1))
            return (ours @ self.all_gather(ours).flatten(0, -2).T).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    _, flops, *_ = fit(pl, Contrastive, IMAGES, "measure")
    assert flops == [rows * (4 * 108 + 4 * 3 * rows) for rows in (6, 6, 2)]
