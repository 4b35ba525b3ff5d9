import json
import math
import pickle

import pytest
import torch

from lightning_scaling import Run, RunHistory
from lightning_scaling.callbacks import ScalingEarlyStopping, ScalingLawMonitor

STEPS = 400


def healthy(step):
    return 2 + 3 * step**-0.5 + 0.003 * math.sin(7.3 * step)


def diverging(step):
    return healthy(step) if step < 150 else 4.5 + 0.01 * math.sin(step)


def recovering(step):
    return diverging(step) if step < 220 else healthy(step)


@pytest.fixture
def scripted():
    """A module whose loss at each step is what a function says."""

    def make(pl, script, *, manual=False, log=None, val=False):
        class Model(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = not manual
                self.net = torch.nn.Linear(4, 1)

            def training_step(self, batch, batch_idx):
                step = self.trainer.fit_loop.total_batch_idx + 1
                loss = 0 * self.net(batch).square().mean() + script(step)
                if manual:
                    optimizer = self.optimizers()
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    optimizer.step()
                if log:
                    self.log(log, loss.detach())
                return loss

            def configure_optimizers(self):
                return torch.optim.SGD(self.net.parameters(), lr=0.1)

        if val:
            Model.validation_step = lambda self, batch, batch_idx: None
        return Model()

    return make


@pytest.fixture
def stop(scripted, trainer, loader):
    """Train on a script of losses with a monitor and a stopping callback; gives Trainer, stopping and monitor back."""

    def run(pl, script, *, others=(), monitor=(), model=(), ckpt_path=None, **settings):
        watching = ScalingLawMonitor(
            **{"journal": False, "max_overhead": 1, "history": False, "on_advice": None, **dict(monitor)}
        )
        stopping = ScalingEarlyStopping(**settings.pop("stop", {}))
        settings = {"max_steps": STEPS, "max_epochs": -1, **settings}
        made = trainer(pl, [watching, stopping, *others], **settings)
        module = scripted(pl, script, **dict(model))
        loaders = (loader(80), loader(8)) if dict(model).get("val") else (loader(80),)
        made.fit(module, *loaders, ckpt_path=ckpt_path)
        return made, stopping, watching

    return run


def test_a_run_that_diverges_is_stopped_and_a_healthy_one_is_not(both, stop):
    trainer, stopping, _ = stop(both, diverging)
    assert 150 < trainer.global_step < 220
    assert stopping.stopped_at == trainer.global_step
    assert stopping.decision.kind == "diverged"
    assert "stays there" in stopping.decision.reason
    assert 0.4 < stopping.decision.saving < 0.65
    trainer, stopping, _ = stop(both, healthy)
    assert trainer.global_step == STEPS
    assert stopping.stopped_at is None
    assert stopping.decision is None


def test_losses_that_are_not_finite_stop_a_run_at_once(pl, stop):
    trainer, stopping, _ = stop(pl, lambda step: healthy(step) if step < 150 else math.nan)
    assert 165 < trainer.global_step < 185
    assert "not finite" in stopping.decision.reason


def test_a_target_out_of_reach_stops_and_one_in_reach_does_not(pl, stop):
    trainer, stopping, monitor = stop(pl, healthy, stop={"target": 1.9})
    assert trainer.global_step < 300
    assert stopping.decision.kind == "target"
    assert "misses the target 1.9 with probability" in stopping.decision.reason
    assert monitor.forecast.trust == "ok"
    assert stop(pl, healthy, stop={"target": 2.3})[0].global_step == STEPS
    assert stop(pl, healthy, monitor={"target": 1.9})[1].decision.kind == "target"
    assert stop(pl, healthy, stop={"best": 1.9})[1].decision.kind == "best"


def test_nothing_is_stopped_while_the_trust_is_low(pl, stop):
    def unsure(step):
        return healthy(step) + 1.5 * math.sin(step * step)

    trainer, _, monitor = stop(pl, unsure, stop={"target": 1.9, "probability": 0.5})
    assert monitor.forecast.trust == "low"
    assert trainer.global_step == STEPS


def test_the_rest_of_a_run_that_is_not_worth_its_price_is_saved(pl, stop):
    trainer, stopping, _ = stop(pl, healthy, stop={"value": 1.0, "price_per_flop": 1.0})
    assert trainer.global_step < 300
    assert stopping.decision.kind == "value"
    assert stop(pl, healthy, stop={"value": 1.0, "price_per_flop": 1e-15})[0].global_step == STEPS


@pytest.mark.parametrize("least", [{"min_steps": 260}, {"stop": {"min_steps": 260}}])
def test_a_minimum_of_steps_is_kept_without_a_latch(pl, stop, least):
    class Latched(pl.Callback):
        seen = ()

        def on_train_batch_end(self, trainer, *args):
            self.seen += (trainer.should_stop,)

    watch = Latched()
    trainer, stopping, _ = stop(pl, diverging, others=[watch], **least)
    assert trainer.global_step == stopping.stopped_at == 260
    assert not any(watch.seen[:-1])


@pytest.mark.parametrize("least", [{"min_epochs": 14}, {"stop": {"min_epochs": 14}}])
def test_a_minimum_of_epochs_is_kept(pl, stop, least):
    trainer, stopping, _ = stop(pl, diverging, **least)
    assert trainer.global_step == stopping.stopped_at == 14 * 20


def test_a_run_that_recovers_before_its_minimum_goes_on(pl, stop):
    trainer, stopping, _ = stop(pl, recovering, min_steps=300)
    assert trainer.global_step == STEPS
    assert stopping.decision is None


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"accumulate_grad_batches": 3, "max_steps": STEPS // 3}, {}),
        ({"val_check_interval": 7}, {"val": True}),
        ({}, {"manual": True}),
    ],
)
def test_it_stops_whole_steps_in_every_way_of_training(pl, stop, settings, model):
    trainer, stopping, _ = stop(pl, diverging, model=model, **settings)
    assert stopping.stopped_at == trainer.global_step < settings.get("max_steps", STEPS)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
