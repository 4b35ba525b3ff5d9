"""What two ranks exchange for the monitor: one reduction a flush, and once what rank zero has read."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

CODE = """
    import collections, json, threading, warnings
    import torch
    import torch.distributed as dist
    import lightning.pytorch as pl
    from lightning_scaling.callbacks import ScalingLawMonitor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls = collections.Counter()

    def counted(name):
        collective = getattr(dist, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return collective(*args, **kwargs)

        setattr(dist, name, call)

    for name in ("all_reduce", "reduce", "barrier", "broadcast_object_list", "all_gather", "all_gather_object",
                 "all_gather_into_tensor", "reduce_scatter", "scatter", "gather", "monitored_barrier"):
        counted(name)

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)
        def training_step(self, batch, batch_idx):
            return self.net(batch).square().mean() + 1
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Write(pl.Callback):
        def __init__(self, name, monitor):
            self.name, self.monitor = name, monitor
        def on_train_start(self, trainer, module):
            if self.monitor is not None:  # rank zero reads in the background; here the test waits for it
                [thread.join(60) for thread in threading.enumerate() if thread.name == "lightning-scaling-history"]
        def on_fit_end(self, trainer, module):
            found = {"calls": dict(calls), "steps": trainer.global_step}
            if self.monitor is not None:
                session = self.session
                found |= {"flushes": session.capture.flushes, "final": self.monitor.forecast.final,
                          "runs": len(session.past_runs.runs or ()), "rows": repr(self.monitor.forecast_log)}
            with open(f"{self.name}-{trainer.global_rank}.json", "w") as file:
                json.dump(found, file)
        def on_train_batch_start(self, *args):
            if self.monitor is not None:
                self.session = self.monitor.session

    loader = torch.utils.data.DataLoader(torch.randn(800, 4, generator=torch.Generator().manual_seed(0)), batch_size=4)

    def train(name, monitor):
        torch.manual_seed(0)
        calls.clear()
        trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False,
                             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                             callbacks=[*filter(None, [monitor]), Write(name, monitor)])
        trainer.fit(Model(), loader)

    train("without", None)
    train("with", ScalingLawMonitor(journal=False, max_overhead=1, history=False))
    train("history", ScalingLawMonitor(journal=False, max_overhead=1, history="past"))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    (folder / "past").mkdir()
    steps = np.arange(1, 201)
    for run in range(4):
        loss = 1 + (0.5 + 0.05 * run) * steps**-0.5
        rows = "\n".join(f"{step},{value},0.01" for step, value in zip(steps, loss, strict=True))
        (folder / "past" / f"{run}.csv").write_text(f"step,loss,lr\n{rows}\n")
    command = [sys.executable, "-c", textwrap.dedent(CODE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    names = ("without", "with", "history")
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in names}


def collectives(results, name):
    """What the monitor adds to the collectives of a training, on each rank."""
    without = results["without"]
    names = {call for found in (*without, *results[name]) for call in found["calls"]}
    added = [
        {call: found["calls"].get(call, 0) - before["calls"].get(call, 0) for call in names}
        for found, before in zip(results[name], without, strict=True)
    ]
    assert added[0] == added[1]
    return {call: count for call, count in added[0].items() if count}


def test_one_reduction_a_flush_and_none_a_step(results):
    flushes = results["with"][0]["flushes"]
    assert 3 <= flushes < results["with"][0]["steps"] / 2
    # At the start the ranks compare the lengths of their loaders and take one plan, once.
    assert collectives(results, "with") == {"all_reduce": flushes + 1, "broadcast_object_list": 2}


def test_what_rank_zero_has_read_is_sent_once_and_all_ranks_forecast_alike(results):
    first, second = results["history"]
    assert first["runs"] == second["runs"] == 4
    assert first["rows"] == second["rows"]
    assert first["rows"] != results["with"][0]["rows"]
    assert collectives(results, "history") == {"all_reduce": first["flushes"] + 1, "broadcast_object_list": 3}
