"""What-ifs asked of a run that trains."""

import json

import pytest
import torch
from click.testing import CliRunner

from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.cli import main
from lightning_scaling.schedule import Plan


def test_a_live_run_is_asked_what_if(pl, module, fit, tmp_path):
    asked = []

    class Asking(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 128:
                asked.extend(monitor.what_ifs())
                asked.append(monitor.what_if(Plan([1, 250], [0.01, 0.0])))

    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)

    monitor = ScalingLawMonitor(on_advice=None, max_overhead=1)
    assert monitor.what_if("stop") is None
    assert monitor.what_ifs() == []
    fit(pl, [monitor, Asking()], module(pl, schedule=cosine), batches=100, max_steps=200, max_epochs=-1)
    names = [answer.name for answer in asked]
    assert names[:2] == ["carry on", "stop now"]
    assert names[-1] == "own plan"
    assert {answer.step for answer in asked} == {asked[0].step}
    assert 100 <= asked[0].step <= 128
    assert [answer.total_steps for answer in asked if answer.name.startswith("train")] == [400]
    assert asked[-1].total_steps == 250
    for answer in asked:
        lower, upper = answer.interval()
        assert lower <= answer.final <= upper
    after = monitor.what_if("decay", over=0.1)
    assert after.step == 200
    assert after.total_steps == 220
    with pytest.raises(ValueError, match="nothing of it is ahead"):
        monitor.what_if("longer")
    (journal,) = tmp_path.glob("scaling_journals/*.jsonl")
    reported = CliRunner().invoke(main, ["forecast", str(journal), "--what-if", "decay:0.1", "--json"])
    assert reported.exit_code == 0, reported.stderr
    again = json.loads(reported.stdout)["what_ifs"][1]
    assert again["final"] == pytest.approx(after.final, rel=1e-6)
    assert again["reason"] == after.reason
