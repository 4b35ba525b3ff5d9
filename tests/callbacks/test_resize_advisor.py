"""Advice on size during real trainings."""

import copy
import json
import pickle
import threading

import mlflow
import numpy as np
import pytest
import torch

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling.advice.resize.state import Shape
from lightning_scaling.callbacks import ResizeAdvisor, ScalingAdviceWarning, ScalingLawMonitor

STEPS = 60


def past(size, steps, coefficient):
    """A run of 4 samples a step at the rate of the modules here, that ends where a planted law says."""
    step = np.arange(1, steps + 1)
    loss = 1 + 1 / size**0.4 + coefficient / (4 * step) ** 0.4
    return Run(
        step,
        loss,
        np.full(steps, 0.01),
        total_steps=steps,
        planned_lr=([1, steps], [0.01, 0.01]),
        params=size,
        tokens_per_step=4,
    )


def family(coefficient):
    sizes = (2, 4, 8, 16, 32, 64, 128)
    return RunHistory([past(size, steps, coefficient) for size in sizes for steps in (60, 200, 700)])


@pytest.fixture
def heard():
    return []


@pytest.fixture
def watch(heard):
    def make(learned, **settings):
        advisor = ResizeAdvisor(**settings)
        return [ScalingLawMonitor(history=learned, on_advice=heard.append, max_overhead=1), advisor]

    return make


def train(pl, fit, module, callbacks, **settings):
    fit(pl, callbacks, module(pl), batches=40, **{"max_steps": STEPS, "max_epochs": -1} | settings)
    return callbacks[-1]


@pytest.mark.parametrize("first", [0, 1])
def test_a_model_too_large_is_told_once(both, fit, module, watch, heard, first, tmp_path):
    callbacks = watch(family(30.0))
    advisor = callbacks[1]
    train(both, fit, module, callbacks[:: -1 if first else 1])
    assert advisor.advice.action == "resize"
    assert "58 are " in advisor.advice.reason
    assert "times too many and its 240 samples" in advisor.advice.reason
    assert [one for one in heard if one.action == "resize"] == [advisor.advice]
    (journal,) = tmp_path.glob("scaling_journals/*.jsonl")
    marks = [json.loads(line) for line in journal.read_text().splitlines() if '"resize"' in line]
    (mark,) = [row for row in marks if row.get("op") == "mark" and row["reason"] == "resize"]
    assert mark["data"]["reason"] == advisor.advice.reason
    updates = replay(Run.from_journal(journal))
    assert updates[-1].step == STEPS


def test_the_growing_data_question(pl, fit, module, watch):
    advisor = watch(family(2.6))
    assert advisor[1].when_data_grows(2) is None
    advisor = train(pl, fit, module, advisor)
    assert advisor.when_data_grows(2).evidence["growth"] == pytest.approx(2, rel=0.15)


def test_the_right_size_is_left_in_peace(pl, fit, module, watch, heard):
    advisor = train(pl, fit, module, watch(family(2.6)))
    assert advisor.advice.action == "continue"
    assert "too little to change anything" in advisor.advice.reason
    assert not [one for one in heard if one.action == "resize"]


def test_without_relatives_samples_cannot_be_judged(pl, fit, module, watch):
    advisor = train(pl, fit, module, watch(False))
    assert advisor.advice.action == "continue"
    assert advisor.advice.reason.startswith("No advice on size: there are no past runs of the family to learn from")


def test_runs_given_to_the_advisor_go_first(pl, fit, module, watch):
    assert train(pl, fit, module, watch(False, history=family(30.0))).advice.action == "resize"


