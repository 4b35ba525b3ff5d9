import dataclasses
import json
import math

import numpy as np
import pytest

from lightning_scaling import laws
from lightning_scaling.allocation import allocate
from lightning_scaling.laws.base import Law, Parameter, Source


class SizeOnly(Law):
    """``loss = E + A / params^alpha``; tokens are an input without effect."""

    name = "size_only"
    title = "Size only"
    formula = "loss = E + A/params^alpha"
    source = Source("test", 2024)
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", "floor", (0.0, 1.0)),
        Parameter("A", "coefficient", (1.0, 10.0)),
        Parameter("alpha", "exponent", (0.1, 1.0)),
    )
    tags = frozenset({"ladder"})

    def value(self, p, x):
        return p.E + p.A / x.params**p.alpha + 0.0 * x.tokens


class Experts(Law):
    """``loss = E + A / (active_params experts^gamma)^alpha + B / tokens^beta + c experts``."""

    name = "planted_experts"
    title = "Experts"
    formula = "loss = E + A/(active_params experts^gamma)^alpha + B/tokens^beta + c experts"
    source = Source("test", 2024)
    inputs = ("active_params", "experts", "tokens")
    parameters = tuple(Parameter(n, n, (0.1, 1.0)) for n in ("E", "A", "alpha", "B", "beta", "gamma", "c"))
    tags = frozenset({"allocation"})

    def value(self, p, x):
        size = x.active_params * x.experts**p.gamma
        return p.E + p.A / size**p.alpha + p.B / x.tokens**p.beta + p.c * x.experts


def with_params(law, **params):
    """A fit of these constants, without errors."""
    base = laws.get("chinchilla").known("hoffmann")
    return dataclasses.replace(base, law=law, params=params, names=(), u=np.zeros(0), cov=np.zeros((0, 0)))


EXPERTS = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37, "gamma": 0.3, "c": 1e-3}


@pytest.mark.parametrize("flops", [1e12, 1e19, 1e21, 5.76e23, 1e28])
@pytest.mark.parametrize("constants", ["besiroglu", "hoffmann"])
def test_chinchilla_agrees_with_its_closed_form(constants, flops):
    fit = laws.get("chinchilla").known(constants)
    p = fit.params
    total = p["alpha"] + p["beta"]
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
    best = allocate(fit, flops)
    assert best.status == "ok"
    assert best.params == pytest.approx(g * (flops / 6) ** (p["beta"] / total), rel=1e-6)
    assert best.tokens == pytest.approx((flops / 6) ** (p["alpha"] / total) / g, rel=1e-6)
    assert best.exponent == pytest.approx(p["beta"] / total, abs=1e-6)
    assert 6 * best.params * best.tokens == pytest.approx(flops)
    assert best.loss == pytest.approx(float(fit.predict(params=best.params, tokens=best.tokens)))


@pytest.mark.parametrize("seed", range(12))
def test_the_closed_form_holds_for_any_constants(seed):
    rng = np.random.default_rng(seed)
    alpha, beta = rng.uniform(0.1, 1.2, 2)
    a, b = 10 ** rng.uniform(0, 3, 2) * 1e8 ** np.array([alpha, beta])
    fit = with_params(laws.get("chinchilla"), E=rng.uniform(0, 3), A=a, alpha=alpha, B=b, beta=beta)
    flops = 10 ** rng.uniform(16, 22)
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    best = allocate(fit, flops)
    assert best.status == "ok"
    assert best.params == pytest.approx(g * (flops / 6) ** (beta / (alpha + beta)), rel=1e-6)
    assert best.exponent == pytest.approx(beta / (alpha + beta), abs=1e-4)


@pytest.mark.parametrize(("flops", "ratio"), [(1e18, 25.7), (1e20, 22.9), (1e22, 20.4), (5.76e23, 18.4)])
def test_tokens_per_parameter_of_besiroglu(besiroglu, flops, ratio):
    assert allocate(besiroglu, flops).ratio == pytest.approx(ratio, rel=0.01)


