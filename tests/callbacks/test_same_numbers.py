"""Same code, same numbers: a replay of the journal says exactly what the callback said while the run was training."""

import importlib.util
import json
import math
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.backtest.drivers import differing
from lightning_scaling.backtest.single_run import Replay
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.callbacks.overhead import OverheadBudget
from lightning_scaling.history.reader_thread import THREAD, HistoryReader
from lightning_scaling.tracking import read_journal

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_bytes.py"
STEPS = 260
BATCH = 8

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore::lightning_scaling.callbacks.console.ScalingAdviceWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small are slower, by far, when threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("train_bytes_demo", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(demo):
    return demo.library_text()


@pytest.fixture
def train(demo, text, pl, tmp_path):
    """Train the model of the demo, made small; ``broken`` has no finite loss in a stretch of its steps."""

    class Model(pl.LightningModule):
        def __init__(self, broken=range(0), schedule="cosine", manual=False):
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = not manual
            self.model = demo.ByteGPT(width=8, layers=1, heads=1)
            self.broken, self.schedule = broken, schedule

        def loss(self, batch):
            return functional.cross_entropy(self.model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if not self.automatic_optimization:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.lr_schedulers().step()
            return loss * math.nan if self.global_step + 1 in self.broken else loss

        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():  # what is lost for the monitor is not to be lost for the run
                parameter.grad.nan_to_num_(0.0)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch))
            hit = self.model(batch["input_ids"]).argmax(-1) == batch["labels"]
            self.log("val_acc", hit.float().mean())

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            of = lambda step: demo.rate(step, STEPS, self.schedule)  # noqa: E731
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, of)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def run(*callbacks, model=None, validate=False, **settings):
        training, held_out = text
        settings = {"max_steps": STEPS, "logger": False, "ckpt_path": None, **settings}
        checkpointing = any("Checkpoint" in type(one).__name__ for one in callbacks)
        path = settings.pop("ckpt_path")
        trainer = pl.Trainer(
            callbacks=list(callbacks),
            enable_checkpointing=checkpointing,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            default_root_dir=tmp_path,
            limit_val_batches=2 if validate else 0,
            num_sanity_val_steps=0,
            **({"val_check_interval": 10, "check_val_every_n_epoch": None} if validate else {}),
            **settings,
        )
        batches = DataLoader(demo.Windows(training[:300_000]), BATCH, drop_last=True)
        trainer.fit(model or Model(), batches, DataLoader(demo.Windows(held_out), BATCH), ckpt_path=path)
        return trainer

    run.model = Model
    return run


def observe(tmp_path, **settings):
    return ScalingLawMonitor(journal=tmp_path / "journals", **{"max_overhead": 1, "on_advice": None, **settings})


def journal_of(tmp_path):
    (path,) = (tmp_path / "journals").glob("*.jsonl")
    return path


def same(path, monitor, *, history=None, least=60):
    """Check a replay against the updates in the journal, and against the ledger of the callback itself."""
    run = Run.from_journal(path)
    made = Replay.of(run, history=history)
    said = [json.loads(json.dumps(to_builtins(update.to_dict()))) for update in made.updates]
    assert [one["step"] for one in said] == [one["step"] for one in run.said]
    assert said == list(run.said)
    live = monitor.forecast_log
    assert [row["step"] for row in made.forecast_log] == [row["step"] for row in live]
    assert made.forecast_log == live
    assert len(said) >= least
    assert any(math.isfinite(update.forecast.final) for update in made.updates)
    return run, made


def test_a_plain_run(train, tmp_path):
    monitor = observe(tmp_path)
    train(monitor)
    run, made = same(journal_of(tmp_path), monitor)
    assert monitor.forecast.final == made.updates[-1].forecast.final
    assert run.total_steps == STEPS
    assert run.params == sum(p.numel() for p in train.model().parameters())
    assert run.plan.known
    assert len(run) == STEPS
    assert read_journal(journal_of(tmp_path)).damaged == 0


def test_accumulated_batches_and_a_target(train, tmp_path):
    monitor = observe(tmp_path, target=2.0, alpha=0.2)
    train(monitor, accumulate_grad_batches=3, max_steps=120)
    run, _ = same(journal_of(tmp_path), monitor, least=25)
    assert run.settings["target"] == 2.0
    assert run.settings["alpha"] == 0.2


@pytest.mark.parametrize("metric", ["val_loss", "val_acc"])
def test_a_validation_metric(train, tmp_path, metric):
    monitor = observe(tmp_path, monitor=metric)
    train(monitor, validate=True)
    run, _ = same(journal_of(tmp_path), monitor, least=20)
    assert run.meta["metric"] == metric
    assert run.step.tolist() == list(range(10, STEPS + 1, 10))


def test_manual_optimization_that_learns_its_plan_on_the_way(train, tmp_path):
    monitor = observe(tmp_path)
    train(monitor, model=train.model(manual=True))
    run, _ = same(journal_of(tmp_path), monitor)
    assert len(run) == STEPS


@pytest.mark.parametrize("count", ["samples", "tokens", 32])
def test_samples_and_tokens(train, tmp_path, count):
    monitor = observe(tmp_path, count=count)
    train(monitor, max_steps=100)
    run, _ = same(journal_of(tmp_path), monitor, least=20)
    assert run.tokens_per_step == BATCH * (1 if count == "samples" else 32)


def test_losses_that_are_not_finite_for_a_while(train, tmp_path):
    monitor = observe(tmp_path)
    train(monitor, model=train.model(broken=[*range(100, 103), *range(150, 190)]))
    run, made = same(journal_of(tmp_path), monitor)
    assert not math.isfinite(run.loss[150])
    assert any(update.advice.action == "stop" for update in made.updates)


