"""Plans from schedulers alone: exact against stepping, quick at any length, and hands off the live objects."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as lrs

from lightning_scaling.schedule import simulate
from lightning_scaling.schedule.clock import EpochGrid
from lightning_scaling.schedule.simulate import SchedulerSpec, largest_group, plan_from_schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step"),  # SequentialLR of older torch
    pytest.mark.filterwarnings("ignore:To get the last learning rate"),
]


def make_optimizer(lr=0.1, sizes=(3,)):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(size))], "lr": lr / (i + 1)} for i, size in enumerate(sizes)]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def stepped(scheduler, optimizer, steps, every=1):
    """The rate used for each of ``steps`` optimizer steps; steps the scheduler itself."""
    used = []
    for step in range(1, steps + 1):
        used.append(optimizer.param_groups[0]["lr"])
        if step % every == 0:
            scheduler.step()
    return np.array(used)


def smooth(epoch):
    return min(1.0, (epoch + 1) / 9) * (0.6 + 0.4 * math.cos(epoch / 7))


numbers = st.integers(1, 25)
fractions = st.floats(0.05, 1.0)
LEAVES = {
    "lambda": lambda o, n, f: lrs.LambdaLR(o, smooth),
    "multiplicative": lambda o, n, f: lrs.MultiplicativeLR(o, lambda e: 0.7 if e % n == 0 else 1.01),
    "step": lambda o, n, f: lrs.StepLR(o, n, f),
    "multistep": lambda o, n, f: lrs.MultiStepLR(o, [n, n, n + 3, 2 * n], f),
    "constant": lambda o, n, f: lrs.ConstantLR(o, f, n),
    "linear": lambda o, n, f: lrs.LinearLR(o, f, 1 - f / 2, n),
    "exponential": lambda o, n, f: lrs.ExponentialLR(o, f),
    "polynomial": lambda o, n, f: lrs.PolynomialLR(o, n, 1 + f),
    "cosine": lambda o, n, f: lrs.CosineAnnealingLR(o, n, 0.01 * f),
    "restarts": lambda o, n, f: lrs.CosineAnnealingWarmRestarts(o, n, 1 + n % 3, 0.01 * f),
    "onecycle": lambda o, n, f: lrs.OneCycleLR(o, 1.0, total_steps=100 + n, pct_start=f / 2, three_phase=n % 2 == 0),
    "onecycle_linear": lambda o, n, f: lrs.OneCycleLR(o, 1.0, total_steps=100 + n, anneal_strategy="linear"),
    "triangular": lambda o, n, f: lrs.CyclicLR(o, 0.01, 0.1 + f, n, 1 + n // 2),
    "triangular2": lambda o, n, f: lrs.CyclicLR(o, 0.01, 0.1 + f, n, mode="triangular2"),
    "exp_range": lambda o, n, f: lrs.CyclicLR(o, 0.01, 0.1 + f, n, mode="exp_range", gamma=0.99),
    "cyclic_scaled": lambda o, n, f: lrs.CyclicLR(o, 0.01, 0.1 + f, n, scale_fn=lambda x: 1 / (1 + 0.1 * x)),
    "cyclic_by_step": lambda o, n, f: lrs.CyclicLR(
        o, 0.01, 0.1 + f, n, scale_fn=lambda x: 1 / (1 + 0.01 * x), scale_mode="iterations"
    ),
}
# Schedulers that torch can restart inside SequentialLR, and that do not grow beyond all bounds in a chain.
LINKS = sorted(set(LEAVES) - {"onecycle", "onecycle_linear"})
leaf = st.tuples(st.sampled_from(LINKS), numbers, fractions)
sequence = st.tuples(st.just("sequential"), st.lists(leaf, min_size=1, max_size=4), st.lists(numbers, min_size=4))
chained = st.tuples(st.just("chained"), st.lists(st.one_of(leaf, sequence), min_size=1, max_size=3))
nested = st.tuples(
    st.just("sequential"),
    st.tuples(st.one_of(chained, sequence), leaf, leaf).map(list),
    st.lists(numbers, min_size=4),
)


def build(tree, optimizer):
    if tree[0] == "sequential":
        parts = [build(part, optimizer) for part in tree[1]]
        milestones = list(itertools.accumulate(tree[2]))[: len(parts) - 1]
        try:
            return lrs.SequentialLR(optimizer, parts, milestones)
        except AttributeError:
            assume(False)  # older torch cannot begin a sequence with a chain
    if tree[0] == "chained":
        return lrs.ChainedScheduler([build(part, optimizer) for part in tree[1]])
    return LEAVES[tree[0]](optimizer, *tree[1:])


def test_short_cycles_over_a_long_run_are_followed_and_then_averaged():
    optimizer = make_optimizer()
    scheduler = lrs.CosineAnnealingWarmRestarts(optimizer, 100)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=200_000)
    assert plan.known
    assert "swings too often" in plan.why
    np.testing.assert_allclose(plan.at(np.arange(1, 2000)), stepped(scheduler, optimizer, 1999), atol=5e-4)
    assert plan.at(np.arange(50_000, 200_000)).mean() == pytest.approx(0.05, rel=0.02)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.one_of(leaf, sequence, chained, nested), st.integers(0, 50), st.integers(1, 4))
def test_the_plan_of_any_composition_is_what_stepping_gives(tree, made, every):
    optimizer = make_optimizer()
    scheduler = build(tree, optimizer)
    before = stepped(scheduler, optimizer, made, every)
    spec = SchedulerSpec(scheduler, frequency=every)
    plan = plan_from_schedulers(optimizer, [spec], start_step=made, total_steps=made + 90)
    reached = made + 90
    after = []
    try:
        for step in range(made + 1, reached + 1):
            after.append(optimizer.param_groups[0]["lr"])
            if step % every == 0:
                scheduler.step()
    except (NotImplementedError, TypeError):
        assert not plan.known  # torch cannot restart a composition inside a sequence
        assert f"fails after step {made + len(after)}" in plan.why
    else:
        assert plan.known is (min(after) >= -1e-10)
    used = np.concatenate([before, after])
    steps = np.arange(max(int(plan.steps[0]), 1), len(used) + 1)
    expected = np.maximum(used[steps - 1], 0)
    np.testing.assert_allclose(plan.at(steps), expected, atol=1e-8 * max(expected.max(), 1e-9), rtol=1e-7)


class Inverse(lrs.LRScheduler):
    """A user's scheduler: its rate is a function of the epoch."""

    def get_lr(self):
        return [base * 100 / (100 + self.last_epoch) for base in self.base_lrs]


