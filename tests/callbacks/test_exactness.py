"""Losses and counters are what training really had, in every way to train."""

from collections import UserDict

import numpy as np
import pytest
import torch

from lightning_scaling.callbacks import ScalingLawMonitor

PER_BATCH = 10**18


def observe(**settings):
    return ScalingLawMonitor(journal=False, max_overhead=1, **settings)


def flops_of(batch):
    return PER_BATCH * len(batch)


@pytest.mark.parametrize("accumulate", [1, 4, 3])
def test_accumulation_with_a_short_last_group(both, module, fit, true_steps, accumulate):
    monitor, model = observe(flops=flops_of, count=3), module(both)
    fit(both, monitor, model, accumulate_grad_batches=accumulate)
    expected = true_steps(model.true, accumulate, per_epoch=6)
    assert monitor.run.step.tolist() == list(range(1, len(expected) + 1))
    # Dividing by 3 in float32 loses a bit now and then, which nothing can bring back.
    np.testing.assert_allclose(monitor.run.loss, expected, rtol=2e-7 if accumulate == 3 else 0)
    counted = monitor.counters
    assert counted["micro_batches"] == 12
    assert counted["steps"] == counted["optimizer_steps"] == len(expected)
    assert counted["samples"] == 44
    assert counted["tokens"] == 132
    assert counted["flops"] == 44 * PER_BATCH


def test_accumulation_that_changes(pl, module, fit):
    monitor, model = observe(), module(pl)
    plan = pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 4})
    fit(pl, [monitor, plan], model, max_epochs=2)
    losses = [float(loss) for loss in model.true]
    expected = [*losses[:6], np.mean(losses[6:10]), np.mean(losses[10:12])]
    np.testing.assert_array_equal(monitor.run.loss, expected)
    assert monitor.counters["samples"] == 44


def test_half_precision_losses_come_back_whole(pl, module, fit, true_steps):
    monitor, model = observe(), module(pl)
    fit(pl, monitor, model, accumulate_grad_batches=4, precision="bf16-true")
    assert model.true[0].dtype is torch.bfloat16
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 4, per_epoch=6))


def test_mixed_precision(pl, module, fit, true_steps):
    monitor, model = observe(), module(pl)
    fit(pl, monitor, model, precision="bf16-mixed")
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 1, per_epoch=6))


def test_dict_outputs(both, module, fit, true_steps):
    monitor, model = observe(), module(both, "as_dict")
    fit(both, monitor, model, accumulate_grad_batches=4)
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 4, per_epoch=6))


def test_manual_optimization(both, module, fit, true_steps):
    monitor, model = observe(flops=flops_of), module(both, "manual")
    fit(both, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 1, per_epoch=6))
    assert monitor.counters["flops"] == 44 * PER_BATCH


def test_manual_accumulation(pl, module, fit, true_steps):
    monitor, model = observe(), module(pl, "manual_grouped")
    fit(pl, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 4, per_epoch=6))
    assert monitor.counters["micro_batches"] == 12


def test_two_optimizers_make_one_step_of_each_batch(both, module, fit, true_steps):
    monitor, model = observe(), module(both, "manual_two", optimizers=2)
    fit(both, monitor, model)
    assert monitor.run.step.tolist() == list(range(1, 13))
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 1, per_epoch=6))
    assert monitor.run.lr.tolist() == [0.01] * 12
    assert (monitor.counters["steps"], monitor.counters["optimizer_steps"]) == (12, 24)


def test_optimizers_that_lightning_does_not_see(pl, module, fit, true_steps):
    model = module(pl, "manual")
    wrapped = model.optimizers
    model.optimizers = lambda: wrapped(use_pl_optimizer=False)
    monitor = observe()
    fit(pl, monitor, model)
    np.testing.assert_array_equal(monitor.run.loss, true_steps(model.true, 1, per_epoch=6))
    assert monitor.counters["samples"] == 44