def test_the_checkpoint_goes_beside_the_users_own_and_resumes(pl, stop, tmp_path):
    def saver():
        return pl.callbacks.ModelCheckpoint(dirpath=tmp_path / "mine", every_n_epochs=1000)

    trainer, stopping, _ = stop(pl, diverging, others=[saver()])
    path = tmp_path / "mine" / f"scaling-stop-step={trainer.global_step}.ckpt"
    assert stopping.checkpoint_path == str(path)
    state = torch.load(path, weights_only=True)
    assert state["global_step"] == trainer.global_step
    kept = next(value for key, value in state["callbacks"].items() if "ScalingEarlyStopping" in key)
    assert kept["stopped_at"] == trainer.global_step
    resumed, again, _ = stop(pl, healthy, others=[saver()], ckpt_path=path)
    assert resumed.global_step == STEPS
    assert again.stopped_at is None


def test_without_a_checkpoint_callback_it_goes_to_the_root_or_where_it_is_told_or_nowhere(pl, stop, tmp_path):
    _, stopping, _ = stop(pl, diverging)
    assert stopping.checkpoint_path == str(tmp_path / f"scaling-stop-step={stopping.stopped_at}.ckpt")
    _, stopping, _ = stop(pl, diverging, stop={"checkpoint": str(tmp_path / "there")})
    assert len(list((tmp_path / "there").glob("*.ckpt"))) == 1
    _, stopping, _ = stop(pl, diverging, stop={"checkpoint": False})
    assert stopping.checkpoint_path is None


def test_a_step_just_saved_is_not_saved_again(pl, stop, tmp_path):
    saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1)
    _, stopping, _ = stop(pl, diverging, others=[saver], min_epochs=14)
    assert stopping.stopped_at == 280
    assert stopping.checkpoint_path is None


def test_a_checkpoint_that_cannot_be_written_keeps_nobody_from_stopping(pl, stop, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="No checkpoint could be written"):
        trainer, stopping, _ = stop(pl, diverging, stop={"checkpoint": str(tmp_path / "file" / "inside")})
    assert trainer.global_step == stopping.stopped_at < STEPS


def test_a_dry_run_only_says_what_it_would_have_done(pl, stop, tmp_path):
    trainer, stopping, _ = stop(pl, diverging, stop={"dry_run": True}, monitor={"journal": tmp_path / "journals"})
    assert trainer.global_step == STEPS
    assert stopping.stopped_at is None
    assert stopping.decision.kind == "diverged"
    (journal,) = (tmp_path / "journals").glob("*.jsonl")
    marks = [row for row in map(json.loads, journal.read_text().splitlines()) if row.get("reason") == "stop"]
    assert [mark["data"]["stopped"] for mark in marks] == [False]