def test_being_off_costs_what_the_literature_says(besiroglu):
    best = allocate(besiroglu, 1e21)
    for factor, extra in ((1.5, 0.06), (2, 0.19), (3, 0.53), (5, 1.4), (10, 4.6)):
        assert best.off_by(factor).extra_compute == pytest.approx(extra, rel=0.05)
        assert best.off_by(1 / factor).extra_compute == pytest.approx(extra, rel=0.06)
    small, big = allocate(besiroglu, 1e19), allocate(besiroglu, 1e22)
    for factor, at_small, at_big in ((1.5, 0.012, 0.003), (2, 0.034, 0.010), (3, 0.087, 0.025)):
        assert small.off_by(factor).loss_given_up == pytest.approx(at_small, abs=6e-4)
        assert big.off_by(factor).loss_given_up == pytest.approx(at_big, abs=6e-4)
    exact = best.off_by(1)
    assert exact.loss_given_up == pytest.approx(0, abs=1e-12)
    assert exact.extra_compute == pytest.approx(0, abs=1e-3)


def test_an_off_size_reaches_the_loss_of_the_smaller_budget(besiroglu):
    off = allocate(besiroglu, 1e21).off_by(3)
    assert allocate(besiroglu, off.equivalent_flops).loss == pytest.approx(off.loss, rel=1e-9)
    assert "x3 the optimal size" in str(off)


def test_the_four_questions_lead_to_the_same_optimum(besiroglu):
    best = allocate(besiroglu, 1e21)
    by_size = allocate(besiroglu, params=best.params)
    by_tokens = allocate(besiroglu, tokens=best.tokens)
    by_loss = allocate(besiroglu, target=best.loss)
    for other in (by_size, by_tokens, by_loss):
        assert other.params == pytest.approx(best.params, rel=1e-6)
        assert other.tokens == pytest.approx(best.tokens, rel=1e-6)
        assert other.flops == pytest.approx(1e21, rel=1e-6)
        assert other.exponent == pytest.approx(best.exponent, abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "params"),
    [
        ({"params": 70e9, "tokens": 1.4e12}, 70e9),
        ({"flops": 6 * 70e9 * 1.4e12, "params": 70e9}, 70e9),
        ({"flops": 6 * 70e9 * 1.4e12, "tokens": 1.4e12}, 70e9),
    ],
)
def test_two_quantities_weigh_a_choice_against_the_optimum_of_its_budget(besiroglu, asked, params):
    found = allocate(besiroglu, **asked)
    assert found.flops == pytest.approx(5.88e23)
    assert found.choice.params == pytest.approx(params, rel=1e-9)
    assert found.choice.tokens == pytest.approx(1.4e12, rel=1e-9)
    assert found.choice.factor == pytest.approx(70e9 / found.params)
    assert 0 < found.choice.extra_compute < 0.01
    assert found.loss < found.choice.loss


def test_inference_is_paid_for_out_of_the_budget(besiroglu):
    served = 1e11
    best = allocate(besiroglu, 1e21, inference_tokens=served)
    p = besiroglu.params
    assert 6 * best.params * best.tokens + 2 * best.params * served == pytest.approx(1e21)
    assert best.training_flops == pytest.approx(6 * best.params * best.tokens)
    size_pull = p["alpha"] * p["A"] / best.params ** p["alpha"]
    data_pull = p["beta"] * p["B"] / best.tokens ** p["beta"]
    assert size_pull / data_pull == pytest.approx(1 + served / (3 * best.tokens), rel=1e-6)
    assert best.params < allocate(besiroglu, 1e21).params
    cheapest = allocate(besiroglu, target=best.loss, inference_tokens=served)
    assert cheapest.params == pytest.approx(best.params, rel=1e-6)
    assert allocate(besiroglu, params=best.params, inference_tokens=served).tokens == pytest.approx(best.tokens)
    assert "tokens, " in best.summary()


def test_inference_that_leaves_no_tokens_is_reported(besiroglu):
    best = allocate(besiroglu, 1e21, inference_tokens=1e12)
    lost = best.off_by(3)
    assert lost.tokens == 0
    assert math.isinf(lost.loss)
    assert "leave no training tokens" in str(lost)
    assert "it leaves no tokens" in best.summary()


def test_repeated_data_follow_muennighoff():
    fit = laws.get("data_constrained").known("muennighoff")
    best = allocate(fit, 1e22, unique_tokens=25e9)
    assert best.tokens == pytest.approx(2.3734e11, rel=0.002)
    assert best.params == pytest.approx(7.022e9, rel=0.002)
    assert best.epochs == pytest.approx(9.49, abs=0.02)
    plenty = allocate(fit, 1e22, unique_tokens=1e13)
    assert plenty.tokens > 0
    assert plenty.params > best.params
    with pytest.raises(ValueError, match="counts repeats"):
        allocate(fit, 1e22)