def test_skipped_steps_count_as_steps_without_a_loss(both, module, fit):
    monitor, model = observe(), module(both, "skipping")
    fitted = fit(both, monitor, model)
    had_loss = [batch % 6 % 3 != 1 for batch in range(12)]
    assert monitor.run.step.tolist() == [step + 1 for step in range(12) if had_loss[step]]
    np.testing.assert_array_equal(
        monitor.run.loss, [float(loss) for loss, had in zip(model.true, had_loss, strict=True) if had]
    )
    assert monitor.counters["skipped"] == 4
    assert monitor.counters["steps"] == fitted.global_step == 12
    assert monitor.counters["samples"] == 44


def test_a_group_with_a_skipped_batch_is_the_mean_of_the_others(pl, module, fit):
    monitor, model = observe(), module(pl, "skipping")
    fit(pl, monitor, model, accumulate_grad_batches=4, max_epochs=1)
    losses = [float(loss) for loss in model.true]
    np.testing.assert_array_equal(monitor.run.loss, [np.mean([losses[0], losses[2], losses[3]]), losses[5]])


def test_the_learning_rate_is_the_one_used(both, module, fit):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))

    monitor = observe()
    fit(both, monitor, module(both, schedule=schedule), accumulate_grad_batches=2)
    np.testing.assert_allclose(monitor.run.lr, [0.01 / (1 + epoch) for epoch in range(6)], rtol=1e-15)


def test_a_rate_that_is_a_tensor(pl, module, fit):
    def schedule(optimizer):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)

    monitor = observe()
    fit(pl, monitor, module(pl, schedule=schedule), max_epochs=1)
    np.testing.assert_array_equal(monitor.run.lr, [0.5 * 0.5**epoch for epoch in range(6)])


@pytest.mark.parametrize("wrap", [lambda x: {"x": x}, lambda x: UserDict(x=x)])
def test_tokens_as_tensors(pl, module, loader, fit, wrap):
    def tokens(batch):
        return (batch["x"] > 0).sum()

    monitor, model = observe(count=tokens), module(pl)
    batches = loader(wrap=wrap)
    fit(pl, monitor, model, batches=batches)
    expected = int((batches.dataset > 0).sum())
    assert monitor.counters["tokens"] == 2 * expected
    assert monitor.counters["samples"] == 44


def test_flops_are_measured_for_each_batch_shape(pl, module, fit):
    monitor = observe()
    fit(pl, monitor, module(pl))
    # Two layers 4 x 8 and 8 x 2: forward and weight gradients of both, input gradient of the second only.
    assert monitor.counters["flops"] == 44 * 2 * (4 * 8 * 2 + 8 * 2 * 3)
    assert monitor.run.meta["flops"] == "counter"


def test_flops_follow_layers_that_are_unfrozen(pl, module, fit):
    model = module(pl)
    model.net[0].requires_grad_(False)

    class Unfreeze(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].requires_grad_(trainer.current_epoch > 0)

    monitor = observe()
    fit(pl, [Unfreeze(), monitor], model, batches=24)
    # Frozen, the first layer has neither gradient, and the second only that of its weights.
    assert monitor.counters["flops"] == 24 * 2 * (4 * 8 + 8 * 2 * 2) + 24 * 2 * (4 * 8 * 2 + 8 * 2 * 3)


def test_sums_beyond_64_bits_stay_exact(pl, module, fit):
    monitor = observe(flops=7 * 10**18 + 1)
    fit(pl, monitor, module(pl))
    assert monitor.counters["flops"] == 12 * (7 * 10**18 + 1)


def test_a_loss_that_is_not_finite_is_counted_and_never_averaged(pl, module, fit):
    model = module(pl)
    plain = model.loss_of
    model.loss_of = lambda batch: plain(batch) * (float("nan") if len(model.true) == 3 else 1.0)
    monitor = observe()
    fit(pl, monitor, model, max_epochs=1)
    assert 4 not in monitor.run.step
    assert np.isfinite(monitor.run.loss).all()
    assert monitor.counters["skipped"] == 0
