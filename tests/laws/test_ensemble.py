"""Several laws as one: what the median forecasts, how sure it is, and what it refuses."""

import numpy as np
import pytest

from lightning_scaling import laws
from lightning_scaling.laws.ensemble import Combination, CombinedFit, combine

STEPS = np.geomspace(100.0, 1e5, 50)
AHEAD = np.geomspace(1.5e5, 8e5, 12)


def floor(x):
    return 2.0 + 8.0 * x**-0.4


def late_start(x):
    return 0.9 / (1 + (x / 2e3) ** 1.5) ** 0.3 + 0.1


def noisy(law, noise, seed=0, x=STEPS):
    return law(x) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x)))


@pytest.fixture(scope="module")
def fit():
    return combine().fit({"steps": STEPS, "loss": noisy(floor, 0.002)})


@pytest.mark.parametrize("law", [floor, lambda x: 5 * x**-0.15, lambda x: 1.0 + 50 / x], ids=["floor", "power", "flat"])
def test_a_curve_that_a_member_describes_exactly_is_continued_exactly(law):
    fit = combine().fit({"steps": STEPS, "loss": law(STEPS)})
    np.testing.assert_allclose(fit.predict(steps=AHEAD), law(AHEAD), rtol=5e-3)


def test_the_forecast_is_the_median_of_the_members_in_logarithms(fit):
    assert isinstance(fit, CombinedFit)
    assert list(fit.members) == ["m2", "m3", "m4", "bnsl"]
    every = [np.log(member.predict(steps=AHEAD)) for member in fit.members.values()]
    np.testing.assert_allclose(np.log(fit.predict(steps=AHEAD)), np.median(every, axis=0))


def test_a_noisy_curve_is_continued_within_its_interval(fit):
    lower, upper = fit.interval(0.95, steps=AHEAD)
    assert np.all((lower < floor(AHEAD)) & (floor(AHEAD) < upper))
    np.testing.assert_allclose(fit.predict(steps=AHEAD), floor(AHEAD), rtol=0.02)


def test_an_early_plateau_misleads_plain_fits_more():
    data = {"steps": STEPS[:30], "loss": noisy(late_start, 0.003, x=STEPS[:30])}
    truth = late_start(STEPS[30:])
    plain = [laws.get(n).fit(data, objective="least_squares").predict(steps=STEPS[30:]) for n in ("m2", "m3")]
    ours = np.abs(np.log(combine().fit(data).predict(steps=STEPS[30:]) / truth)).max()
    assert ours < 0.7 * min(np.abs(np.log(p / truth)).max() for p in plain)


def test_intervals_widen_ahead_and_with_disagreement(fit):
    lower, upper = fit.interval(0.9, steps=AHEAD)
    assert np.all(np.diff(np.log(upper / lower)) > 0)
    narrow = fit.interval(0.5, steps=AHEAD)
    assert np.all((narrow[0] > lower) & (narrow[1] < upper))
    parts = fit.parts(steps=AHEAD)
    middle = np.log(fit.predict(steps=AHEAD))
    away = [(np.log(m.predict(steps=AHEAD)) - middle) ** 2 for m in fit.members.values()]
    np.testing.assert_allclose(parts["forms"], np.sqrt(np.mean(away, axis=0)))
    quarrel = Combination(("m1", "m2")).fit({"steps": STEPS, "loss": floor(STEPS)})
    ends = np.log(np.divide(*quarrel.interval(0.9, steps=8e5)[::-1]))
    apart = np.abs(np.log(quarrel.members["m1"].predict(steps=8e5) / quarrel.members["m2"].predict(steps=8e5)))
    assert ends > apart


def test_spikes_do_not_carry_the_forecast_away():
    loss = noisy(floor, 0.002)
    loss[[20, 35, 46]] *= (1.5, 0.7, 1.3)
    np.testing.assert_allclose(
        combine().fit({"steps": STEPS, "loss": loss}).predict(steps=AHEAD), floor(AHEAD), rtol=0.02
    )


def test_units_of_x_and_of_the_loss_do_not_matter(fit):
    loss = noisy(floor, 0.002)
    other = combine().fit({"steps": STEPS * 1e3, "loss": 7 * loss}).predict(steps=AHEAD * 1e3)
    np.testing.assert_allclose(other / 7, fit.predict(steps=AHEAD), rtol=3e-3)


