"""Two processes train one model: both know the same noise scale, and train as they would have without."""

import json
import math
import subprocess
import sys
import textwrap

import pytest

from lightning_scaling.callbacks.gradient_noise import NoiseScale

CODE = """
    import json, math, sys, warnings
    import torch
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import DDPStrategy
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
    from lightning_scaling.callbacks import ScalingLawMonitor, gradients

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gradients._EVERY, gradients._SLOTS = 4, 100  # short runs meet at few flushes
    DIMENSIONS, DISTANCE = 40, 2.0

    class Mean(pl.LightningModule):
        def __init__(self, unused=False, rate=1e-6):
            super().__init__()
            self.w = torch.nn.Parameter(torch.full((DIMENSIONS,), math.sqrt(DISTANCE / DIMENSIONS)))
            self.other = torch.nn.Linear(1, 1) if unused else None
            self.rate = rate
            self.hooks = set()
        def training_step(self, batch, batch_idx):
            self.hooks.add(bool(self.w._backward_hooks))
            loss = (self.w - batch).square().sum(1).mean() / 2
            if self.other is not None and self.global_rank == 1:
                loss = loss + 0 * self.other.weight.sum()
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.rate)

    class Write(pl.Callback):
        def __init__(self, name, monitor):
            self.name, self.monitor = name, monitor
        def on_fit_end(self, trainer, module):
            state = {} if self.monitor is None else self.monitor.state_dict()
            hooked = any(bool(parameter._backward_hooks) for parameter in module.parameters())
            with open(f"{self.name}-{trainer.global_rank}.json", "w") as file:
                json.dump({"gradients": state.get("gradients"), "hooked": sorted(module.hooks), "left": hooked,
                           "weights": module.w.tolist(), "steps": trainer.global_step}, file)

    def train(name, batches, monitored=True, rate=1e-6, accumulate=1, unused=False, same=False, **settings):
        torch.manual_seed(0)
        data = torch.randn(batches * 8, DIMENSIONS, generator=torch.Generator().manual_seed(3))
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=False)
        monitor = ScalingLawMonitor(journal=False, max_overhead=1, history=False, on_advice=None) if monitored else None
        callbacks = [Write(name, monitor)] if monitor is None else [monitor, Write(name, monitor)]
        trainer = pl.Trainer(accelerator="cpu", devices=2, max_epochs=1, logger=False, enable_checkpointing=False,
                             strategy=DDPStrategy(start_method="fork", **settings), enable_progress_bar=False,
                             enable_model_summary=False, accumulate_grad_batches=accumulate,
                             use_distributed_sampler=not same, callbacks=callbacks)
        trainer.fit(Mean(unused, rate), loader)

    train("plain", 300)
    train("views", 300, unused=True, gradient_as_bucket_view=True, find_unused_parameters=True)
    train("accumulated", 800, accumulate=4)
    train("same data", 60, same=True)
    train("compressed", 60, ddp_comm_hook=default_hooks.fp16_compress_hook)
    for accumulate in (1, 3):
        for monitored in (True, False):
            train(f"pair {accumulate} {monitored}", 60, monitored, rate=0.1, accumulate=accumulate)
"""
NOISE_SCALE = 40 / 2.0
CASES = {"plain": 8, "views": 8, "accumulated": 32}


def estimate(rank):
    noise = NoiseScale()
    noise.load_state_dict(rank["gradients"]["noise"])
    return noise.estimate()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
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


@pytest.mark.parametrize("name", CASES)
def test_both_ranks_know_the_same_noise_scale_and_it_is_true(results, name):
    first, second = results(name)
    assert first["gradients"] == second["gradients"]
    assert first["gradients"]["batch"] == CASES[name]
    found = estimate(first)
    assert found.low <= NOISE_SCALE <= found.high
    assert found.scale == pytest.approx(NOISE_SCALE, rel=0.5)
    assert first["gradients"]["norm"] == pytest.approx(math.sqrt(2 + 40 / CASES[name]), rel=0.3)


@pytest.mark.parametrize("name", CASES)
def test_hooks_are_there_for_single_steps_only(results, name):
    for rank in results(name):
        assert rank["hooked"] == ([False] if name == "accumulated" else [False, True])
        assert not rank["left"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_run_is_the_same_with_and_without(results, accumulate):
    watched, bare = results(f"pair {accumulate} True"), results(f"pair {accumulate} False")
    assert watched[0]["gradients"]["noise"]["count"] >= 4
    assert [rank["weights"] for rank in watched] == [rank["weights"] for rank in bare]


def test_nothing_is_said_of_ranks_that_see_the_same_data(results):
    for rank in results("same data"):
        assert rank["gradients"]["noise"]["count"] >= 10
        assert estimate(rank) is None


def test_nothing_is_read_where_a_hook_changes_what_ranks_share(results):
    for rank in results("compressed"):
        assert rank["gradients"]["norm"] is None
        assert rank["hooked"] == [False]