def test_a_history_read_beside_the_training_is_waited_for(pl, fit, module, watch, tmp_path):
    for place, run in enumerate(family(30.0)):
        run.to_csv(tmp_path / f"{place}.csv")
    advisor = train(pl, fit, module, watch(str(tmp_path)), max_steps=400)
    assert advisor.advice.action == "continue"  # the files tell no sizes
    assert "No advice on size: none of the 21 past runs holds" in advisor.advice.reason


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_tags_of_the_run(pl, fit, module, watch, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = pl.loggers.MLFlowLogger("sizes", tracking_uri=uri, artifact_location=str(tmp_path / "artifacts"))
    advisor = train(pl, fit, module, watch(family(30.0)), logger=logger, log_every_n_steps=1)
    tags = mlflow.MlflowClient(uri).get_run(logger.run_id).data.tags
    assert tags["scaling.resize.action"] == "resize"
    assert tags["scaling.resize.reason"] == advisor.advice.reason
    assert float(tags["scaling.resize.params"]) == advisor.advice.evidence["next"]["params"]


def test_the_warning_is_that_of_the_monitor(pl, fit, module):
    callbacks = [ScalingLawMonitor(history=family(30.0), max_overhead=1), ResizeAdvisor()]
    with pytest.warns(ScalingAdviceWarning, match="resize. For .* FLOPs the 21 runs of the family put"):
        train(pl, fit, module, callbacks)


def test_a_monitor_is_needed(both, fit, module):
    with pytest.raises(ValueError, match="ResizeAdvisor needs a ScalingLawMonitor among the Trainer's callbacks"):
        train(both, fit, module, [ResizeAdvisor()])


def test_the_training_is_the_same_without_it(pl, fit, module, watch, random_state):
    ends = []
    for callbacks in (watch(family(30.0)), []):
        model = module(pl)
        fit(pl, callbacks, model, batches=40, max_steps=STEPS, max_epochs=-1)
        ends.append(([weight.detach().clone() for weight in model.parameters()], random_state()))
    assert all(torch.equal(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1] == ends[1][1]


def test_what_a_checkpoint_remembers_is_not_told_again(pl, fit, module, watch, heard):
    advisor = train(pl, fit, module, watch(family(30.0)))
    state = advisor.state_dict()
    assert json.loads(json.dumps(state)) == state
    callbacks = watch(family(30.0))
    callbacks[1].load_state_dict(state)
    train(pl, fit, module, callbacks)
    assert callbacks[1].advice.action == "resize"
    assert len([one for one in heard if one.action == "resize"]) == 1
    assert callbacks[1].state_key == advisor.state_key


def test_a_failure_is_told_once_and_the_training_goes_on(pl, fit, module, watch, monkeypatch):
    def fail(self):
        raise RuntimeError("no such law.")

    monkeypatch.setattr("lightning_scaling.advice.resize.decision.Resizing.advise", fail)
    callbacks = watch(family(30.0))
    with pytest.warns(UserWarning, match="advice on size failed .RuntimeError: no such law. and is silent") as reported:
        train(pl, fit, module, callbacks)
    assert len([one for one in reported if "advice on size" in str(one.message)]) == 1
    assert callbacks[0].run.step[-1] == STEPS
    assert callbacks[1].advice is None


def test_it_can_be_copied_and_leaves_nothing_behind(pl, fit, module, watch):
    callbacks = watch(family(30.0))
    advisor = train(pl, fit, module, callbacks)
    assert copy.deepcopy(advisor).advice == advisor.advice
    assert pickle.loads(pickle.dumps(advisor)).advice.reason == advisor.advice.reason
    assert callbacks[0].watchers == []
    assert not [thread for thread in threading.enumerate() if thread.name == "lightning-scaling-resize"]


@pytest.mark.parametrize("place", ["config", "hparams", "inner"])
def test_the_shape_is_read_from_the_configuration(pl, fit, module, watch, place):
    model = module(pl)
    config = {"n_embd": 64, "n_layer": 2, "n_head": 4}
    if place == "hparams":
        model.save_hyperparameters(config)
    elif place == "config":
        model.config = config
    else:
        model.net.config = config
    callbacks = watch(family(30.0))
    fit(pl, callbacks, model, batches=40, max_steps=STEPS, max_epochs=-1)
    following = callbacks[1].advice.evidence["next"]
    assert following["width"] % following["heads"] == 0


def test_no_shape_is_made_up_for_a_model_without_blocks(pl, fit, module, watch):
    advisor = train(pl, fit, module, watch(family(30.0)))
    assert advisor.advice.evidence["next"]["width"] is None


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"history": []}, TypeError, "`history` must be a RunHistory or None, but got list"),
        ({"budget": 0}, ValueError, "`budget` must be a positive finite number"),
        ({"shape": (1,)}, ValueError, "`shape` must be .width, layers, heads., or a mapping"),
        ({"rule": "sqrt"}, ValueError, "`rule` must be one of 'step_law', 'deepseek', 'mup', but got 'sqrt'"),
        ({"least_cost": 2}, ValueError, "`least_cost` must lie between 0 and 1"),
        ({"active_params": -1}, ValueError, "`active_params` must be a positive finite number"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, said):
    with pytest.raises(error, match=said):
        ResizeAdvisor(**given)


@pytest.mark.parametrize("shape", [Shape(64, 2, 4), (64, 2, 4), {"d_model": 64, "n_layers": 2, "n_heads": 4}, False])
def test_shapes_can_be_given_in_several_ways(shape):
    assert ResizeAdvisor(shape=shape).advice is None
