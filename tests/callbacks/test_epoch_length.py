"""Passes over the data in real trainings: how long one is, and what is said of many."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, WeightedRandomSampler

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling.callbacks import ResizeAdvisor, ScalingLawMonitor
from lightning_scaling.callbacks.epoch_length import steps_per_epoch

WORDS, BATCH, WINDOWS = 16, 16, 512
PASS = WINDOWS // BATCH

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


def sentences(count, seed):
    """Sentences of a language in which the last two words tell, roughly, the next."""
    chance = torch.Generator().manual_seed(seed)
    following = torch.softmax(2 * torch.randn(WORDS**2, WORDS, generator=torch.Generator().manual_seed(7)), 1)
    found = torch.randint(0, WORDS, (count, 2), generator=chance)
    for _ in range(16):
        likely = following[found[:, -2] * WORDS + found[:, -1]]
        found = torch.cat([found, torch.multinomial(likely, 1, generator=chance)], 1)
    return [{"input_ids": row} for row in found]


@pytest.fixture
def model(pl):
    class Model(pl.LightningModule):
        def __init__(self, stop_at=None):
            super().__init__()
            torch.manual_seed(0)
            self.words = torch.nn.Embedding(WORDS, 32)
            self.next = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.GELU(), torch.nn.Linear(256, WORDS))
            self.stop_at = stop_at

        def loss(self, batch):
            seen = self.words(batch["input_ids"])
            logits = self.next(torch.cat([seen[:, start : start - 4] for start in range(4)], -1))
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 4:].flatten())

        def training_step(self, batch, batch_idx):
            if self.global_step == self.stop_at:
                self.trainer.should_stop = True
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=2e-3)

    return Model


@pytest.fixture
def train(trainer, pl):
    def run(module, *callbacks, steps=600, loader=None, ckpt_path=None, **settings):
        torch.manual_seed(3)
        loader = DataLoader(sentences(WINDOWS, 1), BATCH, shuffle=True) if loader is None else loader
        made = trainer(
            pl,
            list(callbacks),
            max_steps=steps,
            max_epochs=-1,
            val_check_interval=8,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            **settings,
        )
        made.fit(module, loader, DataLoader(sentences(256, 2), 256), ckpt_path=ckpt_path)
        return made

    return run


def observe(tmp_path=None, metric=None, **settings):
    journal = False if tmp_path is None else tmp_path / "journals"
    return ScalingLawMonitor(metric, history=False, on_advice=None, max_overhead=1, journal=journal, **settings)


def hints(monitor):
    return [advice.reason for advice in monitor.advice_log if "A hint: the plan goes" in advice.reason]


# ------------------------------------------------------------- in real trainings


def test_many_passes_over_few_sentences(model, train, tmp_path):
    monitor = observe(tmp_path, "val_loss")
    train(model(), monitor)
    (hint,) = hints(monitor)
    assert "A hint: the plan goes 18.8 times over the 9.22k unique tokens; by the data-constrained law its 173k" in hint
    given = [advice for advice in monitor.advice_log if advice.action != "continue"]
    assert given[0].evidence["cause"] == "repeated_data"
    assert "check first whether the training loss still gets better: the model then overfits" in given[0].reason
    assert (
        f"(this is pass {-(-given[0].step // PASS)} over the 9.22k unique tokens, and the best so far"
        in given[0].reason
    )
    (path,) = (tmp_path / "journals").glob("*.jsonl")
    run = Run.from_journal(path)
    assert [update.advice.reason for update in replay(run)] == [update["advice"]["reason"] for update in run.said]
    other = replay(run, unique_tokens=1e5)
    assert not any("unique tokens" in update.advice.reason for update in other[:30])


def test_a_few_passes_are_not_worth_a_word(model, train):
    monitor = observe(metric="val_loss")
    train(model(), monitor, steps=3 * 4 * PASS, loader=DataLoader(sentences(4 * WINDOWS, 1), BATCH, shuffle=True))
    assert monitor._engine.repeats.number == 3
    assert not hints(monitor)
    assert not any(advice.evidence.get("cause") == "repeated_data" for advice in monitor.advice_log)


def test_told_unique_tokens_are_known_to_a_replay(model, train, tmp_path):
    monitor = observe(tmp_path, unique_tokens=5_000)
    train(model(), monitor, steps=100)
    (hint,) = hints(monitor)
    assert "goes 5.76 times over the 5k unique tokens" in hint
    (path,) = (tmp_path / "journals").glob("*.jsonl")
    run = Run.from_journal(path)
    assert [update.advice.reason for update in replay(run)] == [update["advice"]["reason"] for update in run.said]


def test_a_resume_goes_on_counting_and_does_not_repeat_the_hint(model, train, tmp_path):
    first = observe()
    train(model(stop_at=299), first).save_checkpoint(tmp_path / "half.ckpt")
    assert len(hints(first)) == 1
    second = observe()
    train(model(), second, ckpt_path=tmp_path / "half.ckpt", steps=400)
    assert second._engine.repeats.passes == pytest.approx(400 / PASS)
    assert second._engine.repeats.unique == pytest.approx(WINDOWS * 18)
    assert hints(second) == hints(first)


def test_a_stream_has_no_passes(model, train):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(sentences(WINDOWS, 1))

    monitor = observe()
    train(model(), monitor, steps=100, loader=DataLoader(Stream(), BATCH))
    assert monitor._engine.repeats is None
    assert not hints(monitor)


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), "many", True])
def test_unique_tokens_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="`unique_tokens` must be a positive number or None"):
        ScalingLawMonitor(unique_tokens=wrong)


# ------------------------------------------------------------ the advisor on size


def past(size, steps):
    step = range(1, steps + 1)
    loss = [1 + 30 / size**0.4 + 30 / (288 * s) ** 0.3 for s in step]
    planned = ([1, steps], [4e-3, 4e-3])
    each = {"params": size, "tokens_per_step": 288, "planned_lr": planned, "total_steps": steps}
    return Run(step, loss, [4e-3] * steps, **each)


@pytest.mark.parametrize(
    ("settings", "given"), [({}, "goes 18.8 times over the 9.22k"), ({"unique_tokens": 1e6}, None)]
)
def test_the_advisor_knows_what_the_monitor_knows_unless_given_another(model, train, settings, given):
    family = RunHistory([past(size, steps) for size in (2_000, 10_000, 50_000) for steps in (200, 600)])
    advisor = ResizeAdvisor(history=family, **settings)
    train(model(), observe(), advisor)
    assert (advisor.advice.code == "repeated_data") == (given is not None)
    assert given is None or given in advisor.advice.reason


def test_samples_may_be_altered_each_time_and_are_no_limit(model, train):
    family = RunHistory([past(size, steps) for size in (2_000, 10_000, 50_000) for steps in (200, 600)])
    advisor = ResizeAdvisor(history=family)
    train(model(), observe(count="samples"), advisor)
    assert advisor.advice.code != "repeated_data"


# ------------------------------------------------------------ how long a pass is


def trainer_like(loader, batches, limit=1.0, accumulate=1, reload=0, automatic=True):
    return SimpleNamespace(
        train_dataloader=loader,
        num_training_batches=batches,
        limit_train_batches=limit,
        accumulate_grad_batches=accumulate,
        reload_dataloaders_every_n_epochs=reload,
        lightning_module=SimpleNamespace(automatic_optimization=automatic),
    )


class Sized(IterableDataset):
    def __iter__(self):
        return iter(range(40))

    def __len__(self):
        return 40


def loader(**settings):
    return DataLoader(list(range(40)), **{"batch_size": 4, **settings})


DRAWN = WeightedRandomSampler([1.0] * 40, 40)
AGAIN = RandomSampler(range(40), replacement=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (trainer_like(loader(), 10), 10),
        (trainer_like(loader(shuffle=True), 10), 10),
        (trainer_like(loader(), 10, accumulate=4), 3),
        (trainer_like({"a": loader(), "b": loader()}, 10), 10),
        (trainer_like([1] * 10, 10), 10),
        (trainer_like(DataLoader(Sized(), 4), 10), 10),
        (trainer_like(loader(), float("inf")), None),
        (trainer_like(loader(), 10, reload=1), None),
        (trainer_like(loader(), 10, automatic=False), None),
        (trainer_like(loader(sampler=DRAWN), 10), None),
        (trainer_like(loader(sampler=AGAIN), 10), None),
        (trainer_like(loader(), 3, limit=3), 3),
        (trainer_like(loader(), 1, limit=1), 1),
        (trainer_like(loader(shuffle=True), 3, limit=0.3), 10),
        (trainer_like(loader(shuffle=True), 3, limit=0.3, accumulate=2), 5),
        (trainer_like(loader(sampler=SequentialSampler(range(40))), 3, limit=0.3), 3),
        (trainer_like([1] * 10, 3, limit=3), 3),
        (trainer_like({"a": loader(), "b": loader()}, 3, limit=3), None),
        (trainer_like(DataLoader(Sized(), 4), 3, limit=3), None),
    ],
)
def test_a_pass_is_as_long_as_it_can_be_told(given, expected):
    assert steps_per_epoch(given) == expected
