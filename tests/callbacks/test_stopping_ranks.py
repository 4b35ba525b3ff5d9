"""Two processes stop at the same step with the same reason, and neither waits for the other for ever."""

import json
import subprocess
import sys
import textwrap

import pytest

CODE = """
    import json, math, sys, warnings
    import torch
    import lightning.pytorch as pl
    from lightning_scaling.callbacks import ScalingEarlyStopping, ScalingLawMonitor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def healthy(step):
        return 2 + 3 * step ** -0.5 + 0.003 * math.sin(7.3 * step)

    class Model(pl.LightningModule):
        def __init__(self, lost):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)
            self.lost = lost
        def training_step(self, batch, batch_idx):
            step = self.trainer.fit_loop.total_batch_idx + 1
            loss = healthy(step) if step < self.lost[0] or step >= self.lost[1] else 4.5
            return 0 * self.net(batch).square().mean() + loss + 0.001 * self.global_rank
        def validation_step(self, batch, batch_idx):
            self.log("val", self.net(batch).square().mean(), sync_dist=True)
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Write(pl.Callback):
        def __init__(self, name, stopping):
            self.name, self.stopping = name, stopping
        def on_fit_end(self, trainer, module):
            one = self.stopping
            with open(f"{self.name}-{trainer.global_rank}.json", "w") as file:
                json.dump({"steps": trainer.global_step, "stopped": one.stopped_at, "path": one.checkpoint_path,
                           "decision": one.decision and one.decision.to_dict()}, file)

    data = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=False)
    val = torch.utils.data.DataLoader(data[:8], batch_size=4)

    def train(name, lost, stop, first=True, **settings):
        torch.manual_seed(0)
        monitor = ScalingLawMonitor(journal=False, max_overhead=1, history=False, on_advice=None)
        stopping = ScalingEarlyStopping(**stop)
        both = [monitor, stopping] if first else [stopping, monitor]
        trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=-1, logger=False,
                             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                             default_root_dir=name, callbacks=[*both, Write(name, stopping)],
                             **{"max_steps": 300, **settings})
        trainer.fit(Model(lost), loader, val)

    ever = (100, 10 ** 9)
    train("diverged", ever, {})
    train("minimum", ever, {}, first=False, min_steps=237, val_check_interval=3)
    train("epochs", ever, {}, min_epochs=25)
    train("recovered", (100, 180), {}, min_steps=290)
    train("accumulated", (40, 10 ** 9), {}, accumulate_grad_batches=3, max_steps=120)
    train("target", (10 ** 9, 10 ** 9), {"target": 1.5})
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopping")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return lambda name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["diverged", "minimum", "epochs", "recovered", "accumulated", "target"])
def test_both_ranks_stop_at_the_same_step_with_the_same_reason(results, name):
    first, second = results(name)
    assert first == second


def test_they_stop_where_one_rank_would_have(results):
    assert 100 < results("diverged")[0]["stopped"] == results("diverged")[0]["steps"] < 300
    assert results("diverged")[0]["decision"]["kind"] == "diverged"
    assert results("diverged")[0]["path"].endswith(".ckpt")
    assert results("minimum")[0]["stopped"] == 237
    assert results("epochs")[0]["stopped"] == 25 * 10
    assert results("recovered")[0]["steps"] == 300
    assert results("recovered")[0]["stopped"] is None
    assert 40 / 3 < results("accumulated")[0]["stopped"] < 120
    assert results("target")[0]["decision"]["kind"] == "target"