def test_the_reason_is_in_the_journal_which_replays_the_same(pl, stop, tmp_path):
    from lightning_scaling import replay

    _, stopping, monitor = stop(pl, diverging, monitor={"journal": tmp_path / "journals"})
    (journal,) = (tmp_path / "journals").glob("*.jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    mark = next(row["data"] for row in rows if row.get("reason") == "stop")
    assert mark["reason"] == stopping.decision.reason
    tags = {key: value for row in rows if row["op"] == "tags" for key, value in row["values"].items()}
    assert tags["scaling.stop.kind"] == "diverged"
    assert float(tags["scaling.stop.saving"]) == stopping.decision.saving
    assert [u.advice.action for u in replay(Run.from_journal(journal))][-1] == monitor.advice.action == "stop"


def test_a_fast_dev_run_is_left_alone(pl, stop):
    trainer, stopping, _ = stop(pl, diverging, fast_dev_run=3)
    assert trainer.global_step == 3
    assert stopping.decision is None


def test_the_monitor_is_found_or_missed_clearly(pl, trainer, scripted, loader):
    def fit(*callbacks):
        trainer(pl, list(callbacks), max_steps=2).fit(scripted(pl, healthy, log="mine"), loader(8))

    def watch(name=None):
        return ScalingLawMonitor(name, journal=False, history=False)

    with pytest.raises(ValueError, match="needs a ScalingLawMonitor among the Trainer's callbacks"):
        fit(ScalingEarlyStopping())
    with pytest.raises(ValueError, match="they follow the training loss, 'mine'; name the metric"):
        fit(watch(), watch("mine"), ScalingEarlyStopping())
    with pytest.raises(ValueError, match="cannot decide"):
        fit(watch(), ScalingEarlyStopping("other"))
    fit(watch(), watch("mine"), ScalingEarlyStopping("mine"))


def relative(low, until=1.0, lr=0.1):
    steps = list(range(1, int(until * STEPS) + 1))
    losses = [healthy(step) + low for step in steps]
    return Run(
        steps, losses, [lr] * len(steps), total_steps=STEPS, planned_lr=([1, STEPS], [lr, lr]), name=f"low {low}"
    )


def test_a_run_that_its_relatives_outrun_is_stopped(pl, stop):
    history = RunHistory([relative(-0.5), relative(-0.4), relative(-0.45, until=0.7)])
    trainer, stopping, _ = stop(pl, healthy, monitor={"history": history}, stop={"best": "history"})
    assert trainer.global_step < 0.3 * STEPS
    assert stopping.decision.kind == "best"
    assert "behind 'low -0.5'" in stopping.decision.reason


def test_a_run_that_leads_its_relatives_goes_on(pl, stop):
    history = RunHistory([relative(0.5), relative(0.1), relative(0.2, until=0.5)])
    trainer, stopping, _ = stop(pl, healthy, monitor={"history": history}, stop={"best": "history"})
    assert trainer.global_step == STEPS
    assert stopping.decision is None


def test_a_failure_of_its_own_stops_nothing(pl, stop, monkeypatch):
    def broken(*args):
        raise RuntimeError("oh")

    monkeypatch.setattr("lightning_scaling.advice.stopping.StopRule.decide", broken)
    with pytest.warns(UserWarning, match="it does not stop the run any more"):
        trainer, _, _ = stop(pl, diverging)
    assert trainer.global_step == STEPS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_line_of_lightning_takes_it(pl, scripted, loader, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train"])
    from lightning.pytorch.cli import LightningCLI

    class Model(type(scripted(pl, diverging))):
        def train_dataloader(self):
            return loader(80)

    def entry(name, **arguments):
        return {"class_path": f"lightning_scaling.callbacks.{name}", "init_args": arguments}

    watching = entry("ScalingLawMonitor", journal=False, history=False, max_overhead=1, on_advice=None)
    settings = {
        "max_steps": STEPS,
        "max_epochs": -1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(tmp_path),
        "callbacks": [watching, entry("ScalingEarlyStopping", target=1.0, checkpoint=False, min_steps=300)],
    }
    cli = LightningCLI(
        Model, args={"trainer": settings}, run=False, seed_everything_default=False, save_config_callback=None
    )
    cli.trainer.fit(cli.model)
    assert cli.trainer.global_step == 300


def test_it_can_be_pickled_after_a_fit(pl, stop):
    _, stopping, _ = stop(pl, diverging)
    assert pickle.loads(pickle.dumps(stopping)).decision == stopping.decision


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"best": "mine"}, "`best` must be"), ({"min_steps": -1}, "`min_steps`"), ({"probability": 1.0}, "`probability`")],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        ScalingEarlyStopping(**arguments)
