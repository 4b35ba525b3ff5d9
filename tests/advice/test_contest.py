import numpy as np
import pytest

from lightning_scaling import Run
from lightning_scaling.advice import compare_runs
from lightning_scaling.advice.contest import Entrant, stand

TOTAL = 2000
STEPS = np.arange(10, TOTAL + 1, 10)


def rates(kind, peak=1e-3):
    share = STEPS / TOTAL
    if kind == "cosine":
        return peak * (0.55 + 0.45 * np.cos(np.pi * share))
    if kind == "wsd":
        return peak * np.clip((1 - share) / 0.2, 0.05, 1)
    return np.full(STEPS.shape, peak)


def make(kind="cosine", low=2.0, slope=1.0, until=1.0, seed=0, gain=0.25, params=10**6, name=None):
    """A curve that falls as a power of the rates summed up, and gains in proportion to what the rate has fallen."""
    lr = rates(kind)
    reach = np.cumsum(lr) / lr.max() / STEPS.size
    noise = 0.002 * np.random.default_rng(seed).standard_normal(STEPS.size)
    loss = low + slope * reach**-0.3 * 0.5 - gain * (1 - lr / lr.max()) + noise
    seen = until * TOTAL >= STEPS
    planned = (STEPS, lr)
    return Run(
        STEPS[seen], loss[seen], lr[seen], total_steps=TOTAL, planned_lr=planned, params=params, name=name or kind
    )


def test_under_one_schedule_the_run_far_behind_is_given_up_and_the_close_one_is_not():
    runs = [make(low=low, seed=i, until=0.4) for i, low in enumerate((2.0, 2.004, 2.5))]
    found = compare_runs(runs)
    assert found.same_schedule
    assert found.fraction == pytest.approx(0.4)
    assert found.hopeless() == [2]
    assert found.of(2).behind == pytest.approx(0.5, abs=0.1)


def test_a_run_that_is_behind_only_because_its_rate_has_yet_to_fall_is_kept():
    early, late = make("cosine", seed=1), make("wsd", seed=2, low=1.95)
    found = compare_runs([early, late], at=0.6)
    assert not found.same_schedule
    assert found.leader == 0
    assert found.of(1).now > 0.02
    assert 1 not in found.hopeless()
    assert found.of(1).behind < 0


def test_a_constant_rate_is_given_up_before_those_that_fall_have_fallen():
    runs = [make("wsd", seed=1), make("constant", seed=2)]
    assert compare_runs(runs, at=0.6).hopeless() == [1]


def test_the_leader_and_the_favourite_are_never_given_up():
    for at in (0.2, 0.5, 0.9):
        found = compare_runs([make(seed=i, low=2 + 0.1 * i) for i in range(5)], at=at)
        assert 0 not in found.hopeless(0.51)
        assert sum(one.best for one in found.runs) == pytest.approx(1)


def test_the_same_runs_give_the_same_numbers_in_any_order():
    runs = [make(low=2 + 0.01 * i, seed=i, name=str(i)) for i in range(4)]
    one = {s.name: s.behind for s in compare_runs(runs, at=0.5).runs}
    other = {s.name: s.behind for s in compare_runs(runs[::-1], at=0.5).runs}
    assert one == pytest.approx(other, abs=2e-3)


def test_warm_up_is_no_time_to_judge():
    ramp = np.concatenate([np.linspace(1e-5, 1e-3, 60), np.full(STEPS.size - 60, 1e-3)])
    runs = [
        Run(STEPS, low + 2 * (STEPS / TOTAL) ** -0.3, ramp, total_steps=TOTAL, planned_lr=(STEPS, ramp))
        for low in (2.0, 4.0)
    ]
    assert compare_runs(runs, at=0.35).hopeless() == []
    assert compare_runs(runs, at=0.6).hopeless() == [1]


def test_runs_that_have_not_come_so_far_or_ended_in_nan_are_left_out():
    ended = make(low=1.0, until=0.3)
    lost = Run(STEPS, np.where(STEPS > 1000, np.inf, 3.0), rates("cosine"), total_steps=TOTAL)
    runs = [make(seed=1), make(seed=2, low=2.1), ended, lost]
    assert [one.index for one in compare_runs(runs, at=0.5).runs] == [0, 1]
    assert compare_runs([runs[0], ended], at=0.5) is None


def test_entrants_can_be_used_again_at_every_check():
    entrants = [Entrant(make(low=2 + 0.2 * i, seed=i)) for i in range(3)]
    assert [stand(entrants, f).fraction for f in (0.3, 0.6)] == [0.3, 0.6]


def test_input_is_checked():
    run = make()
    with pytest.raises(ValueError, match="at least two"):
        compare_runs([run])
    with pytest.raises(ValueError, match="share of the plan"):
        compare_runs([run, run], at=1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare_runs([run, make(seed=3)], at=0.5).hopeless(1.0)
    with pytest.raises(ValueError, match="no finite loss"):
        Entrant(Run([1, 2], [np.inf, np.inf], total_steps=10))