@pytest.mark.parametrize("follow_rates", [False, True])
def test_an_announced_change(train, pl, tmp_path, follow_rates):
    monitor = observe(tmp_path)

    class Announce(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 133:
                monitor.mark("history", follow_rates=follow_rates)  # a reason that other marks have, too

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step >= 133 and follow_rates:
                optimizer.param_groups[0]["lr"] *= 0.5

    train(Announce(), monitor)
    _, made = same(journal_of(tmp_path), monitor)
    follows = [update for update in made.updates if update.step > 140]
    assert all(("by hand" in update.forecast.why) == follow_rates for update in follows)


def test_updates_that_would_have_taken_too_long_are_left_out_again(train, tmp_path, monkeypatch):
    monitor = observe(tmp_path, max_overhead=0.5)
    asked = []
    monkeypatch.setattr(OverheadBudget, "exceeded", lambda self, step: asked.append(step) or len(asked) % 5 < 2)
    train(monitor)
    run, made = same(journal_of(tmp_path), monitor, least=5)
    whole = replay(Run(run.step, run.loss, run.lr, total_steps=STEPS, params=run.params))
    assert len(made.updates) < len(whole)


def test_saving_checkpoints_changes_nothing(train, pl, tmp_path):
    monitor = observe(tmp_path)
    train(monitor, pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=17, save_top_k=1))
    run, _ = same(journal_of(tmp_path), monitor)
    assert len(run) == STEPS


@pytest.mark.parametrize(("at", "accumulate"), [(51, 1), (102, 1), (34, 2)])
def test_a_run_resumed_from_a_checkpoint(train, pl, tmp_path, at, accumulate):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=17, save_top_k=-1)

    class Change(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 102:
                first.mark("new data")

    first = observe(tmp_path, name="first")
    # another length at first: the plan of what is left is joined to the one of what was done
    settings = {"accumulate_grad_batches": accumulate}
    train(first, Change(), keep, max_steps=130, **settings)
    again = observe(tmp_path, name="again")
    train(again, max_steps=200, ckpt_path=tmp_path / f"step={at}.ckpt", **settings)
    path = journal_of(tmp_path)
    assert len(read_journal(path).segments) == 2
    run, _ = same(path, again, least=40)
    assert run.step.tolist() == list(range(1, 201))
    assert run.total_steps == 200
    third = observe(tmp_path)
    train(third, max_steps=200, ckpt_path=tmp_path / "step=17.ckpt", **settings)
    run, _ = same(path, third, least=40)
    assert read_journal(path).superseded > 0


def test_a_run_resumed_with_its_journal_in_another_folder(train, pl, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=60, save_top_k=-1)
    train(ScalingLawMonitor(journal=tmp_path / "elsewhere", max_overhead=1), keep)
    again = observe(tmp_path)
    train(again, ckpt_path=tmp_path / "step=120.ckpt")
    run = Run.from_journal(journal_of(tmp_path))
    made = Replay.of(run)
    assert run.step[0] == 121
    assert made.forecast_log == again.forecast_log
    assert run.gaps == ()


def test_fitting_on_with_the_same_callback(train, tmp_path):
    monitor = observe(tmp_path)
    trainer = train(monitor, max_steps=100)
    trainer.fit_loop.epoch_loop.max_steps = 180
    trainer.fit(trainer.lightning_module, trainer.train_dataloader, trainer.train_dataloader)
    run, _ = same(journal_of(tmp_path), monitor, least=30)
    assert run.step[-1] == 180


def test_without_a_planned_end(train, pl, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 150

    monitor = observe(tmp_path)
    train(monitor, Stop(), max_steps=-1, max_epochs=-1)
    run, made = same(journal_of(tmp_path), monitor, least=8)
    assert run.meta["open_ended"]
    assert made.updates[-1].fraction is None


def test_past_runs_that_arrive_on_the_way(train, pl, make_run, tmp_path, monkeypatch):
    folder = tmp_path / "past"
    folder.mkdir()
    for seed in range(3):
        make_run("cosine", total=STEPS, every=1, seed=seed).to_csv(folder / f"run {seed}.csv")
    gate = threading.Event()
    read = HistoryReader._read
    monkeypatch.setattr(HistoryReader, "_read", lambda self: gate.wait(30) and read(self))

    class Deliver(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 101:
                gate.set()
                for thread in threading.enumerate():
                    if thread.name == THREAD:
                        thread.join()

    monitor = observe(tmp_path, history=folder)
    train(monitor, Deliver())
    run, _ = same(journal_of(tmp_path), monitor, history=RunHistory.from_csv(folder))
    (prior,) = run.priors_learned
    assert 95 <= prior.step <= 105
    assert list(differing(run, RunHistory.from_csv(folder))) == []
    assert "learned from 3 runs of the folder" in next(differing(run, None))
    alone = replay(run)
    live = {row["step"]: row["final"] for row in monitor.forecast_log}
    agree = [
        update.step
        for update in alone
        if math.isfinite(update.forecast.final) and update.forecast.final == live[update.step]
    ]
    assert agree
    assert max(agree[:-1]) <= prior.step


def test_past_runs_given_from_the_start(train, make_run, tmp_path):
    history = RunHistory([make_run("cosine", total=STEPS, every=1, seed=seed, name=f"run {seed}") for seed in range(3)])
    monitor = observe(tmp_path, history=history)
    train(monitor)
    path = journal_of(tmp_path)
    run, informed = same(path, monitor, history=RunHistory([make_run(name="other"), *history]))
    alone = replay(run)
    assert alone[-40].forecast.final != informed.updates[-40].forecast.final
    assert run.priors_learned[0].runs == ("run 0", "run 1", "run 2")
    assert run.priors_learned[0].step == 0