class Dwindling(lrs.LRScheduler):
    """A user's scheduler that can only be stepped."""

    def get_lr(self):
        return [group["lr"] * (1.0 if self.last_epoch == 0 else 0.9999) for group in self.optimizer.param_groups]


class Closed(Dwindling):
    """A user's scheduler that offers a closed form too."""

    def _get_closed_form_lr(self):
        return [base * 0.9999**self.last_epoch for base in self.base_lrs]


LONG = 60_000
LONG_RUNS = {
    "warmup_cosine": lambda o: lrs.LambdaLR(
        o, lambda e: min(1.0, e / 2000) * (0.5 + 0.5 * math.cos(math.pi * e / LONG))
    ),
    "staircase": lambda o: lrs.LambdaLR(o, lambda e: 0.5 ** (e // 7919)),
    "wsd": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.01, 1.0, 500), lrs.ConstantLR(o, 1.0, 1), lrs.LinearLR(o, 1.0, 0.1, 9000)], [500, 50000]
    ),
    "chained": lambda o: lrs.ChainedScheduler(
        [lrs.LinearLR(o, 0.01, 1.0, 500), lrs.CosineAnnealingLR(o, LONG, 1e-3), lrs.StepLR(o, 20000, 0.5)]
    ),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 4000, 2),
    "multiplicative": lambda o: lrs.MultiplicativeLR(o, lambda e: 1.0 if e < 40000 else 0.9997),
    "user": Inverse,
    "user_closed": Closed,
    "user_stepped": Dwindling,
}


