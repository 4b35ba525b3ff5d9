"""Several processes, however started: counts, one forecast on all ranks, results where ``fit`` was called."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CODE = """
    import json, sys, warnings
    import torch
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset
    from lightning_scaling.callbacks import ScalingLawMonitor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    class Model(pl.LightningModule):
        def __init__(self, sharded=False):
            super().__init__()
            self.sharded = sharded
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        def configure_model(self):
            if self.sharded:
                from torch.distributed._composable.fsdp import fully_shard
                for layer in (self.net[0], self.net[2], self.net):
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        def training_step(self, batch, batch_idx):
            return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]) + 1
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    def data():
        x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    def train(monitor, sharded=False, **settings):
        torch.manual_seed(0)
        trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
                             enable_progress_bar=False, enable_model_summary=False, callbacks=monitor, **settings)
        trainer.fit(Model(sharded), data())
        return trainer

    def known(monitor):
        run = monitor.run
        return {"counters": {name: count for name, count in monitor.counters.items() if name != "seconds"},
                "steps": run.step.tolist(), "params": run.params, "tokens_per_step": run.tokens_per_step,
                "final": monitor.forecast.final, "advice": monitor.advice.action, "rows": len(monitor.forecast_log)}

    def monitor():
        return ScalingLawMonitor(journal=False, max_overhead=1, history=False)
"""

MULTIPROCESSING = """
    if __name__ == "__main__":
        found = {}
        for name, devices in (("ddp_spawn", 2), ("ddp_fork", 4)):
            one = monitor()
            train(one, strategy=name, devices=devices)
            found[name] = known(one)
        train(one, strategy="ddp_fork", devices=2)  # the same callback once more
        found["again"] = known(one)
        print(json.dumps(found))
"""

NODES = """
    if __name__ == "__main__":
        from lightning.pytorch.strategies import ModelParallelStrategy

        found = {}
        for name, strategy in (("ddp", "ddp"), ("fsdp2", ModelParallelStrategy(2, 1))):
            one = monitor()
            train(one, name == "fsdp2", strategy=strategy, devices=1, num_nodes=2)
            found[name] = known(one) | {"counting": one.state_dict()["sizes"]}
        print(json.dumps(found))
"""


def start(folder: Path, main: str, **environment: str) -> subprocess.Popen[str]:
    script = folder / "train.py"
    script.write_text(textwrap.dedent(CODE) + textwrap.dedent(main))
    told = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(script)], cwd=folder, env=told, **pipes)


def ended(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_what_processes_of_the_trainer_have_found_is_known_where_fit_was_called(tmp_path):
    found = ended(start(tmp_path, MULTIPROCESSING))
    for name, world in (("ddp_spawn", 2), ("ddp_fork", 4), ("again", 2)):
        counters = found[name]["counters"]
        assert (counters["samples"], counters["steps"]) == (800, 200 // world)
        assert found[name]["steps"][-1] == 200 // world
        assert found[name]["params"] == 49
        assert found[name]["tokens_per_step"] == 4 * world
        assert found[name]["rows"] > 5
    assert found["ddp_spawn"]["final"] != found["ddp_fork"]["final"]
    assert not list(tmp_path.glob("lightning-scaling-*"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_nodes_with_whole_and_with_sharded_parameters(tmp_path):
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    nodes = [start(tmp_path, NODES, NODE_RANK=str(rank), **shared) for rank in (0, 1)]
    first, second = map(ended, nodes)
    for name in ("ddp", "fsdp2"):
        assert first[name] == second[name]
        assert first[name]["counters"]["samples"] == 800
        assert first[name]["counters"]["steps"] == 100
        assert first[name]["params"] == 49
    assert first["fsdp2"]["counters"]["flops"] == first["ddp"]["counters"]["flops"]
    assert "Not counted" not in json.dumps(first)