def test_a_law_that_does_not_know_repeats_says_so(besiroglu):
    best = allocate(besiroglu, 1e21, unique_tokens=10e9)
    assert best.epochs == pytest.approx(best.tokens / 10e9)
    assert "epochs, which chinchilla counts as if all tokens were new" in best.message
    assert "as if all tokens" not in allocate(besiroglu, 1e21, unique_tokens=1e12).message
    assert allocate(besiroglu, 1e21).epochs is None


def test_over_training_law_has_one_ratio_for_every_budget():
    fit = laws.get("over_training").known("redpajama")
    p = fit.params
    ratio = (p["b"] / p["a"]) ** (1 / (2 * p["eta"]))
    for flops in (1e19, 1e23):
        best = allocate(fit, flops)
        assert best.ratio == pytest.approx(ratio, rel=1e-6)
        assert best.exponent == pytest.approx(0.5, abs=1e-5)


def test_every_law_for_size_and_data_with_constants_has_an_optimum_no_neighbour_beats():
    seen = 0
    for name in laws.names():
        law = laws.get(name)
        if set(law.inputs) != {"params", "tokens"} or law.output != "loss" or not law.published:
            continue
        best = allocate(law.known(), 1e21)
        assert best.status == "ok", (name, best.message)
        for factor in (0.9, 1.1):
            off = best.off_by(factor)
            assert off.loss > best.loss, name
        seen += 1
    assert seen >= 3


def test_a_law_without_a_minimum_says_so(tmp_path):
    fit = with_params(SizeOnly(), E=1.8, A=400.0, alpha=0.3)
    none = allocate(fit, 1e20)
    assert none.status == "no_optimum"
    assert not none.ok
    assert math.isnan(none.params)
    assert math.isnan(none.tokens)
    assert none.flops == 1e20
    assert "keeps falling as the model gets bigger" in none.message
    assert none.intervals()["params"] is None
    assert "keeps falling" in none.summary()
    json.dumps(none.to_dict())
    for wrong in (lambda: none.off_by(2), none.isoflop):
        with pytest.raises(ValueError, match="There is no optimum"):
            wrong()
    assert allocate(fit, tokens=1e10).status == "no_optimum"
    assert allocate(fit, params=1e9).status == "no_optimum"


def test_a_loss_out_of_reach_is_reported(besiroglu):
    none = allocate(besiroglu, target=1.5)
    assert none.status == "no_optimum"
    assert "never reaches a loss of 1.5" in none.message


def test_bounds_on_the_size_are_kept_and_reported(besiroglu):
    best = allocate(besiroglu, 1e21, bounds=(1e8, 1e9))
    assert best.status == "at_bounds"
    assert best.params == pytest.approx(1e9)
    assert "upper end, 1B" in best.message
    assert allocate(besiroglu, 1e21, bounds=(1e9, 1e10)).status == "ok"
    assert allocate(besiroglu, 1e21, bounds=(5e9, 1e10)).params == pytest.approx(5e9)


def test_flops_can_be_counted_another_way(besiroglu):
    def per_token(params):
        return 6 * params + 2e3 * params**0.66

    best = allocate(besiroglu, 1e20, flops_per_token=per_token)
    assert best.training_flops == pytest.approx(float(per_token(best.params)) * best.tokens)
    sizes = best.params * np.geomspace(0.5, 2, 4001)
    loss = besiroglu.predict(params=sizes, tokens=1e20 / per_token(sizes))
    assert best.params == pytest.approx(sizes[np.argmin(loss)], rel=1e-3)
    assert best.params < allocate(besiroglu, 1e20).params


