import numpy as np
import pytest

from lightning_scaling import Run
from lightning_scaling.advice import Ranking, RunRank, compare_runs
from lightning_scaling.advice.ranking import Candidate, rank

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


def test_under_one_schedule_the_run_far_behind_is_dominated_and_the_close_one_is_not():
    runs = [make(low=low, seed=i, until=0.4) for i, low in enumerate((2.0, 2.004, 2.5))]
    found = compare_runs(runs)
    assert found.same_schedule
    assert found.fraction == pytest.approx(0.4)
    assert found.dominated() == [2]
    assert found.of(2).behind == pytest.approx(0.5, abs=0.1)


def test_a_run_that_is_behind_only_because_its_rate_has_yet_to_fall_is_kept():
    early, late = make("cosine", seed=1), make("wsd", seed=2, low=1.95)
    found = compare_runs([early, late], at=0.6)
    assert not found.same_schedule
    assert found.leader == 0
    assert found.of(1).now > 0.02
    assert 1 not in found.dominated()
    assert found.of(1).behind < 0


def test_a_constant_rate_is_dominated_before_the_other_rates_have_fallen():
    runs = [make("wsd", seed=1), make("constant", seed=2)]
    assert compare_runs(runs, at=0.6).dominated() == [1]


def test_the_leader_and_the_likely_best_are_never_dominated():
    for at in (0.2, 0.5, 0.9):
        found = compare_runs([make(seed=i, low=2 + 0.1 * i) for i in range(5)], at=at)
        assert 0 not in found.dominated(0.51)
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
    assert compare_runs(runs, at=0.35).dominated() == []
    assert compare_runs(runs, at=0.6).dominated() == [1]


def blown_up(at, height=1.5, low=2.0):
    """A run whose loss jumps at a share of its plan and takes a twentieth of it to come back."""
    run = make(low=low, seed=7, name="blown up")
    since = STEPS / TOTAL - at
    return Run(
        STEPS,
        run.loss + np.where(since >= 0, height * np.exp(-np.maximum(since, 0) / 0.012), 0.0),
        rates("cosine"),
        total_steps=TOTAL,
        planned_lr=(STEPS, rates("cosine")),
        params=10**6,
        name="blown up",
    )


def test_a_run_in_a_blow_up_or_hardly_out_of_it_is_not_judged_and_costs_no_other_its_place():
    others = [make(seed=i, low=2 + 0.02 * i) for i in range(3)]
    runs = [*others, blown_up(0.4)]
    assert compare_runs(runs, at=0.41).of(3) is None
    soon = compare_runs(runs, at=0.475).of(3)
    assert soon is not None
    assert not soon.ready
    without = compare_runs(others, at=0.475)
    assert compare_runs(runs, at=0.475).of(1).best == pytest.approx(without.of(1).best, abs=0.05)
    later = compare_runs(runs, at=0.6).of(3)
    assert later.ready
    assert later.best > 0.05


def test_soon_after_the_warm_up_a_run_behind_may_still_catch_up():
    def run(low, warm, seed):
        ramp = np.where(warm >= STEPS, STEPS / warm, 1.0) * 1e-3
        noise = 0.002 * np.random.default_rng(seed).standard_normal(STEPS.size)
        loss = low + 0.5 * (STEPS / TOTAL) ** -0.3 + noise
        return Run(STEPS, loss, ramp, total_steps=TOTAL, planned_lr=(STEPS, ramp), name=str(warm))

    found = [compare_runs([run(2.0, 100, 1), run(2.08, warm, 2)], at=0.4).of(1) for warm in (100, 600)]
    assert found[0].best < 0.05
    assert found[1].best > 2 * found[0].best
    assert found[1].behind < found[0].behind


def test_a_run_is_dominated_only_if_it_was_so_at_both_looks():
    leader = RunRank(0, "a", 0.99, 0.0, 0.0, True, True, 0.9)
    passing, lasting = (RunRank(i, "b", 0.005, 0.1, 0.1, True, True, before) for i, before in ((1, 0.2), (2, 0.01)))
    assert passing.chance == pytest.approx(0.2)
    assert Ranking(0.4, 0, (leader, passing, lasting)).dominated() == [2]


def test_the_earlier_look_is_part_of_the_rank():
    candidates = [Candidate(make(low=2 + 0.02 * i, seed=i)) for i in range(3)]
    ago, now = rank(candidates, 0.375), rank(candidates, 0.4)
    assert [one.before for one in now.runs] == pytest.approx([one.best for one in ago.runs])
    first = rank([Candidate(make(low=2 + 0.02 * i, seed=i)) for i in range(3)], 0.045)
    assert [(one.before, one.ready) for one in first.runs] == [(None, False)] * 3


def test_runs_that_have_not_come_so_far_or_ended_in_nan_are_left_out():
    ended = make(low=1.0, until=0.3)
    lost = Run(STEPS, np.where(STEPS > 1000, np.inf, 3.0), rates("cosine"), total_steps=TOTAL)
    runs = [make(seed=1), make(seed=2, low=2.1), ended, lost]
    assert [one.index for one in compare_runs(runs, at=0.5).runs] == [0, 1]
    assert compare_runs([runs[0], ended], at=0.5) is None


def test_candidates_can_be_used_again_at_every_check():
    candidates = [Candidate(make(low=2 + 0.2 * i, seed=i)) for i in range(3)]
    assert [rank(candidates, f).fraction for f in (0.3, 0.6)] == [0.3, 0.6]


def test_input_is_checked():
    run = make()
    with pytest.raises(ValueError, match="at least two"):
        compare_runs([run])
    with pytest.raises(ValueError, match="share of the plan"):
        compare_runs([run, run], at=1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare_runs([run, make(seed=3)], at=0.5).dominated(1.0)
    with pytest.raises(ValueError, match="no finite loss"):
        Candidate(Run([1, 2], [np.inf, np.inf], total_steps=10))
