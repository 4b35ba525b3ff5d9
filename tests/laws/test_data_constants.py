"""Laws of mixtures and repeats against numbers worked out by hand, and what they refuse."""

import numpy as np
import pytest

from lightning_scaling import laws


def test_mixing_law_in_the_papers_symbols():
    law = laws.get("ye_mixing", domains=["github", "pile_cc", "books"])
    assert law.inputs == ("github", "pile_cc", "books")
    c, k, t = 1.2, 0.4, {"github": -1.1, "pile_cc": 0.3, "books": 0.7}
    params = {"c": c, "k": k * np.exp(t["books"])}
    params |= {f"t_{name}": t[name] - t["books"] for name in ("github", "pile_cc")}
    shares = {"github": 0.5, "pile_cc": 0.2, "books": 0.3}
    by_hand = c + k * np.exp(sum(t[name] * shares[name] for name in t))
    assert law.evaluate(params, **shares) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("name", ["ye_mixing", "shukor_mixture"])
def test_shares_must_add_up(name):
    law = laws.get(name, domains=("a", "b"))
    params = dict.fromkeys([p.name for p in law.parameters], 0.5)
    at = {"params": 1e9, "tokens": 1e10} if name == "shukor_mixture" else {}
    with pytest.raises(ValueError, match="must add up to 1 at every point, but add up to 100"):
        law.evaluate(params, a=np.array([0.2, 60.0]), b=np.array([0.8, 40.0]), **at)
    assert np.isfinite(law.evaluate(params, a=0.0, b=1.0, **at))


@pytest.mark.parametrize(
    ("domains", "error", "message"),
    [
        ("web", TypeError, "must be a list of names"),
        (["web"], ValueError, "at least two different names"),
        (["web", "web"], ValueError, "at least two different names"),
    ],
)
def test_domains_are_checked(domains, error, message):
    with pytest.raises(error, match=message):
        laws.get("ye_mixing", domains=domains)


def test_mixture_floor_is_the_reciprocal_of_utility():
    law = laws.get("shukor_mixture", domains=["text", "images", "pairs"])
    params = {"E": 1.0, "A": 0.0, "alpha": 0.3, "B": 0.0, "beta": 0.3}
    for name, worth, exponent in (("text", 2.0, 0.5), ("images", 1.0, 0.25), ("pairs", 4.0, 1.0)):
        params |= {f"C_{name}": worth, f"gamma_{name}": exponent}
    loss = law.evaluate(params, params=1e9, tokens=1e10, text=0.25, images=0.0, pairs=0.75)
    assert loss == pytest.approx(1.0 + 1 / (2 * 0.5 + 4 * 0.75), rel=1e-12)


def test_d_cpt_is_finite_without_any_domain_text():
    law = laws.get("d_cpt")
    params = {"E": 1.2, "A": 500.0, "alpha": 0.36, "B": 900.0, "eta": 0.5, "beta": 0.34}
    params |= {"C": 0.5, "epsilon": 0.06, "gamma": 0.6}
    none, some = law.evaluate(params, params=1e9, tokens=1e10, ratio=np.array([0.0, 0.5]))
    assert none == pytest.approx(1.2 + 500 / 1e9**0.36 + 0.5 / 0.06**0.6, rel=1e-12)
    by_hand = 1.2 + 500 / 1e9**0.36 + 900 * 0.5**0.5 / 1e10**0.34 + 0.5 / 0.56**0.6
    assert some == pytest.approx(by_hand, rel=1e-12)


def test_over_fitting_is_bounded_and_lets_the_loss_rise():
    law = laws.get("repeated_overfit")
    params = {"E": 1.6, "L_0": 10.5, "a": 60.0, "alpha": 0.34, "b": 300.0, "beta": 0.36}
    params |= {"c": 30.0, "gamma": 0.35, "delta": 0.62}
    sizes = np.geomspace(1e5, 1e13, 200)
    scarce = law.evaluate(params, params=sizes, tokens=1e12, unique_tokens=1e8)
    plenty = law.evaluate(params, params=sizes[:100], tokens=1e12, unique_tokens=1e16)
    assert np.all((scarce > 1.6) & (scarce < 10.5))
    assert 0 < np.argmin(scarce) < 199
    assert np.all(np.diff(plenty) < 0)
    assert law.evaluate(params, params=1.0, tokens=1.0, unique_tokens=1.0) == pytest.approx(10.5, rel=0.01)


def test_quality_fades_pass_by_pass():
    law = laws.get("goyal_quality")
    params = {"a": 3.0, "b": -0.4, "tau": 2.0, "d": 0.1}
    half = 2 ** (-1 / 2.0)
    seen = np.array([50.0, 100.0, 150.0, 200.0, 250.0])
    by_hand = [
        50.0**-0.4,
        100.0**-0.4,
        100.0**-0.4 * 1.5 ** (-0.4 * half),
        100.0**-0.4 * 2 ** (-0.4 * half),
        100.0**-0.4 * 2 ** (-0.4 * half) * 1.25 ** (-0.4 * half**2),
    ]
    found = law.evaluate(params, tokens=seen, unique_tokens=100.0)
    assert found == pytest.approx(0.1 + 3 * np.array(by_hand), rel=1e-12)
    fresh = law.evaluate(params | {"tau": 1e4}, tokens=seen, unique_tokens=100.0)
    assert fresh == pytest.approx(0.1 + 3 * seen**-0.4, rel=1e-3)


def test_quality_refuses_absurd_repeats():
    law = laws.get("goyal_quality")
    with pytest.raises(ValueError, match="10000 passes"):
        law.evaluate({"a": 3.0, "b": -0.4, "tau": 2.0, "d": 0.1}, tokens=1e6, unique_tokens=100.0)