@pytest.mark.parametrize("name", LONG_RUNS)
def test_a_long_run_is_followed_within_a_fifth_of_a_percent(name):
    optimizer = make_optimizer()
    scheduler = LONG_RUNS[name](optimizer)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=LONG)
    used = stepped(scheduler, optimizer, LONG)
    assert plan.known
    assert len(plan.steps) <= 1000
    assert np.abs(plan.at(np.arange(1, LONG + 1)) - used).max() <= 0.002 * used.max()
    jumps = np.flatnonzero(np.abs(np.diff(used)) > 0.02 * used.max()) + 1
    assert set(jumps) | set(jumps + 1) <= set(plan.steps.astype(int))


@pytest.mark.parametrize("name", ["linear", "cosine", "restarts", "cyclic_scaled", "lambda", "sequential"])
def test_long_runs_are_computed_in_pieces_without_a_seam(name, monkeypatch):
    monkeypatch.setattr(simulate, "_WINDOW", 777)
    optimizer = make_optimizer()
    if name == "sequential":
        tree = ("sequential", [("linear", 300, 0.1), ("cosine", 900, 0.1), ("exponential", 1, 0.999)], [777, 800, 0, 0])
        scheduler = build(tree, optimizer)
    else:
        slow = lambda o, n, f: lrs.LambdaLR(o, lambda e: smooth(e / n * 100))  # noqa: E731
        scheduler = {**LEAVES, "lambda": slow}[name](optimizer, 700, 0.1)
    specs = [SchedulerSpec(scheduler), SchedulerSpec(lrs.StepLR(optimizer, 2, 0.8), "epoch")]
    plan = plan_from_schedulers(optimizer, specs, total_steps=3000, grid=EpochGrid(333))
    used = []
    for step in range(1, 3001):
        used.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        if step % 333 == 0:
            specs[1].scheduler.step()
    assert plan.known
    np.testing.assert_allclose(plan.at(np.arange(1, 3001)), used, atol=0.002 * max(used))


def test_a_long_sequence_is_exact():
    n = 300_000
    optimizer = make_optimizer()
    parts = [lrs.LinearLR(optimizer, 0.01, 1.0, 5000), lrs.CosineAnnealingLR(optimizer, n - 5000, 0.01)]
    scheduler = lrs.SequentialLR(optimizer, parts, [5000])
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=n)
    assert plan.known
    assert len(plan.steps) <= 1000
    steps = np.linspace(5001, n, 301).astype(int)
    cosine = 0.01 + 0.09 * (1 + np.cos(np.pi * (steps - 5001) / (n - 5000))) / 2
    np.testing.assert_allclose(plan.at(steps), cosine, atol=2e-6)
    assert plan.at(2501) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))


def test_a_schedule_that_swings_too_often_is_followed_and_then_averaged():
    optimizer = make_optimizer()
    scheduler = lrs.CyclicLR(optimizer, 0.02, 0.1, 250)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=300_000)
    assert plan.known
    assert "swings too often" in plan.why
    assert len(plan.steps) <= 1000
    early = np.arange(1, 150_000, 251)
    phase = (early - 1) % 500
    expected = 0.02 + 0.08 * np.minimum(phase, 500 - phase) / 250
    np.testing.assert_allclose(plan.at(early), expected, atol=1e-9)
    assert plan.at(np.arange(200_000, 300_000)).mean() == pytest.approx(0.06, rel=0.01)


def test_more_steps_than_are_simulated_are_known_in_part(monkeypatch):
    monkeypatch.setattr(simulate, "_WINDOW", 100)
    monkeypatch.setattr(simulate, "MAX_TICKS", 500)
    optimizer = make_optimizer()
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(Dwindling(optimizer))], total_steps=10**6)
    assert not plan.known
    assert plan.total_steps == 10**6
    assert "known up to step 501" in plan.why
    assert plan.at(501) == pytest.approx(0.1 * 0.9999**500)
    assert plan.at(10**6) == plan.lr[-1]