@pytest.mark.parametrize(
    ("per_token", "expected"),
    [
        (lambda params: 6.0, "positive number for every size"),
        (lambda params: -6 * params, "growing with it"),
        (lambda params: 6 / params, "growing with it"),
        (lambda params: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_cost_that_is_none_is_refused(besiroglu, per_token, expected):
    with pytest.raises(ValueError, match=expected):
        allocate(besiroglu, 1e20, flops_per_token=per_token)


def test_of_several_numbers_of_experts_the_best_is_chosen():
    fit = with_params(Experts(), **EXPERTS)
    best = allocate(fit, 1e21, given={"experts": [1, 8, 32, 128]})
    by_hand = {experts: allocate(fit, 1e21, given={"experts": experts}) for experts in (1, 8, 32, 128)}
    winner = min(by_hand, key=lambda experts: by_hand[experts].loss)
    assert winner in (8, 32)
    assert best.given["experts"] == winner
    assert best.params == pytest.approx(by_hand[winner].params)
    assert best.size == "active_params"
    assert [a.given["experts"] for a in best.alternatives] == sorted(by_hand, key=lambda e: by_hand[e].loss)
    assert "may lie beyond" not in best.message
    assert "Of the values tried for experts the largest, 8" in allocate(fit, 1e21, given={"experts": [1, 8]}).message
    assert "Instead with experts" in best.summary()
    target = allocate(fit, target=best.loss, given={"experts": [1, 8, 32, 128]})
    assert target.given["experts"] == winner
    assert target.flops == pytest.approx(1e21, rel=1e-6)


def test_sparse_models_cost_their_active_parameters():
    fit = laws.get("abnar").known()
    best = allocate(fit, 1e21, given={"sparsity": 0.75})
    assert best.training_flops == pytest.approx(6 * 0.25 * best.params * best.tokens)
    dense = allocate(fit, 1e21, given={"sparsity": 0})
    assert dense.training_flops == pytest.approx(6 * dense.params * dense.tokens)


def test_inputs_that_follow_from_the_size_are_given_as_functions():
    fit = with_params(Experts(), **EXPERTS)
    grown = allocate(fit, 1e21, given={"experts": lambda size, tokens: size / 1e8})
    fixed = allocate(fit, 1e21, given={"experts": grown.params / 1e8})
    assert grown.loss == pytest.approx(fixed.loss, rel=0.02)
    assert grown.status == "ok"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "Give one of"),
        ({"flops": 1e20, "params": 1e9, "tokens": 1e10}, "got flops and params and tokens"),
        ({"flops": 1e20, "target": 2.0}, "got flops and target"),
        ({"flops": -1e20}, "`flops` must be a positive finite number"),
        ({"flops": float("nan")}, "`flops` must be"),
        ({"flops": "1e20"}, "`flops` must be"),
        ({"flops": True}, "`flops` must be"),
        ({"flops": np.array([1e20, 1e21])}, "`flops` must be"),
        ({"tokens": 0}, "`tokens` must be"),
        ({"flops": 1e20, "inference_tokens": -1}, "`inference_tokens` must be a finite number that is not negative"),
        ({"flops": 1e20, "unique_tokens": 0}, "`unique_tokens` must be"),
        ({"flops": 1e20, "level": 1}, "`level` must lie strictly between"),
        ({"flops": 1e20, "bounds": (1e9, 1e8)}, "`bounds` must be a least and a greater size"),
        ({"flops": 1e20, "bounds": 1e9}, "`bounds` must be the least and the greatest"),
        ({"flops": 1e20, "given": {"experts": 8}}, "'experts', which is no input of chinchilla"),
        ({"flops": 1e20, "given": {"tokens": 8}}, "argument of its own"),
        ({"flops": 1e20, "draws": 0}, "`draws` must be"),
    ],
)
def test_bad_arguments_are_reported_in_a_sentence(besiroglu, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        allocate(besiroglu, **arguments)


def test_bad_fits_and_laws_are_reported_in_a_sentence():
    with pytest.raises(TypeError, match="must be a fitted law"):
        allocate(laws.get("chinchilla"), 1e20)
    with pytest.raises(TypeError, match="must come from isoflop_minima"):
        allocate(laws.get("chinchilla").known(), 1e20, minima={"params": [1e9]})
    with pytest.raises(ValueError, match="predicts flops_per_token, not a loss"):
        allocate(laws.get("deepseek_params").known(), 1e20)
    with pytest.raises(ValueError, match="both the size of the model and the data"):
        allocate(with_params(laws.get("compute"), **dict.fromkeys(("E", "A", "alpha"), 1.0)), 1e20)
    experts = with_params(Experts(), **EXPERTS)
    with pytest.raises(ValueError, match="also takes `experts`"):
        allocate(experts, 1e20)
    with pytest.raises(ValueError, match=r"given\['experts'\]"):
        allocate(experts, 1e20, given={"experts": [8, -1]})
    with pytest.raises(ValueError, match="is empty"):
        allocate(experts, 1e20, given={"experts": []})
    with pytest.raises(ValueError, match="compete at one budget"):
        allocate(experts, params=1e9, given={"experts": [8, 16]})


def test_intervals_hold_the_truth_and_nest(fitted, best_size):
    best = allocate(fitted, 1e21)
    assert best.status == "ok"
    wide, narrow = best.intervals(0.95), best.intervals(0.5)
    for name in ("params", "tokens", "loss", "ratio", "exponent"):
        assert wide[name][0] <= narrow[name][0] < narrow[name][1] <= wide[name][1]
    truth = best_size(1e21)
    assert wide["params"][0] < truth < wide["params"][1]
    assert wide["tokens"][0] < 1e21 / 6 / truth < wide["tokens"][1]
    assert wide["exponent"][0] < 0.37 / 0.72 < wide["exponent"][1]
    assert wide["flops"] == (1e21, 1e21)
    assert best.intervals() == best.intervals(0.9)
    with pytest.raises(ValueError, match="`level`"):
        best.intervals(0)


def test_intervals_of_the_draws_cover_at_their_nominal_rate(make_runs, best_size):
    inside = 0
    for seed in range(25):
        runs = make_runs(seed=seed, noise=0.003, sizes=5)
        fit = laws.get("chinchilla").fit(runs, objective="least_squares")
        budget = allocate(fit, 1e21, draws=200)
        size = allocate(fit, params=budget.params, draws=200)
        assert size.intervals()["params"] == (budget.params, budget.params)
        lower, upper = allocate(fit, params=best_size(1e20), draws=200).intervals(0.9)["tokens"]
        inside += lower < 1e20 / 6 / best_size(1e20) < upper
    assert 18 <= inside <= 25


def test_unknown_errors_are_not_taken_for_certainty():
    exact = allocate(laws.get("chinchilla").known("hoffmann"), 1e21)
    assert exact.intervals() == {
        "params": None,
        "tokens": None,
        "flops": (1e21, 1e21),
        "loss": None,
        "ratio": None,
        "exponent": None,
    }
    assert "unknown" in exact.summary()
    assert "how uncertain this is, is unknown" in exact.message


def test_extrapolation_is_reported_and_beyond_tenfold_changes_the_status(fitted):
    inside = allocate(fitted, 1e19)
    assert inside.extrapolation == 1
    assert "outside" not in inside.message
    near = allocate(fitted, 1e22)
    assert 1 < near.extrapolation < 10
    assert near.status == "ok"
    assert f"x{near.extrapolation:.3g} outside of what the law was fitted on" in near.message
    far = allocate(fitted, 1e25)
    assert far.extrapolation > 10
    assert far.status == "extrapolated"


def test_an_unidentified_fit_is_no_base_for_advice(fitted):
    best = allocate(dataclasses.replace(fitted, status="unidentified", message="alpha is loose."), 1e20)
    assert best.status == "unidentified"
    assert "alpha is loose." in best.message


def test_isoflop_curves_have_their_minimum_at_the_optimum(besiroglu):
    best = allocate(besiroglu, 1e21)
    one, two = best.isoflop([1e20, 1e21], points=41, span=10)
    assert two.params[20] == pytest.approx(best.params)
    assert np.argmin(two.loss) == np.argmin(one.loss) == 20
    assert np.allclose(6 * two.params * two.tokens, 1e21)
    assert two.params[-1] / two.params[20] == pytest.approx(10)
    assert len(best.isoflop()[0].loss) == 61
    with pytest.raises(ValueError, match="at least 3 points"):
        best.isoflop(points=1)


def test_an_allocation_is_frozen_and_can_be_written(fitted):
    best = allocate(fitted, flops=1e21, params=1e9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        best.params = 1
    document = json.loads(json.dumps(best.to_dict()))
    assert document["params"] == best.params
    assert document["choice"]["params"] == 1e9
    assert set(document["off_by"]) == {"1.5", "2", "3"}
    assert document["intervals"]["params"][0] < best.params
    text = best.summary()
    for word in ("params", "tokens per parameter", "exponent of size", "90% interval", "The choice: 1B parameters"):
        assert word in text
