"""Worked values of the laws of single curves."""

import numpy as np
import pytest

from lightning_scaling import laws


def test_broken_power_law_is_the_papers_product():
    p = {"a": 0.4, "b": 5.0, "c0": 0.1, "c1": 0.3, "d1": 1e3, "f1": 0.5, "c2": -0.2, "d2": 1e5, "f2": 0.25}
    x = np.geomspace(1, 1e8, 30)
    product = (1 + (x / 1e3) ** (1 / 0.5)) ** (-0.3 * 0.5) * (1 + (x / 1e5) ** (1 / 0.25)) ** (0.2 * 0.25)
    expected = 0.4 + 5 * x**-0.1 * product
    np.testing.assert_allclose(laws.get("bnsl", breaks=2).evaluate(p, steps=x), expected, rtol=1e-12)


def test_sharp_breaks_do_not_overflow():
    p = {"a": 0.0, "b": 1.0, "c0": 0.0, "c1": 0.5, "d1": 1.0, "f1": 0.01}
    got = laws.get("bnsl").evaluate(p, steps=np.array([1e-6, 1e12]))
    np.testing.assert_allclose(got, [1.0, 1e-6], rtol=1e-9)


def test_breaks_make_parameters_and_formula():
    law = laws.get("bnsl", breaks=3, over="tokens")
    assert [p.name for p in law.parameters][-3:] == ["c3", "d3", "f3"]
    assert "(1 + (tokens/d3)^(1/f3))^(-c3*f3)" in law.formula
    assert "steps" not in law.formula
    assert law.options() == {"breaks": 3, "over": "tokens"}


def test_two_breaks_are_found():
    truth = {"a": 0.3, "b": 8.0, "c0": 0.05, "c1": 0.4, "d1": 2e2, "f1": 0.2, "c2": -0.3, "d2": 4e4, "f2": 0.2}
    law = laws.get("bnsl", breaks=2)
    x = np.geomspace(1, 1e7, 120)
    fit = law.fit({"steps": x, "loss": law.evaluate(truth, steps=x)}, objective="least_squares")
    for name, expected in truth.items():
        assert fit.params[name] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("breaks", [0, 9, 1.5, True])
def test_breaks_must_be_a_small_whole_number(breaks):
    with pytest.raises(ValueError, match="whole number from 1 to 8"):
        laws.get("bnsl", breaks=breaks)


@pytest.mark.parametrize("alpha", [0.05, 0.7, 1.0, 3.0])
def test_m4_solves_its_equation(alpha):
    p = {"eps_inf": 0.1, "eps_0": 1.0, "alpha": alpha, "beta": 20.0, "c": -0.5}
    x = np.geomspace(1e3, 1e8, 40)
    y = laws.get("m4").evaluate(p, steps=x)
    assert np.all(np.diff(y) < 0)
    np.testing.assert_allclose((y - 0.1) / (1.0 - y) ** alpha, 20.0 * x**-0.5, rtol=1e-8)


def test_m4_stays_between_its_levels():
    p = {"eps_inf": 0.1, "eps_0": 1.0, "alpha": 0.5, "beta": 1.0, "c": -0.5}
    np.testing.assert_allclose(laws.get("m4").evaluate(p, steps=np.array([1e-30, 1e60])), [1.0, 0.1], atol=1e-12)


def test_m4_without_a_ceiling_is_m2():
    x = np.geomspace(1e3, 1e6, 10)
    far = laws.get("m4").evaluate({"eps_inf": 2.0, "eps_0": 1e9, "alpha": 0.001, "beta": 30.0, "c": -0.4}, steps=x)
    plain = laws.get("m2").evaluate({"eps_inf": 2.0, "beta": 30.0 * 1e9**0.001, "c": -0.4}, steps=x)
    np.testing.assert_allclose(far, plain, rtol=1e-9)


def test_m3_saturates_at_its_floor():
    p = {"beta": 12.0, "gamma": 1e-4, "c": -0.3}
    law = laws.get("m3")
    assert law.evaluate(p, steps=1e12) == pytest.approx(12.0 * 1e-4**0.3, rel=1e-6)
    assert law.evaluate(p, steps=1.0) == pytest.approx(12.0, rel=1e-3)


def test_vision_constants_are_in_core_days():
    law = laws.get("zhai", over="core_days")
    p = law.published["imagenet-finetune"].values
    assert law.evaluate(p, core_days=1e3) == pytest.approx(0.09 + 0.26 * (1e3 + 0.01) ** -0.35)
    p = law.published["imagenet-10-shot"].values
    assert law.evaluate(p, core_days=1e-6) == pytest.approx(0.12 + 0.63 * 0.52**-0.32, rel=1e-5)
    assert not laws.get("zhai").published
