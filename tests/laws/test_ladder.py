"""Ladders: weights near the frontier, priors, an objective that adapts, two laws in a row, honest intervals."""

import numpy as np
import pytest
from planted import CASES
from planted_chinchilla import grid

from lightning_scaling import laws

CASE = CASES["chinchilla"]


def ladder(seed=0, noise=0.003):
    """IsoFLOP runs of a coupled law; those far too large for their data have not left their warm-up."""
    rng = np.random.default_rng(seed)
    table = grid(flops=np.geomspace(1e17, 1e21, 9), params=np.geomspace(2e6, 2e10, 13))
    params, tokens = table["params"], table["flops"] / (6 * table["params"])
    keep = (tokens > 5e6) & (tokens / params < 3e4)
    params, tokens = params[keep], tokens[keep]
    loss = CASES["coupled"].law.evaluate(CASES["coupled"].truth, params=params, tokens=tokens)
    loss = loss * (1 + 0.4 / (1 + tokens / params)) * np.exp(noise * rng.standard_normal(len(params)))
    return {"params": params, "tokens": tokens, "loss": loss}


def split(table):
    flops = table["params"] * table["tokens"]
    cheap = flops <= flops.max() / 9
    near = laws.frontier_weights(**table) > 0.2
    return ({k: v[cheap] for k, v in table.items()}, {k: v[~cheap & near] for k, v in table.items()})


def test_a_ladder_with_runs_that_follow_no_law_is_extrapolated_from_those_that_do():
    cheap, rest = split(ladder())
    seen = rest.pop("loss")
    plain = laws.get("chinchilla").fit(cheap, objective="least_squares")
    ours = laws.fit_ladder(cheap)
    assert np.median(np.abs(ours.predict(**rest) / seen - 1)) < 0.01
    assert np.median(np.abs(plain.predict(**rest) / seen - 1)) > 0.02
    low, high = ours.interval(0.95, **rest)
    assert np.mean((low <= seen) & (seen <= high)) > 0.85
    assert np.median((high - low) / seen) < 0.12


def test_weights_fall_with_the_excess_over_the_frontier_and_with_less_compute():
    params, tokens = np.array([1e8, 1e8, 1e9, 1e9]), np.array([2e9, 2e9, 2e10, 2e10])
    weights = laws.frontier_weights(params, tokens, np.array([3.5, 3.57, 2.5, 2.55]))
    assert weights[2] == 1.0
    assert weights[3] == pytest.approx(0.5, abs=0.02)
    assert weights[0] == pytest.approx(1 / (1 + (np.log(100) / 2) ** 2))
    assert weights[1] < 0.6 * weights[0]


def test_frontier_weights_need_a_law_of_params_and_tokens():
    table = CASES["compute"].seen()
    with pytest.raises(ValueError, match="needs a law of params and tokens, but compute has flops"):
        laws.get("compute").fit(table, weights="frontier")


def test_priors_hold_what_the_points_leave_open_and_give_way_to_what_they_say():
    few = CASE.seen(noise=0.01, seed=4)
    pick = np.random.default_rng(0).permutation(56)[:8]
    few = {name: values[pick] for name, values in few.items()}
    free = CASE.law.fit(few, objective="least_squares")
    held = CASE.law.fit(few, objective="least_squares", priors="default")
    for name in ("alpha", "beta"):
        assert abs(np.log(held.params[name] / 0.35)) < 0.4
        narrow = np.subtract(*held.conf_int(0.9)[name][::-1])
        wide = np.subtract(*free.conf_int(0.9)[name][::-1])
        assert not narrow > wide
    rich = CASE.seen({**CASE.truth, "alpha": 0.6, "A": 40000.0}, noise=0.001, seed=4)
    assert CASE.law.fit(rich, priors="default").params["alpha"] == pytest.approx(0.6, rel=0.03)


