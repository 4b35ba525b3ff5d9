"""Every sentence the adviser can produce, in full: read before you change one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_scaling.advice import Adviser, RunState
from lightning_scaling.advice.matched_runs import LagReport, LearningRateOptimum
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast

IDLE = {
    "idle": 20,
    "tensors": 24,
    "idle_share": 0.73,
    "idle_names": "`model.blocks.0`, `model.blocks.1`",
    "idle_since": 480,
}


def path(steps):
    return np.full(np.shape(steps), 3.0), np.full(np.shape(steps), 0.02)


GOOD = Forecast(500, 1000, "relative_multi_power", "ok", "", path=path)
LOW = Forecast(500, 1000, "relative_multi_power", "low", "the warm-up is not over", path=path)
EARLY = Forecast(20, 1000, "relative_multi_power", "none", "fewer than 4 points after the warm-up")


def dev(kind, excess=0.062, direction="above", e=250.0, ratio=math.nan, since=400):
    return Deviation(True, e, direction, since, "deviating", excess, 3.1, kind, ratio)


def state(**changes):
    values = {
        "step": 500,
        "fraction": 0.5,
        "loss": 3.1,
        "forecast": GOOD,
        "deviation": Deviation(False, 0.8, None, None, "on track", 0.001, 3.1),
        "divergence": None,
        "nonfinite_tail": 0,
        "nonfinite": 0,
        "rate_ratio": 1.0,
        "target": None,
    }
    return RunState(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "action", "cause", "sentence"),
    [
        (
            {},
            "continue",
            None,
            "At step 500: on track; the loss at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043).",
        ),
        (
            {"deviation": Deviation(False, 1.0, None, None, "undecidable"), "metric": "val_acc"},
            "continue",
            None,
            "At step 500: nothing wrong seen; `val_acc` at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043).",
        ),
        (
            {"forecast": LOW},
            "continue",
            None,
            "At step 500: on track; the loss at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043), "
            "with low trust: the warm-up is not over.",
        ),
        (
            {"forecast": EARLY, "step": 20},
            "continue",
            None,
            "At step 20 it is too early for a forecast: fewer than 4 points after the warm-up.",
        ),
        (
            {"forecast": EARLY, "step": 20, "hint": "A hint: the peak learning rate is high."},
            "continue",
            None,
            "At step 20 it is too early for a forecast: fewer than 4 points after the warm-up. "
            "A hint: the peak learning rate is high.",
        ),
        (
            {"batch_hint": "A hint on the batch: it is large."},
            "continue",
            None,
            "At step 500: on track; the loss at step 1,000 is forecast at 3 (90 % between 2.957 and 3.043). "
            "A hint on the batch: it is large.",
        ),
        (
            {"nonfinite": 1, "nonfinite_total": 1},
            "investigate",
            "precision",
            "1 loss before step 500 came out not finite (1 in the whole run): one may be a bad batch; if "
            "more follow, check first whether numbers overflow, as they do in half precision, then the "
            "learning rate, then the data.",
        ),
        (
            {"nonfinite": 3, "nonfinite_total": 7, "facts": {"precision": "16-mixed"}},
            "investigate",
            "precision",
            "3 losses before step 500 came out not finite (7 in the whole run): one may be a bad batch; if "
            "more follow, check first whether half precision overflows, then the learning rate, then the "
            "data.",
        ),
        (
            {"nonfinite": 2, "metric": "val_loss", "nonfinite_total": 2},
            "investigate",
            "precision",
            "2 values of `val_loss` before step 500 came out not finite (2 in the whole run): one may be a "
            "bad batch; if more follow, check first whether numbers overflow, as they do in half precision, "
            "then the learning rate, then the data.",
        ),
        (
            {"nonfinite": 20, "nonfinite_tail": 20, "loss": math.nan},
            "stop",
            "precision",
            "The last 20 losses, since about step 481, are not finite: the weights are very likely lost. Go "
            "back to a checkpoint from before that step; check first whether numbers overflow, as they do in "
            "half precision, then the learning rate, then the data. Stopping now saves 50% of the planned "
            "compute.",
        ),
        (
            {"divergence": Divergence(450, 0.3, 3.0, False), "loss": 4.2},
            "investigate",
            "learning_rate",
            "The loss has gone from 3 back up to 4.2 since step 450, 30% of what the run had gained; check "
            "first the learning rate, which may be too high, then the precision and the clipping of "
            "gradients, then the data. If it does not come back, the run has diverged.",
        ),
        (
            {"divergence": Divergence(450, 0.3, 3.0, False), "loss": 4.2, "abrupt": True},
            "investigate",
            "data",
            "The loss has gone from 3 back up to 4.2 since step 450, 30% of what the run had gained, all at "
            "once; check first the data that arrived since then (a damaged shard, wrong labels, inputs "
            "scaled in another way), then the learning rate, then the precision. If it does not come back, "
            "the run has diverged.",
        ),
        (
            {"divergence": Divergence(450, 0.3, 3.0, False), "loss": 4.2, "abrupt": False},
            "investigate",
            "learning_rate",
            "The loss has gone from 3 back up to 4.2 since step 450, 30% of what the run had gained, bit by "
            "bit; check first the learning rate, which may be too high, then the precision and the clipping "
            "of gradients, then the data. If it does not come back, the run has diverged.",
        ),
        (
            {"divergence": Divergence(450, 0.8, 3.0, True), "loss": 6.2, "abrupt": True},
            "stop",
            "data",
            "The loss has gone from 3 back up to 6.2 since step 450 and stays there: 80% of what the run had "
            "gained is lost. Go back to a checkpoint from before that step; check first the data that "
            "arrived since then (a damaged shard, wrong labels, inputs scaled in another way), then the "
            "learning rate, then the precision. Stopping now saves 50% of the planned compute.",
        ),
        (
            {"divergence": Divergence(450, 0.8, 0.9, False), "loss": 0.4, "mode": "max", "metric": "val_acc"},
            "investigate",
            "learning_rate",
            "`val_acc` has gone from 0.9 back down to 0.4 since step 450, 80% of what the run had gained; "
            "check first the learning rate, which may be too high, then the precision and the clipping of "
            "gradients, then the data. If it does not come back, the run has diverged.",
        ),
        (
            {"rate_ratio": 3.0},
            "investigate",
            "learning_rate",
            "At step 500 the learning rate used is 3 times the planned one, so the forecast no longer "
            "applies; if the change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise "
            "mend the schedule.",
        ),
        (
            {"facts": {"state_lost": 480}},
            "investigate",
            "optimizer_state",
            "Training went on at step 480 with an optimizer that had lost its state (momentum and averages), "
            "so its first steps may be far off. Check first whether the checkpoint holds the optimizer and "
            "was loaded with `ckpt_path`; if the state was dropped on purpose, let the learning rate warm up "
            "again.",
        ),
        (
            {"facts": IDLE},
            "investigate",
            "frozen_layers",
            "20 of 24 parameter tensors, 73% of the parameters (`model.blocks.0`, `model.blocks.1`), have "
            "had no gradient since about step 480, though they had one before: they no longer learn. If they "
            "were frozen on purpose, announce it with `mark(reason)`; otherwise look for what froze them or "
            "cut them off from the loss.",
        ),
        (
            {"deviation": dev("level_shift"), "loss": 3.162},
            "investigate",
            "data",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance); check first the data that arrived since then (a damaged shard, wrong "
            "labels, inputs scaled in another way), then the learning rate, then the precision. If nothing "
            "changes, the run ends about 0.062 higher, and 50% of the planned compute is still to be spent.",
        ),
        (
            {"deviation": replace(dev("level_shift"), basis="past_runs"), "loss": 3.162},
            "investigate",
            "data",
            "The loss is 3.162 at step 500 where 3.1 was to be expected at step 400 from how past runs under this "
            "schedule went on: 2.0% above its path (odds 250 to 1 against chance); check first the data that arrived "
            "since then (a damaged shard, wrong labels, inputs scaled in another way), then the learning rate, then "
            "the precision. If nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is "
            "still to be spent.",
        ),
        (
            {"deviation": dev("level_shift"), "loss": 3.162, "abrupt": True},
            "investigate",
            "data",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance), all at once; check first the data that arrived since then (a damaged "
            "shard, wrong labels, inputs scaled in another way), then the learning rate, then the precision. "
            "If nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is still to "
            "be spent.",
        ),
        (
            {"deviation": dev("slow_divergence"), "loss": 3.162},
            "investigate",
            "learning_rate",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance), and it moves further and further away; check first the learning rate, "
            "which may be too high, then the precision and the clipping of gradients, then the data. If "
            "nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is still to be "
            "spent.",
        ),
        (
            {"deviation": dev("slow_divergence"), "loss": 3.162, "abrupt": False},
            "investigate",
            "learning_rate",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance), bit by bit; check first the learning rate, which may be too high, then "
            "the precision and the clipping of gradients, then the data. If nothing changes, the run ends "
            "about 0.062 higher, and 50% of the planned compute is still to be spent.",
        ),
        (
            {"deviation": dev("plateau"), "loss": 3.162, "facts": {"tensors": 24}},
            "investigate",
            "learning_rate",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds "
            "250 to 1 against chance), and it has stopped improving; check first the learning rate, which may have "
            "become too low (all 24 parameter tensors that had a gradient still have one), then whether the data "
            "repeat. If nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is still to "
            "be spent.",
        ),
        (
            {"deviation": dev("plateau"), "loss": 3.162},
            "investigate",
            "frozen_layers",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance), and it has stopped improving; check first whether layers are frozen or "
            "cut off from the loss, then whether the learning rate has become too low, then whether the data "
            "repeat. If nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is "
            "still to be spent.",
        ),
        (
            {"deviation": dev("level_shift"), "loss": 3.162, "nonfinite_total": 3, "last_nonfinite": 470},
            "investigate",
            "precision",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance); check first whether numbers overflow, as they do in half precision, then "
            "the learning rate, then the data. If nothing changes, the run ends about 0.062 higher, and 50% "
            "of the planned compute is still to be spent.",
        ),
        (
            {"deviation": dev("level_shift"), "loss": 3.162, "marked": (398, "resumed at step 398")},
            "investigate",
            "optimizer_state",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance); check first whether the optimizer's state was restored at the resume, "
            "then whether the data go on where they had stopped. If nothing changes, the run ends about "
            "0.062 higher, and 50% of the planned compute is still to be spent.",
        ),
        (
            {"deviation": dev("level_shift"), "loss": 3.162, "marked": (398, "new data")},
            "investigate",
            "marked_change",
            "The loss is 3.162 at step 500 where 3.1 was forecast at step 400: 2.0% above its path (odds 250 "
            "to 1 against chance); check first what was announced at step 398 (new data), then the data. If "
            "nothing changes, the run ends about 0.062 higher, and 50% of the planned compute is still to be "
            "spent.",
        ),
        (
            {"deviation": dev("variance_increase", direction=None, ratio=3.1), "loss": 3.1},
            "investigate",
            "batch",
            "The noise of the loss is 3.1 times what is usual in this run at step 500 (odds 250 to 1 against "
            "chance); check first whether the batch has become smaller (fewer samples, ranks or accumulated "
            "batches), then the quality of the data, then the learning rate.",
        ),
        (
            {"deviation": dev("better_than_forecast", -0.093, "below", 1000000000.0), "loss": 3.007},
            "investigate",
            "repeated_data",
            "The loss is 3.007 at step 500 where 3.1 was forecast at step 400: 3.0% below its path (odds "
            "over a million to 1 against chance); check first whether the same data come again and again, "
            "then whether the answer leaks into the inputs, then whether the loss is still computed as "
            "before.",
        ),
        (
            {
                "deviation": dev("better_than_forecast", -0.093, "below", 1000000000.0),
                "loss": 3.007,
                "repeats": Repeats(2.5, 200),
            },
            "investigate",
            "repeated_data",
            "The loss is 3.007 at step 500 where 3.1 was forecast at step 400: 3.0% below its path (odds "
            "over a million to 1 against chance); check first whether the same data come again and again "
            "(this is pass 3 over the data), then whether the answer leaks into the inputs, then whether the "
            "loss is still computed as before.",
        ),
        (
            {"deviation": dev("better_than_forecast", -0.093, "below", 1000000000.0), "loss": 3.007, "held_out": True},
            "investigate",
            "leak",
            "The loss is 3.007 at step 500 where 3.1 was forecast at step 400: 3.0% below its path (odds "
            "over a million to 1 against chance); check first whether data held out leak into training, "
            "then whether the metric or its data have changed.",
        ),
        (
            {"lag": LagReport(2.68, 2.88, 4, 0.11, 0, 40), "fraction": 0.06, "step": 60},
            "investigate",
            "warmup",
            "The loss is 3.1 at step 60 where 4 earlier runs of this size and plan had 2.68 to 2.88: 11.0% "
            "higher than their mean. They warmed up over 40 steps, this run over none; check first the "
            "warm-up, then the learning rate, then the data. Starting anew now costs 6% of the planned "
            "compute.",
        ),
        (
            {"lag": LagReport(2.68, 2.88, 4, 0.11, 40, 40, 0.5), "fraction": 0.06, "step": 60},
            "investigate",
            "batch",
            "The loss is 3.1 at step 60 where 4 earlier runs of this size and plan had 2.68 to 2.88: 11.0% "
            "higher than their mean. Its batch is 0.5 times theirs; check that first, then the data. "
            "Starting anew now costs 6% of the planned compute.",
        ),
        (
            {
                "lag": LagReport(2.68, 2.88, 4, 0.11, 40, 40, 0.25),
                "fraction": 0.06,
                "step": 60,
                "facts": {
                    "unit": "samples",
                    "batch": 64.0,
                    "noise_scale": 900.0,
                    "noise_low": 700.0,
                    "noise_high": 1e3,
                },
            },
            "investigate",
            "batch",
            "The loss is 3.1 at step 60 where 4 earlier runs of this size and plan had 2.68 to 2.88: 11.0% "
            "higher than their mean. Its batch is 0.25 times theirs, which by the gradient-noise scale of 900 "
            "samples takes 3.3 times their steps to the same loss; check that first, then the data. Starting "
            "anew now costs 6% of the planned compute.",
        ),
        (
            {"lag": LagReport(2.68, 2.88, 4, 0.11, 40, 40, 1.0), "fraction": 0.06, "step": 60},
            "investigate",
            "data",
            "The loss is 3.1 at step 60 where 4 earlier runs of this size and plan had 2.68 to 2.88: 11.0% "
            "higher than their mean. Their learning rate was the same: check first the data and how the "
            "inputs are scaled, then the initialization, then the precision. Starting anew now costs 6% of "
            "the planned compute.",
        ),
        (
            {
                "learning_rate_optimum": LearningRateOptimum(0.03, 0.004, 0.003, 0.005, 0.12, 7),
                "fraction": 0.06,
                "step": 60,
            },
            "investigate",
            "learning_rate",
            "The peak learning rate of 0.03 is 7.5 times the best one of the family, 0.004 (95 % between "
            "0.003 and 0.005, from 7 runs of this size): by those runs, this one ends about 0.12 higher for "
            "it. Correct it before changing the size; starting anew now costs 6% of the planned compute.",
        ),
        (
            {
                "learning_rate_optimum": LearningRateOptimum(0.0003, 0.004, 0.003, 0.005, 0.12, 7),
                "fraction": 0.06,
                "step": 60,
            },
            "investigate",
            "learning_rate",
            "The peak learning rate of 0.0003 is 1/13 of the best one of the family, 0.004 (95 % between "
            "0.003 and 0.005, from 7 runs of this size): by those runs, this one ends about 0.12 higher for "
            "it. Correct it before changing the size; starting anew now costs 6% of the planned compute.",
        ),
        (
            {"target": 2.9},
            "stop",
            None,
            "The final loss is forecast at 3 (90 % between 2.957 and 3.043) and misses the target 2.9 with "
            "probability 99.6%. Stopping now saves 50% of the planned compute.",
        ),
    ],
)
def test_every_sentence(changes, action, cause, sentence):
    advice = Adviser().advise(state(**changes))
    assert advice.reason == sentence
    assert advice.action == action
    assert advice.evidence.get("cause") == cause
    assert advice.saving == (0.5 if action == "stop" else 0.0)
    assert 0 <= advice.confidence <= 1


def test_without_a_planned_end_no_share_of_the_compute_is_named():
    stop = Adviser().advise(state(nonfinite_tail=30, nonfinite=30, fraction=None))
    assert (stop.action, stop.saving) == ("stop", 0)
    off = Adviser().advise(state(deviation=dev("level_shift"), loss=3.162, fraction=None))
    assert off.reason.endswith("If nothing changes, the run ends about 0.062 higher.")
    assert "%" not in stop.reason


def test_a_metric_that_is_to_be_high_falls_below_its_path():
    low = dev("plateau", -0.062, "below")
    advice = Adviser().advise(state(deviation=low, loss=3.038, metric="val_acc", mode="max"))
    assert advice.reason == (
        "`val_acc` is 3.038 at step 500 where 3.1 was forecast at step 400: 2.0% below its path (odds 250 to 1 against "
        "chance), and it has stopped improving; check first whether layers are frozen or cut off from the loss, then "
        "whether the learning rate has become too low, then whether the data repeat. If nothing changes, the run ends "
        "about 0.062 lower, and 50% of the planned compute is still to be spent."
    )
