"""What the callback sees of a module and its optimizer, beside the losses."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_scaling import Run, replay
from lightning_scaling.callbacks import ScalingLawMonitor

STEPS = 200

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


@pytest.fixture
def model(pl):
    class Model(pl.LightningModule):
        def __init__(self, stop_at=None):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)
            self.stop_at = stop_at

        def training_step(self, batch, batch_idx):
            if self.global_step == self.stop_at:
                self.trainer.should_stop = True
            return (self.second(self.first(batch).tanh()) - batch.sum(1, keepdim=True)).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Model


@pytest.fixture
def train(pl, tmp_path):
    def run(module, *callbacks, ckpt_path=None, **settings):
        data = torch.randn(STEPS * 16, 8, generator=torch.Generator().manual_seed(1))
        trainer = pl.Trainer(
            callbacks=list(callbacks),
            max_steps=STEPS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            default_root_dir=tmp_path,
            **settings,
        )
        trainer.fit(module, DataLoader(data, 16), ckpt_path=ckpt_path)
        return trainer

    return run


def observe(tmp_path=None, **settings):
    return ScalingLawMonitor(
        on_advice=None, max_overhead=1, journal=False if tmp_path is None else tmp_path / "journals", **settings
    )


def freezing(pl, at, thaw=None):
    class Freezing(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step in (at, thaw):
                module.first.requires_grad_(trainer.global_step == thaw)
                if trainer.global_step == at:
                    for parameter in module.first.parameters():
                        parameter.grad = None

    return Freezing()


def reported(monitor, cause):
    return [advice for advice in monitor.advice_log if advice.evidence.get("cause") == cause]


def test_layers_that_lose_their_gradient_are_named_within_a_few_updates(pl, model, train):
    monitor = observe()
    train(model(), freezing(pl, 100), monitor)
    (advice,) = reported(monitor, "frozen_layers")
    assert 100 < advice.step <= 120
    assert advice.reason.startswith("2 of 4 parameter tensors, 89% of the parameters (`first`), have had no gradient")


def test_layers_that_learn_again_end_the_advice(pl, model, train):
    monitor = observe()
    train(model(), freezing(pl, 100, thaw=140), monitor)
    assert reported(monitor, "frozen_layers")
    assert monitor.advice.evidence.get("cause") != "frozen_layers"


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_layers_used_at_some_steps_only_do_not_count_as_idle(model, train, share):
    class Routed(model):
        """One of two experts at each step, the second one at a share of them."""

        def training_step(self, batch, batch_idx):
            draw = torch.rand(1, generator=torch.Generator().manual_seed(batch_idx)).item()
            expert = self.other if draw < share else self.first
            return (self.second(expert(batch).tanh()) - batch.sum(1, keepdim=True)).square().mean()

    module = Routed()
    module.other = torch.nn.Linear(8, 16)
    monitor = observe()
    train(module, monitor)
    assert not reported(monitor, "frozen_layers")


def test_layers_frozen_from_the_start_or_after_an_announcement_are_no_news(pl, model, train):
    frozen = model()
    frozen.first.requires_grad_(False)
    quiet = observe()
    train(frozen, quiet)
    assert not reported(quiet, "frozen_layers")
    marked = observe()

    class Marking(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 100:
                marked.mark("only the head from here on")

    train(model(), Marking(), freezing(pl, 100), marked)
    assert not reported(marked, "frozen_layers")


@pytest.mark.parametrize("lost", [False, True])
def test_an_optimizer_that_lost_its_state_at_a_resume(pl, model, train, tmp_path, lost):
    first = observe()
    train(model(stop_at=99), first).save_checkpoint(tmp_path / "half.ckpt")
    kept = torch.load(tmp_path / "half.ckpt", weights_only=True)
    if lost:
        kept["optimizer_states"] = []
        torch.save(kept, tmp_path / "half.ckpt")
    second = observe()
    train(model(), second, ckpt_path=tmp_path / "half.ckpt")
    found = reported(second, "optimizer_state")
    assert bool(found) == lost
    if lost:
        assert found[0].step <= 104
        assert found[0].reason.startswith("Training went on at step 100 with an optimizer that had lost its state")


def test_a_resume_without_momentum_has_no_state_to_lose(pl, module, fit, tmp_path):
    first = observe()
    fit(pl, first, module(pl)).save_checkpoint(tmp_path / "end.ckpt")
    second = observe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(pl, second, module(pl), ckpt_path=tmp_path / "end.ckpt", max_epochs=4)
    assert not reported(second, "optimizer_state")


def test_a_replay_of_the_journal_knows_the_facts_at_the_same_steps(pl, model, train, tmp_path):
    monitor = observe(tmp_path)
    train(model(), freezing(pl, 100), monitor)
    (path,) = (tmp_path / "journals").glob("*.jsonl")
    run = Run.from_journal(path)
    said = [update.advice.reason for update in replay(run)]
    assert said == [update["advice"]["reason"] for update in run.said]
    assert any("have had no gradient" in reason for reason in said)


def test_facts_survive_a_resume(pl, model, train, tmp_path):
    monitor = observe()
    train(model(stop_at=119), freezing(pl, 60), monitor).save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]
    (kept,) = (value for key, value in state.items() if key.startswith("ScalingLawMonitor"))
    assert kept["engine"]["context"]["facts"]["idle"] == 2
    assert kept["engine"]["context"]["facts"]["precision"] == "32-true"
