from __future__ import annotations

import math
import pickle
from itertools import product

import numpy as np
import pytest

from lightning_scaling.forecast.priors.final_loss import FinalLossPrior
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan

TOKENS_PER_STEP = 1e5
SIZES = (1e7, 3e7, 1e8, 3e8)
LENGTHS = (2_000, 6_000, 20_000)


def planted(params, tokens):
    return 1.8 + 400 * params**-0.35 + 900 * tokens**-0.35


def make(params, total, *, kind="cosine", noise=0.0, seed=0, seen=1.0, unsized=False, unit=TOKENS_PER_STEP):
    """A run whose loss follows the planted law in tokens, and lies 4 % higher while its rate has not fallen."""
    step = np.unique(np.linspace(1, seen * total, 120).astype(int))
    share = step / total
    lr = {"cosine": 0.55 + 0.45 * np.cos(np.pi * share), "constant": np.ones_like(share)}[kind]
    plan = np.linspace(1, total, 200)
    planned = {"cosine": 0.55 + 0.45 * np.cos(np.pi * plan / total), "constant": np.ones_like(plan)}[kind]
    level = planted(params, step * TOKENS_PER_STEP) * (1 + 0.04 * (lr - 0.1))
    error = 1 + noise * np.random.default_rng(seed).standard_normal()
    return Run(
        step,
        level * error,
        1e-3 * lr,
        total_steps=total,
        planned_lr=(plan, 1e-3 * planned),
        params=None if unsized else int(params),
        tokens_per_step=unit,
    )


def ladder(noise=0.0, sizes=SIZES, lengths=LENGTHS, **known):
    runs = [make(n, t, noise=noise, seed=i, **known) for i, (n, t) in enumerate(product(sizes, lengths))]
    return RunHistory(runs)


def ask(prior, params, total, kind="cosine"):
    return prior.predict(params, total * TOKENS_PER_STEP, make(params, total, kind=kind).plan)


def width(prediction):
    low, high = prediction.interval(0.9)
    return (high - low) / prediction


def test_a_planted_law_is_recovered():
    prior = FinalLossPrior.from_history(ladder())
    for params, total in ((5e7, 10_000), (2e8, 4_000), (1e9, 30_000)):
        assert ask(prior, params, total) == pytest.approx(planted(params, total * TOKENS_PER_STEP), rel=0.006)
    assert ask(prior, 5e7, 10_000).trust == "ok"


def test_intervals_hold_what_they_promise():
    held = []
    for seed in range(12):
        runs = [make(n, t, noise=0.01, seed=100 * seed + i) for i, (n, t) in enumerate(product(SIZES, LENGTHS))]
        prior = FinalLossPrior.from_history(RunHistory(runs))
        for i, (params, total) in enumerate(((5e7, 10_000), (2e8, 4_000), (2e7, 15_000))):
            new = make(params, total, noise=0.01, seed=7_000 + 10 * seed + i)
            low, high = ask(prior, params, total).interval(0.9)
            held.append(low <= new.loss[-1] <= high)
    assert 0.75 <= np.mean(held) <= 1.0


def test_the_interval_widens_outside_the_past_runs():
    prior = FinalLossPrior.from_history(ladder(noise=0.005))
    widths = [width(ask(prior, n, t)) for n, t in ((1e8, 6_000), (1e9, 60_000), (1e11, 2_000_000))]
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]
    far = ask(prior, 1e11, 2_000_000)
    assert far.trust == "low"
    assert "333 times outside" in far.why


def test_a_run_that_keeps_its_rate_ends_higher():
    runs = [*ladder(), *(make(n, 6_000, kind="constant") for n in SIZES)]
    prior = FinalLossPrior.from_history(RunHistory(runs))
    annealed, kept = ask(prior, 5e7, 10_000), ask(prior, 5e7, 10_000, kind="constant")
    assert kept / annealed == pytest.approx(1.036, abs=0.008)


def test_unfinished_past_runs_are_evidence():
    few = [make(n, 6_000) for n in SIZES[:3]]
    halfway = [make(n, 20_000, kind="constant", seen=0.6) for n in SIZES]
    alone = FinalLossPrior.from_history(RunHistory(few))
    more = FinalLossPrior.from_history(RunHistory([*few, *halfway]))
    assert more.past_runs == 7
    assert width(ask(more, 3e8, 15_000)) < width(ask(alone, 3e8, 15_000))


def test_one_ruined_past_run_does_not_ruin_the_forecast():
    runs = list(ladder(noise=0.003))
    ruined = runs[5]
    runs[5] = Run(
        ruined.step,
        ruined.loss * 1.4,
        ruined.lr,
        total_steps=ruined.total_steps,
        params=ruined.params,
        tokens_per_step=TOKENS_PER_STEP,
    )
    prior = FinalLossPrior.from_history(RunHistory(runs))
    assert ask(prior, 5e7, 10_000) == pytest.approx(planted(5e7, 1e9), rel=0.01)