def test_a_strong_prior_moves_the_estimate_and_a_vague_one_does_not():
    table = CASE.seen(noise=0.003, seed=4)
    free = CASE.law.fit(table)
    strong = CASE.law.fit(table, priors={"alpha": (0.2, 0.0005)})
    assert strong.params["alpha"] == pytest.approx(0.2, rel=0.01)
    assert strong.standard_errors["alpha"] < 0.1 * free.standard_errors["alpha"]
    low, high = strong.conf_int(0.9)["alpha"]
    assert 0.19 < low < strong.params["alpha"] < high < 0.21
    vague = CASE.law.fit(table, priors={"alpha": (0.2, 5.0)})
    assert vague.params["alpha"] == pytest.approx(free.params["alpha"], rel=0.005)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ("strong", "must be a mapping, 'default' or None"),
        ({"alpha": (0.3, 0.0)}, "both positive"),
        ({"x": (1, 1)}, "`priors` names 'x'"),
    ],
)
def test_priors_that_make_no_sense_are_refused(priors, message):
    with pytest.raises(ValueError, match=message):
        CASE.law.fit(CASE.seen(), priors=priors)


@pytest.mark.parametrize("noise", [0.001, 0.03])
def test_an_automatic_delta_follows_the_noise(noise):
    fit = CASE.law.fit(CASE.seen(noise=noise, seed=2), delta="auto")
    assert fit.settings.objective.delta == pytest.approx(1.5 * noise, rel=0.4)


def test_a_fit_with_weights_and_priors_saves_and_loads(tmp_path):
    cheap, rest = split(ladder())
    rest.pop("loss")
    fit = laws.fit_ladder(cheap)
    loaded = laws.load(fit.save(tmp_path / "ladder.json"))
    np.testing.assert_allclose(loaded.interval(0.9, **rest), fit.interval(0.9, **rest), rtol=1e-9)
    for name, ends in fit.conf_int().items():
        assert loaded.conf_int()[name] == pytest.approx(ends)
    assert fit.report()["fitting"]["weights"] == "frontier"
    assert fit.report()["fitting"]["priors"]["alpha"] == [0.56, 0.25]


def test_an_interval_admits_that_plausible_laws_disagree():
    cheap, _ = split(ladder())
    fit = laws.fit_ladder(cheap)
    far = {"params": 1e12, "tokens": 2e13}
    spread = fit.prediction_spread
    assert [other.law.name for other in spread.siblings] == ["chinchilla", "over_training"]
    own = np.log(fit.predict(**far))
    apart = [np.log(other.predict(**far)) - own for other in spread.siblings]
    assert spread.forms(far) == pytest.approx(np.sqrt(np.mean(np.square(apart))))
    assert spread.scale(far) > 0.5 * spread.forms(far)


def test_runs_far_off_the_frontier_are_less_certain():
    cheap, _ = split(ladder())
    spread = laws.fit_ladder(cheap).prediction_spread
    best, tiny = {"params": 5e8, "tokens": 2e10}, {"params": 5e6, "tokens": 2e12}
    assert spread.excess(best) < 0.02
    assert spread.excess(tiny) > 0.05
    assert spread.scale(tiny) > spread.scale(best)


def test_loss_then_accuracy():
    link = CASES["sigmoid_accuracy"]
    loss = CASE.law.fit(CASE.seen(noise=0.002, seed=1))
    accuracy = link.law.fit(link.seen(noise=0.005, seed=2), objective="least_squares")
    both = laws.chain(loss, accuracy)
    at = {"params": np.array([1e9, 1e10]), "tokens": np.array([2e10, 2e12])}
    expected = accuracy.predict(task_loss=loss.predict(**at))
    np.testing.assert_allclose(both.predict(**at), expected)
    low, high = both.interval(0.9, **at)
    assert np.all(low < expected)
    assert np.all(expected < high)
    inner = both.interval(0.5, **at)
    assert np.all(inner[0] > low)
    with pytest.raises(ValueError, match="must have one input, but chinchilla has params, tokens"):
        laws.chain(accuracy, loss)