def test_order_and_many_points_do_not_matter():
    x = np.arange(50.0, 20_001.0)
    loss = noisy(floor, 0.02, x=x)
    forward = combine().fit({"steps": x, "loss": loss})
    mixed = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_allclose(
        forward.predict(steps=AHEAD), combine().fit({"steps": x[mixed], "loss": loss[mixed]}).predict(steps=AHEAD)
    )
    assert forward.predict(steps=4e4) == pytest.approx(floor(4e4), rel=0.01)
    assert forward.noise == pytest.approx(0.02, rel=0.1)
    assert forward.ranges == {"steps": (50.0, 20_000.0)}


def test_four_points_are_enough_for_an_extrapolation():
    x = np.array([1e3, 2e3, 4e3, 8e3])
    fit = combine().fit({"steps": x, "loss": floor(x)})
    lower, upper = fit.interval(0.9, steps=1.6e4)
    assert lower < floor(1.6e4) < upper
    assert fit.predict(steps=1.6e4) < floor(8e3)


def test_a_constant_loss_stays():
    fit = combine().fit({"steps": STEPS, "loss": np.full(50, 3.0)})
    np.testing.assert_allclose(fit.predict(steps=AHEAD), 3.0, rtol=1e-3)


def test_any_quantity_and_any_column_name():
    data = {"seen": STEPS * 1e6, "error": floor(STEPS)}
    fit = combine(over="tokens").fit(data, loss="error", columns={"tokens": "seen"})
    assert fit.predict(tokens=2e11) == pytest.approx(floor(2e5), rel=1e-2)
    with pytest.raises(TypeError, match="steps"):
        fit.predict(steps=2e5)


def test_laws_of_several_inputs_combine_too():
    rng = np.random.default_rng(3)
    params, tokens = 10 ** rng.uniform(7, 9, 60), 10 ** rng.uniform(9, 11, 60)
    truth = laws.get("chinchilla").known("besiroglu")
    data = {"params": params, "tokens": tokens, "loss": truth.predict(params=params, tokens=tokens)}
    fit = Combination(("chinchilla", "rosenfeld", laws.get("kaplan_params_tokens"))).fit(data)
    new = {"params": 3e9, "tokens": 3e11}
    lower, upper = fit.interval(0.9, **new)
    assert fit.predict(**new) == pytest.approx(truth.predict(**new), rel=0.02)
    assert lower < truth.predict(**new) < upper


def test_members_are_fits_and_the_summary_names_them(fit):
    assert all(isinstance(member, laws.Fit) for member in fit.members.values())
    text = fit.summary()
    assert text.startswith("median(m2, m3, m4, bnsl)")
    assert all(word in text for word in ("bnsl", "x8", "90 % to", "50 points"))


def test_a_law_that_cannot_be_fitted_is_named():
    x = np.geomspace(1, 100, 20)

    class Undefined(type(laws.get("m2"))):
        name = "undefined"

        def value(self, p, x):
            return super().value(p, x) * np.nan

    fit = Combination(("m2", "m3", Undefined())).fit({"steps": x, "loss": 1 + 1 / x})
    assert list(fit.members) == ["m2", "m3"]
    assert "no finite value" in fit.failed["undefined"]
    assert "left out undefined" in fit.summary()


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Combination(("m2",)), ValueError, "at least two"),
        (lambda: Combination("m2"), ValueError, "several laws"),
        (lambda: Combination(("m2", "m2")), ValueError, "twice"),
        (lambda: Combination(("m2", "chinchilla")), ValueError, "the same from the same"),
        (lambda: Combination(("m2", "m33")), KeyError, "m33"),
        (lambda: combine().fit({"steps": [1.0, 2.0, 2.0], "loss": [3.0, 2.0, 2.0]}), ValueError, "too few"),
        (lambda: combine().fit({"tokens": STEPS, "loss": floor(STEPS)}), ValueError, "steps"),
        (lambda: combine().fit({"steps": STEPS, "loss": -floor(STEPS)}), ValueError, "not positive"),
        (lambda: combine().fit([1, 2, 3]), TypeError, "named columns"),
    ],
)
def test_what_cannot_be_done_is_said(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_levels_are_checked(fit):
    with pytest.raises(ValueError, match="level"):
        fit.interval(90, steps=1e6)
