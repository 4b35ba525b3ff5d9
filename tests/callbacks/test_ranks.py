"""Two processes train one model: what they know of the run is the same, and neither waits for the other for ever."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

CODE = """
    import json, sys, warnings
    import torch
    import lightning.pytorch as pl
    from lightning_scaling.callbacks import ScalingLawMonitor
    from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)
            self.true = []
        def training_step(self, batch, batch_idx):
            loss = self.net(batch).square().mean()
            self.true.append(float(loss))
            return loss
        def validation_step(self, batch, batch_idx):
            self.log("val", self.net(batch).square().mean())
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Write(pl.Callback):
        def __init__(self, name, monitors):
            self.name, self.monitors = name, monitors
        def on_fit_end(self, trainer, module):
            out = []
            for one in self.monitors:
                counters, state = one.counters, one.state_dict()
                counters.pop("seconds")
                state.pop("logger", None)
                state.get("capture", {}).pop("own_seconds", None)
                out.append({"counters": counters, "state": state, "final": one.forecast.final,
                            "run": one.run and [one.run.step.tolist(), one.run.loss.tolist()]})
            with open(f"{self.name}-{trainer.global_rank}.json", "w") as file:
                json.dump({"true": module.true, "monitors": out, "steps": trainer.global_step}, file)

    def count(batch):
        return batch.shape[0] * (2 + torch.distributed.get_rank())

    find = BatchSizeMeter.find

    def breaking(self, key, batch):
        if torch.distributed.get_rank() == 1 and bool((batch == 37).any()):
            raise RuntimeError("rank 1 is lost")
        return find(self, key, batch)[0], False

    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    data[37, 0] = 37
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=False)

    def train(name, monitors, **settings):
        torch.manual_seed(0)
        trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=4, logger=False,
                             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                             callbacks=[*monitors, Write(name, monitors)], **settings)
        trainer.fit(Model(), loader, loader)

    settings = dict(journal=False, max_overhead=1)
    train("whole", [ScalingLawMonitor(count=count, flops=10**17 + 1, **settings), ScalingLawMonitor("val", **settings)],
          accumulate_grad_batches=3)
    BatchSizeMeter.find = breaking
    train("broken", [ScalingLawMonitor(**settings)])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("whole", "broken")
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in names}


def test_both_ranks_know_the_same(results):
    first, second = results["whole"]
    assert first["monitors"] == second["monitors"]


def test_losses_are_means_and_counts_are_sums_over_ranks(results):
    first, second = results["whole"]
    losses = np.mean([first["true"], second["true"]], axis=0).reshape(4, 8)
    expected = [group.mean() for epoch in losses for group in (epoch[:3], epoch[3:6], epoch[6:])]
    monitor = first["monitors"][0]
    np.testing.assert_allclose(monitor["run"][1], expected, rtol=1e-6)
    counters = monitor["counters"]
    assert counters["samples"] == 256
    assert counters["tokens"] == 128 * 2 + 128 * 3
    assert counters["flops"] == 64 * (10**17 + 1)
    assert (counters["micro_batches"], counters["steps"]) == (32, 12)


def test_a_metric_of_validation_is_followed_on_both(results):
    assert results["whole"][1]["monitors"][1]["run"][0] == [3, 6, 9, 12]


def test_a_failure_on_one_rank_ends_the_monitoring_of_both_and_nothing_else(results):
    for rank in results["broken"]:
        assert rank["steps"] == 32
        assert rank["monitors"][0]["counters"]["steps"] < 32