@pytest.mark.parametrize("cpu", [True, False])
def test_a_slow_function_is_known_as_far_as_time_lasts(cpu, monkeypatch):
    """A clock that goes on by 50 ms at every look, with or without the processor at work."""
    clock = itertools.count()
    monkeypatch.setattr(simulate, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(simulate, "SECONDS_PER_TICK", 0.0)
    monkeypatch.setattr(simulate, "thread_time", lambda: 0.05 * next(clock) * cpu)
    monkeypatch.setattr(simulate, "perf_counter", lambda: 0.05 * next(clock))
    optimizer = make_optimizer()

    def slow(epoch):
        return 0.99**epoch

    plan = plan_from_schedulers(optimizer, [SchedulerSpec(lrs.LambdaLR(optimizer, slow))], total_steps=10_000)
    assert not plan.known
    known = int(re.search(r"known up to step (\d+)\.", plan.why)[1])
    assert known < 1000
    assert plan.at(known) == pytest.approx(0.1 * 0.99 ** (known - 1))


@pytest.mark.parametrize("make", [lambda o: lrs.LambdaLR(o, [smooth, lambda e: 0.9**e, smooth]), Inverse])
def test_the_largest_of_several_groups_is_followed(make):
    optimizer = make_optimizer(sizes=(3, 50, 4))
    scheduler = make(optimizer)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=40)
    for step in range(1, 41):
        assert plan.at(step) == pytest.approx(optimizer.param_groups[1]["lr"])
        scheduler.step()


@pytest.mark.parametrize("name", LEAVES)
def test_several_groups_do_not_disturb_each_other(name):
    optimizer = make_optimizer(sizes=(3, 50, 4))
    scheduler = LEAVES[name](optimizer, 7, 0.5)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=60)
    used = []
    for _ in range(60):
        used.append(optimizer.param_groups[1]["lr"])
        scheduler.step()
    assert plan.known
    np.testing.assert_allclose(plan.at(np.arange(1, 61)), used, rtol=1e-9, atol=1e-9)


def test_two_schedulers_at_different_intervals():
    optimizer = make_optimizer()
    specs = [
        SchedulerSpec(lrs.StepLR(optimizer, 2, 0.5), "epoch"),
        SchedulerSpec(lrs.CosineAnnealingLR(optimizer, 40, 0.01), "step"),
    ]
    plan = plan_from_schedulers(optimizer, specs, total_steps=40, grid=EpochGrid(7))
    used = []
    for step in range(1, 41):
        used.append(optimizer.param_groups[0]["lr"])
        specs[1].scheduler.step()
        if step % 7 == 0:
            specs[0].scheduler.step()
    np.testing.assert_allclose(plan.at(np.arange(1, 41)), used)


def test_two_schedulers_at_different_intervals_in_a_long_run():
    optimizer = make_optimizer()
    specs = [
        SchedulerSpec(lrs.StepLR(optimizer, 3, 0.5), "epoch"),
        SchedulerSpec(lrs.LinearLR(optimizer, 0.1, 1.0, 900), "step"),
    ]
    plan = plan_from_schedulers(optimizer, specs, total_steps=50_000, grid=EpochGrid(4001))
    steps = np.arange(1, 50_001)
    expected = 0.1 * np.minimum(1, 0.1 + 0.9 * (steps - 1) / 900) * 0.5 ** ((steps - 1) // 4001 // 3)
    np.testing.assert_allclose(plan.at(steps), expected, atol=1e-9)


# ---------------------------------------------------------------- the past, and the present


def test_a_run_under_way_is_planned_from_its_first_step():
    optimizer = make_optimizer()
    scheduler = LEAVES["cosine"](optimizer, 25, 0.5)
    used = stepped(scheduler, optimizer, 30)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], start_step=30, total_steps=40)
    assert plan.steps[0] == 1
    np.testing.assert_allclose(plan.at(np.arange(1, 31)), used)


