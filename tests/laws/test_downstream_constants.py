"""Laws of inference and of tasks against numbers worked out by hand or published."""

import numpy as np
import pytest

from lightning_scaling import laws


def test_coverage_through_two_published_points():
    """SWE-bench Lite: 15.9 % with one sample and 56 % with 250."""
    law = laws.get("coverage")
    a = np.log(0.159)
    b = np.log(np.log(0.56) / a) / np.log(250)
    one, many, endless = law.evaluate({"a": a, "b": b}, samples=np.array([1.0, 250.0, 1e300]))
    assert (one, many, endless) == pytest.approx((0.159, 0.56, 1.0))
    fit = law.fit({"samples": [1, 250], "coverage": [0.159, 0.56]}, loss="coverage")
    assert fit.params == pytest.approx({"a": a, "b": b}, rel=1e-6)


def test_best_size_for_a_budget():
    law = laws.get("wu_inference")
    flops = law.evaluate(law.published["math"].values, params=7e9)
    assert np.log10(flops) == pytest.approx(1.19 * np.log10(7e9) + 2.03, rel=1e-12)


def test_lifetime_compute_counts_training_and_use():
    law = laws.get("lifetime_compute")
    values = law.published["sardana"].values
    assert law.evaluate(values, params=7e9, tokens=1e12, inference_tokens=0) == pytest.approx(4.2e22)
    assert law.evaluate(values, params=7e9, tokens=1e12, inference_tokens=3e12) == pytest.approx(8.4e22)


def test_accuracy_falls_from_right_to_guessing():
    law = laws.get("sigmoid_accuracy")
    values = {"a": -0.65, "k": 7.0, "L_0": 0.9, "b": 0.9}
    none, half, lost, near = law.evaluate(values, task_loss=np.array([-1e6, 0.9, 1e6, 1.0]))
    assert (none, half, lost) == pytest.approx((0.9, 0.575, 0.25))
    assert near == pytest.approx(-0.65 / (1 + np.exp(-0.7)) + 0.9, rel=1e-12)


def test_two_steps_from_compute_to_performance():
    loss = laws.get("flp_loss").evaluate({"C_N": 1e28, "alpha_N": 0.055}, flops=1e20)
    assert loss == pytest.approx(1e8**0.055, rel=1e-12)
    line = laws.get("flp_performance").evaluate({"w_0": 1.6, "w_1": -0.42}, pretraining_loss=loss)
    assert line == pytest.approx(1.6 - 0.42 * loss)


def test_the_logit_of_accuracy_is_linear_in_log_compute():
    law = laws.get("logit_compute")
    accuracy = law.evaluate({"C_0": 3e21, "beta": 0.5}, flops=np.array([3e20, 3e21, 3e22]))
    logit = np.log(accuracy / (1 - accuracy))
    assert logit == pytest.approx([-0.5 * np.log(10), 0.0, 0.5 * np.log(10)], abs=1e-12)


@pytest.mark.parametrize("name", laws.names())
def test_published_constants_are_whole_and_in_bounds(name):
    law = laws.get(name)
    for constants in law.published.values():
        assert set(constants.values) == {p.name for p in law.parameters}, constants.name
        assert constants.note
        for p in law.parameters:
            low, high = (p.lower, p.upper) if p.of is None else (-np.inf, np.inf)
            assert low <= constants.values[p.name] <= high, (constants.name, p.name)