def test_what_the_law_leaves_over_is_followed_near_the_past_runs():
    def bump(params, total):
        return 1 + 0.03 * np.exp(-(np.log(params / 5e7) ** 2) - np.log(total / 6_000) ** 2)

    sizes, lengths = np.geomspace(1e7, 3e8, 7), (2_000, 3_500, 6_000, 11_000, 20_000)
    runs = []
    for params, total in product(sizes, lengths):
        run = make(params, total)
        loss = run.loss * bump(params, total)
        runs.append(Run(run.step, loss, run.lr, total_steps=total, params=run.params, tokens_per_step=TOKENS_PER_STEP))
    prior = FinalLossPrior.from_history(RunHistory(runs))
    assert ask(prior, 4e7, 5_000) == pytest.approx(planted(4e7, 5e8) * bump(4e7, 5_000), rel=0.006)


def test_diverged_and_hardly_begun_past_runs_are_left_out():
    ruined = Run([1, 500, 1000], [5.0, 4.0, math.inf], total_steps=1000, params=10**7, tokens_per_step=1e5)
    begun = make(1e8, 6_000, seen=0.1)
    assert FinalLossPrior.from_history(RunHistory([ruined, begun, make(1e8, 6_000)])) is None
    assert FinalLossPrior.from_history(None) is None
    assert FinalLossPrior.from_history(RunHistory()) is None


def test_few_past_runs_are_said_to_be_few():
    prior = FinalLossPrior.from_history(ladder(sizes=SIZES[:1]))
    forecast = ask(prior, 1e7, 4_000)
    assert forecast.trust == prior.trust == "low"
    assert forecast.why == "there are only 3 past runs"
    assert width(forecast) > width(ask(FinalLossPrior.from_history(ladder()), 1e7, 4_000))


def test_without_its_size_a_run_is_compared_with_those_of_its_length():
    prior = FinalLossPrior.from_history(ladder())
    forecast = prior.predict(None, 6_000 * TOKENS_PER_STEP, make(1e8, 6_000).plan)
    finals = [planted(n, 6_000 * TOKENS_PER_STEP) for n in SIZES]
    assert min(finals) < forecast < max(finals)
    assert forecast.trust == "low"
    assert "`params` is not known; 4 past runs of the same length" in forecast.why
    unlike = prior.predict(1e8, None, make(1e8, 9_000).plan)
    assert unlike.trust == "none"
    assert math.isinf(unlike.scale)


def test_past_runs_without_tokens_or_sizes_are_compared_by_steps():
    runs = [make(1e8, t, unsized=True) for t in (2_000, 3_000, 6_000, 9_000, 15_000, 20_000)]
    bare = FinalLossPrior.from_history(RunHistory(runs))
    assert bare.predict(None, 1e9, make(1e8, 10_000).plan) == pytest.approx(planted(1e8, 1e9), rel=0.01)
    assert bare.trust == "low"
    stepwise = FinalLossPrior.from_history(ladder(unit=None))
    forecast = stepwise.predict(5e7, None, make(5e7, 10_000).plan)
    assert forecast == pytest.approx(planted(5e7, 1e9), rel=0.01)
    assert "steps stand for them" in forecast.why


def test_an_unknown_schedule_or_end_is_said():
    prior = FinalLossPrior.from_history(ladder())
    unknown = prior.predict(5e7, 1e9, Plan.constant(total_steps=10_000, known=False, why="no rate"))
    assert unknown == pytest.approx(planted(5e7, 1e9), rel=0.01)
    assert "schedule is not known" in unknown.why
    assert prior.predict(5e7, None, Plan.constant(why="endless")).trust == "none"
    assert prior.predict(5e7, 1e9, Plan.constant()).scale < math.inf


def test_the_same_history_gives_the_same_numbers():
    one, other = (ask(FinalLossPrior.from_history(ladder(noise=0.01)), 5e7, 10_000) for _ in range(2))
    assert (one, one.scale) == (other, other.scale)
    copy = pickle.loads(pickle.dumps(one))
    assert (copy, copy.scale, copy.trust, copy.why) == (one, one.scale, one.trust, one.why)


@pytest.mark.parametrize(("params", "tokens"), [(-1.0, 1e9), (1e8, math.nan)])
def test_nonsense_is_refused(params, tokens):
    with pytest.raises(ValueError, match="must be a positive number"):
        FinalLossPrior.from_history(ladder()).predict(params, tokens, make(1e8, 6_000).plan)
