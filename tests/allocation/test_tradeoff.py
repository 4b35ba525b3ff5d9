import numpy as np
import pytest

from lightning_scaling.allocation import fit_tradeoff
from lightning_scaling.allocation.tradeoff import effective_tokens

E, A, ALPHA, B, BETA = 1.8, 482.0, 0.348, 2085.0, 0.366
G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))


def chinchilla(params, tokens):
    return E + A / params**ALPHA + B / tokens**BETA


def best(flops):
    return G * (flops / 6) ** (BETA / (ALPHA + BETA))


@pytest.fixture
def table():
    def make(count=30, noise=0.002, seed=0):
        rng = np.random.default_rng(seed)
        params, tokens = 10 ** rng.uniform(7, 9, count), 10 ** rng.uniform(8.5, 10.5, count)
        return params, tokens, chinchilla(params, tokens) * np.exp(noise * rng.standard_normal(count))

    return make


@pytest.mark.parametrize("flops", [1e18, 1e19, 1e20])
def test_runs_that_share_no_budget_show_the_best_size(table, flops):
    found = fit_tradeoff(*table()).best(flops)
    lower, upper = found.interval()
    assert lower <= best(flops) <= upper
    assert found.params == pytest.approx(best(flops), rel=0.15)
    assert found.tokens == pytest.approx(flops / 6 / found.params)
    assert found.loss == pytest.approx(chinchilla(best(flops), flops / 6 / best(flops)), rel=0.01)
    assert found.exponent == pytest.approx(BETA / (ALPHA + BETA), abs=0.05)


def test_the_loss_off_the_best_size_is_that_of_the_law(table):
    found = fit_tradeoff(*table())
    for factor in (0.4, 1.0, 2.5):
        params = factor * best(1e19)
        tokens = 1e19 / 6 / params
        assert float(found.loss(params, tokens)) == pytest.approx(chinchilla(params, tokens), rel=0.01)


def test_twice_the_data_want_a_model_larger_by_the_ratio_of_the_exponents(table):
    found = fit_tradeoff(*table(noise=0.0))
    growth = found.best_for(1e10).params / found.best_for(5e9).params
    assert growth == pytest.approx(2 ** (BETA / ALPHA), rel=0.06)


def test_the_interval_widens_beyond_the_runs(table):
    found = fit_tradeoff(*table())
    assert found.best(1e22).sd > 2 * found.best(1e19).sd


def test_inference_wants_a_smaller_model(table):
    found = fit_tradeoff(*table())
    plain, loaded = found.best(1e20), found.best(1e20, inference_tokens=1e11)
    assert loaded.params < 0.7 * plain.params
    assert loaded.params * (6 * loaded.tokens + 2e11) == pytest.approx(1e20, rel=1e-6)
    with pytest.raises(ValueError, match="leave nothing of 1e\\+18 FLOPs for training"):
        found.best(1e18, inference_tokens=1e18)


def test_repeats_want_a_larger_model(table):
    found = fit_tradeoff(*table())
    assert found.best(1e20, unique_tokens=1e8).params > 1.5 * found.best(1e20).params
    assert found.best(1e20, unique_tokens=1e13).params == pytest.approx(found.best(1e20).params, rel=0.02)


def test_repeated_tokens_are_worth_less_than_new_ones():
    seen = effective_tokens([1e9, 4e9, 1e11], 1e9)
    assert seen[0] == 1e9
    assert 3.7e9 < seen[1] < 4e9
    assert seen[2] == pytest.approx(1e9 * (1 + 15.387756), rel=0.01)
    assert effective_tokens(5.0, None) == 5.0


def test_minima_of_shared_budgets_join_in():
    flops = np.repeat(np.geomspace(1e18, 1e19, 5), 7)
    params = np.tile(np.geomspace(0.2, 5, 7), 5) * best(flops)
    tokens = flops / 6 / params
    found = fit_tradeoff(params, tokens, chinchilla(params, tokens))
    assert found.minima is not None
    assert found.best(1e20).params == pytest.approx(best(1e20), rel=0.05)
    agree, said = found.agreement(1e20)
    assert agree
    assert "the frontier of the runs puts the best size at" in said


@pytest.mark.parametrize(
    ("params", "said"),
    [([1e8] * 8, "All 8 runs have about one size"), ([1e8] * 4 + [2e8] * 4, "8 runs of 2 sizes; at least 6 runs of 3")],
)
def test_too_few_sizes_are_refused(params, said):
    tokens = np.geomspace(1e9, 1e10, 8)
    with pytest.raises(ValueError, match=said):
        fit_tradeoff(params, tokens, chinchilla(np.array(params), tokens))


def test_a_loss_that_is_not_positive_is_refused(table):
    params, tokens, loss = table()
    loss[3] = -1
    with pytest.raises(ValueError, match="`loss` must be positive and finite in every run"):
        fit_tradeoff(params, tokens, loss)


def test_a_diverged_run_does_not_matter(table):
    params, tokens, loss = table()
    loss[5] *= 2
    assert fit_tradeoff(params, tokens, loss).best(1e19).params == pytest.approx(best(1e19), rel=0.15)


def test_an_unfinished_run_counts_by_its_error(table):
    params, tokens, loss = table()
    error = np.zeros(len(loss))
    loss[::4] *= 1.01
    error[::4] = 0.05
    assert fit_tradeoff(params, tokens, loss, error=error).best(1e19).params == pytest.approx(best(1e19), rel=0.2)
