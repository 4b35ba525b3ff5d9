"""Norms of gradients and the gradient-noise scale of real training, where both are known."""

import json
import math

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_scaling import Run, replay
from lightning_scaling.callbacks import ScalingLawMonitor, gradients
from lightning_scaling.tracking import read_journal

DIMENSIONS, BATCH = 40, 4
DISTANCE = 2.0
NOISE_SCALE = DIMENSIONS / DISTANCE
"""Trace of the covariance of ``w - x`` over the square of its mean, for ``x`` of unit variance."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


@pytest.fixture
def often(monkeypatch):
    """Sample more often, so that short runs will do."""
    monkeypatch.setattr(gradients, "_EVERY", 4)


@pytest.fixture
def mean(pl):
    """Estimation of a mean, from so far away that the gradient stays as it is."""

    class Mean(pl.LightningModule):
        def __init__(self, rate=1e-6):
            super().__init__()
            self.w = torch.nn.Parameter(torch.full((DIMENSIONS,), math.sqrt(DISTANCE / DIMENSIONS)))
            self.rate = rate

        def training_step(self, batch, batch_idx):
            return (self.w - batch).square().sum(1).mean() / 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.rate)

    return Mean


def samples(count, seed=0):
    return DataLoader(torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed)), BATCH)


def observe(journal=False, **settings):
    return ScalingLawMonitor(journal=journal, max_overhead=1, history=False, on_advice=None, **settings)


def seen(monitor):
    return monitor.state_dict()["gradients"]


def noise_of(monitor):
    facts = monitor.state_dict()["engine"]["context"]["facts"]
    return [facts.get(name) for name in ("batch", "noise_scale", "noise_low", "noise_high")]


@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulated_batches_show_the_noise_scale(pl, mean, fit, often, accumulate):
    monitor = observe()
    fit(
        pl, monitor, mean(), batches=samples(240 * accumulate * BATCH), accumulate_grad_batches=accumulate, max_epochs=1
    )
    batch, scale, low, high = noise_of(monitor)
    assert batch == accumulate * BATCH
    assert low <= NOISE_SCALE <= high
    assert scale == pytest.approx(NOISE_SCALE, rel=0.35)
    assert seen(monitor)["noise"]["count"] >= 55


def test_tokens_are_the_unit_where_they_are_counted(pl, mean, fit, often):
    monitor = observe(count=100)
    fit(pl, monitor, mean(), batches=samples(240 * 4 * BATCH), accumulate_grad_batches=4, max_epochs=1)
    batch, _, low, high = noise_of(monitor)
    assert batch == 4 * BATCH * 100
    assert low <= NOISE_SCALE * 100 <= high


@pytest.mark.parametrize("kind", ["plain", "clipped", "summed", "half"])
def test_the_norm_is_that_of_the_gradient_before_clipping(pl, mean, fit, monkeypatch, kind):
    monkeypatch.setattr(gradients, "_EVERY", 5)  # one at most between two flushes
    true = {}

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            true[trainer.global_step + 1] = float(module.w.grad.norm())

    settings = {
        "plain": {},
        "clipped": {"gradient_clip_val": 0.01},
        "summed": {"accumulate_grad_batches": 3},
        "half": {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu")]},
    }[kind]
    monitor = observe()
    fit(pl, [Look(), monitor], mean(rate=1e-3), batches=samples(BATCH * 150), max_epochs=1, **settings)
    assert any(value == pytest.approx(seen(monitor)["norm"], rel=1e-3) for value in true.values())


def test_half_precision_with_a_scaled_loss_gives_the_same_noise(pl, mean, fit, often):
    found = []
    for plugins in ([], [pl.plugins.MixedPrecision("16-mixed", "cpu")]):
        monitor = observe()
        data = samples(120 * 4 * BATCH)
        fit(pl, monitor, mean(), batches=data, accumulate_grad_batches=4, max_epochs=1, plugins=plugins)
        found.append(noise_of(monitor))
    assert found[0] == pytest.approx(found[1], rel=1e-2)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_run_is_the_same_with_and_without(pl, module, fit, monkeypatch, random_state, accumulate):
    monkeypatch.setattr(gradients, "_EVERY", 2)
    ends = []
    for monitor in (None, observe()):
        model = module(pl, lr=0.1)
        settings = {"max_epochs": 10, "accumulate_grad_batches": accumulate, "gradient_clip_val": 0.5}
        fit(pl, [] if monitor is None else monitor, model, batches=24, **settings)
        ends.append(([parameter.tolist() for parameter in model.parameters()], random_state()))
    assert seen(monitor)["norm"] is not None
    assert (seen(monitor)["noise"]["count"] > 5) == (accumulate > 1)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("case", [("manual", 1), ("manual_two", 2)])
def test_nothing_is_read_where_it_would_mean_nothing(pl, module, fit, often, case):
    kind, optimizers = case
    monitor = observe()
    fit(pl, monitor, module(pl, kind, optimizers=optimizers))
    assert monitor.counters["steps"] == 12
    assert seen(monitor)["norm"] is None


def test_sparse_gradients_are_left_alone(pl, fit, often):
    class Table(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(10, 4, sparse=True)

        def training_step(self, batch, batch_idx):
            return self.table(batch.argmax(1)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SparseAdam(list(self.parameters()))

    monitor = observe()
    fit(pl, monitor, Table(), accumulate_grad_batches=2)
    assert seen(monitor)["norm"] is None
    assert monitor.counters["micro_batches"] == 12


def test_skipped_batches_and_short_groups_are_no_samples(pl, module, fit, monkeypatch):
    monkeypatch.setattr(gradients, "_EVERY", 1)
    skipping, short = observe(), observe()
    fit(pl, skipping, module(pl, "skipping"), accumulate_grad_batches=3, max_epochs=10)
    fit(pl, short, module(pl), batches=20, accumulate_grad_batches=6, max_epochs=10)
    assert seen(skipping)["noise"]["count"] == seen(short)["noise"]["count"] == 0


def test_gradients_that_are_not_finite_are_dropped(pl, mean, fit, often):
    model = mean()
    plain = model.training_step
    model.training_step = lambda batch, batch_idx: plain(batch, 0) * (math.nan if 40 < batch_idx < 400 else 1.0)
    model.on_before_optimizer_step = lambda optimizer: model.w.grad.nan_to_num_(0.0)
    monitor = observe()
    fit(pl, monitor, model, batches=samples(480 * BATCH), accumulate_grad_batches=2, max_epochs=1)
    assert 5 <= seen(monitor)["noise"]["count"] <= 40
    assert math.isfinite(seen(monitor)["norm"])


def test_a_failure_ends_the_reading_and_nothing_else(pl, mean, fit, often, monkeypatch):
    monkeypatch.setattr(gradients, "squared_norm", lambda tensors: 1 / 0)
    monitor = observe()
    trainer = fit(pl, monitor, mean(), batches=samples(50 * BATCH), accumulate_grad_batches=2, max_epochs=1)
    assert trainer.global_step == 25
    assert len(monitor.run) == 25
    assert seen(monitor)["norm"] is None


def test_never_more_than_one_step_in_fifty(pl, mean, fit, monkeypatch):
    calls = []
    norm = gradients.squared_norm
    monkeypatch.setattr(gradients, "squared_norm", lambda tensors: calls.append(1) or norm(tensors))
    fit(pl, observe(), mean(), batches=samples(400 * BATCH), accumulate_grad_batches=2, max_epochs=1)
    assert 2 * 3 <= len(calls) <= 2 * 4  # of the first micro-batch and of the step
    calls.clear()
    fit(pl, observe(), mean(), batches=samples(200 * BATCH), max_epochs=1)
    assert 3 <= len(calls) <= 4


def test_no_time_left_means_no_reading(pl, mean, fit, often):
    monitor = ScalingLawMonitor(journal=False, max_overhead=1e-9, history=False, on_advice=None)
    fit(pl, monitor, mean(), batches=samples(2000 * BATCH), accumulate_grad_batches=2, max_epochs=1)
    assert seen(monitor)["noise"]["count"] < 200


def test_they_are_charted_and_the_hint_is_given_once(pl, mean, fit, monkeypatch, tmp_path):
    monkeypatch.setattr(gradients, "_EVERY", 2)
    monitor = observe(journal=tmp_path)
    data = samples(240 * 32 * BATCH)
    fit(pl, monitor, mean(), batches=data, accumulate_grad_batches=32, max_epochs=1)
    hinted = [advice for advice in monitor.advice_log if "A hint on the batch" in advice.reason]
    assert len(hinted) == 1
    assert hinted[0].action == "continue"
    assert 60 <= hinted[0].step <= 80
    assert "128 samples are" in hinted[0].reason
    assert monitor.advice.evidence["hint"] == "batch"
    assert "A hint on the batch" not in monitor.advice.reason
    (path,) = tmp_path.glob("*.jsonl")
    rows = [row["values"] for row in map(json.loads, path.read_text().splitlines()) if row["op"] == "metrics"]
    scales = [row["scaling/gradient_noise_scale"] for row in rows if "scaling/gradient_noise_scale" in row]
    assert scales[-1] == pytest.approx(NOISE_SCALE, rel=0.2)
    assert all(row["scaling/gradient_norm"] > 0 for row in rows[-10:])
    run = Run.from_journal(path)
    assert [update.advice.reason for update in replay(run)] == [update["advice"]["reason"] for update in run.said]
    assert read_journal(path).damaged == 0


def test_the_averages_survive_a_resume_and_the_hint_is_not_given_again(pl, mean, fit, monkeypatch, tmp_path):
    monkeypatch.setattr(gradients, "_EVERY", 2)
    settings = {"accumulate_grad_batches": 32, "max_epochs": -1}
    first = observe()
    half = fit(pl, first, mean(), batches=samples(100 * 32 * BATCH), max_steps=100, **settings)
    half.save_checkpoint(tmp_path / "half.ckpt")
    count = seen(first)["noise"]["count"]
    assert count >= 40
    second = observe()
    data = samples(150 * 32 * BATCH, seed=1)
    fit(pl, second, mean(), batches=data, max_steps=150, ckpt_path=tmp_path / "half.ckpt", **settings)
    assert seen(second)["noise"]["count"] > count + 15
    hints = [advice for one in (first, second) for advice in one.advice_log if "hint on the batch" in advice.reason]
    assert len({advice.step for advice in hints}) == 1


def test_an_announced_change_begins_the_averages_anew(pl, mean, fit, often):
    monitor = observe()

    class Announce(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 400:
                monitor.mark("new data")

    data = samples(480 * BATCH)
    fit(pl, [Announce(), monitor], mean(), batches=data, accumulate_grad_batches=2, max_epochs=1)
    assert seen(monitor)["noise"]["count"] <= 12