def test_a_chain_that_ends_in_a_cycle_begins_as_its_constructor_left_it():
    optimizer = make_optimizer()
    scheduler = build(("chained", [("constant", 1, 1.0), ("cyclic_by_step", 1, 1.0)]), optimizer)
    used = stepped(scheduler, optimizer, 5)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], start_step=5, total_steps=9)
    np.testing.assert_allclose(plan.at(np.arange(1, 6)), used)


def test_a_past_that_cannot_be_told_is_left_out():
    optimizer = make_optimizer()
    scheduler = lrs.ExponentialLR(optimizer, 0.9)
    stepped(scheduler, optimizer, 30)
    optimizer.param_groups[0]["lr"] = 0.5
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], start_step=30, total_steps=40)
    assert plan.known
    assert plan.steps[0] == 31
    assert plan.at(31) == 0.5
    assert plan.at(32) == pytest.approx(0.45)


def test_a_scheduler_stepped_less_often_than_said_has_no_past():
    optimizer = make_optimizer()
    scheduler = lrs.ConstantLR(optimizer, 0.5, 100)
    stepped(scheduler, optimizer, 30, every=3)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], start_step=30, total_steps=40)
    assert plan.steps[0] == 31


def test_the_group_with_most_parameters_counts():
    optimizer = make_optimizer(sizes=(3, 50, 4))
    scheduler = lrs.ExponentialLR(optimizer, 0.9)
    assert largest_group(optimizer) == 1
    assert plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=5).at(1) == 0.05


def test_a_rate_kept_in_a_tensor():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(0.1))
    scheduler = lrs.CosineAnnealingLR(optimizer, 10)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=10)
    assert plan.at(6) == pytest.approx(0.05)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


# ---------------------------------------------------------------- hands off


class Count:
    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        return 1.0 / (1 + epoch)


def snapshot(optimizer, scheduler):
    def state(part):
        inner = [state(p) for p in getattr(part, "_schedulers", [])]
        return inner, {k: v for k, v in part.__dict__.items() if k not in ("optimizer", "_schedulers")}

    return copy.deepcopy(
        (
            optimizer.state_dict(),
            [p.detach().clone().tolist() for g in optimizer.param_groups for p in g["params"]],
            state(scheduler),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        )
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.one_of(leaf, sequence, chained, nested), st.integers(0, 30))
def test_nothing_live_changes(tree, made):
    optimizer = make_optimizer(sizes=(3, 5))
    scheduler = build(tree, optimizer)
    stepped(scheduler, optimizer, min(made, tree[2][0] if tree[0] == "sequential" else made))
    step = optimizer.step
    before = repr(snapshot(optimizer, scheduler))
    plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], start_step=made, total_steps=25_000)
    assert repr(snapshot(optimizer, scheduler)) == before
    assert optimizer.step is step
    assert scheduler.optimizer is optimizer


def test_callables_are_asked_on_copies():
    counter, cells = Count(), {"calls": 0}
    local = 0

    def nonlocal_count(epoch):
        nonlocal local
        local += 1
        return 1.0 / (1 + epoch)

    def remembering(epoch):
        cells["calls"] += 1
        return 1.0 / (1 + epoch)

    optimizer = make_optimizer()
    for function in (counter, remembering, nonlocal_count, functools.partial(lambda k, e: k(e), counter)):
        scheduler = lrs.LambdaLR(optimizer, function)
        before = counter.calls, dict(cells), local
        plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=50)
        assert (counter.calls, dict(cells), local) == before
        assert plan.at(10) == pytest.approx(0.01)


def test_a_method_of_a_module_does_not_copy_the_module():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)
            self.warmup = 10

        def __deepcopy__(self, memo):
            raise AssertionError("the model was copied")

        def rate(self, epoch):
            return min(1.0, (epoch + 1) / self.warmup)

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lrs.LambdaLR(optimizer, model.rate)
    assert plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=50).at(5) == pytest.approx(0.05)


def test_random_states_stay_when_a_function_draws():
    optimizer = make_optimizer()
    scheduler = lrs.LambdaLR(optimizer, lambda e: random.random() + np.random.rand() + torch.rand(1).item())
    before = snapshot(optimizer, scheduler)
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=50)
    assert repr(snapshot(optimizer, scheduler)) == repr(before)
    assert not plan.known
    assert "different rates for the same epoch" in plan.why
    assert plan.at(40) == optimizer.param_groups[0]["lr"]


# ---------------------------------------------------------------- what cannot be known


def drawing():
    rates = (0.9**e for e in itertools.count())
    return lambda epoch: next(rates)


def failing(epoch):
    if epoch >= 20:
        raise KeyError("no rate")
    return 1.0


class Wrapped:
    """An optimizer of another library's making."""

    def __init__(self, optimizer):
        self.inner = optimizer

    @property
    def param_groups(self):
        return self.inner.param_groups

    __slots__ = ("inner",)


class Foreign:
    def __init__(self, optimizer):
        self.optimizer = Wrapped(optimizer)

    def step(self):
        self.optimizer.param_groups[0]["lr"] *= 0.5


@pytest.mark.parametrize(
    ("make", "why", "last_known"),
    [
        (lambda o: lrs.LambdaLR(o, drawing()), "cannot be simulated: it draws from a generator", 1),
        (lambda o: lrs.LambdaLR(o, failing), "LambdaLR fails after step 20 (KeyError", 20),
        (lambda o: lrs.OneCycleLR(o, 1.0, total_steps=30), "OneCycleLR fails after step 31 (ValueError", 31),
        (lambda o: lrs.LambdaLR(o, lambda e: 1 - e / 50), "a negative rate from step 52 on", 52),
        (lambda o: lrs.LambdaLR(o, lambda e: 1.0 if e < 9 else math.nan), "no rate after step 9", 9),
        (Foreign, "an optimizer of the unknown kind Wrapped", 1),
        (lrs.ReduceLROnPlateau, "ReduceLROnPlateau changes the learning rate depending on a metric", 1),
        (lambda o: lrs.LambdaLR(o, Count()), "", 100),
    ],
)
def test_what_cannot_be_known_is_said(make, why, last_known):
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(scheduler)], total_steps=100)
    assert why in plan.why
    assert plan.known is (why == "")
    assert plan.total_steps == 100
    assert optimizer.param_groups[0]["lr"] == rate
    assert plan.steps[-1] >= last_known
    assert plan.at(100) == plan.lr[-1]


def test_a_function_that_fails_late_in_a_long_run():
    optimizer = make_optimizer()

    def function(epoch):
        if epoch > 70_123:
            raise IndexError("out of rates")
        return 1.0 - 1e-6 * epoch

    plan = plan_from_schedulers(optimizer, [SchedulerSpec(lrs.LambdaLR(optimizer, function))], total_steps=10**5)
    assert not plan.known
    assert "LambdaLR fails after step 70124 (IndexError" in plan.why
    assert plan.at(70_124) == pytest.approx(0.1 * (1 - 0.070123))


def test_no_scheduler_is_a_constant_rate():
    plan = plan_from_schedulers(make_optimizer(), [], total_steps=100)
    assert plan.known
    assert plan.source == "constant"
    assert plan.peak == 0.1


def test_without_an_end_the_plan_covers_the_next_million_steps():
    optimizer = make_optimizer()
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(lrs.StepLR(optimizer, 900_000))], why="No end is set.")
    assert plan.total_steps is None
    assert plan.why == "No end is set."
    assert plan.known
    assert plan.at(900_001) == pytest.approx(0.01)


def test_epochs_of_unknown_length_leave_the_rate_unknown():
    optimizer = make_optimizer()
    plan = plan_from_schedulers(optimizer, [SchedulerSpec(lrs.StepLR(optimizer, 2), "epoch")], total_steps=100)
    assert not plan.known
    assert "StepLR is stepped by the epoch" in plan.why
