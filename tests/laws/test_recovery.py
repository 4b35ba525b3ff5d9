"""Planted parameters come back: exactly from noiseless points, within their intervals from noisy ones."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import CASES

from lightning_scaling import laws


def test_every_law_has_a_planted_case():
    assert sorted(CASES) == laws.names()


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_noiseless_points_give_the_parameters_back(name, data):
    case = CASES[name]
    law = case.law
    truth = {}
    for p in law.parameters:
        factor = data.draw(st.floats(0.93, 1.07), label=p.name)
        truth[p.name] = (
            float(np.clip(case.truth[p.name] * factor, p.lower, p.upper))
            if p.of is None
            else case.truth[p.name] * factor
        )
    fit = law.fit(case.seen(truth), objective="least_squares")
    for p in law.parameters:
        assert fit.params[p.name] == pytest.approx(truth[p.name], rel=1e-6, abs=1e-9), fit
    assert fit.ok, fit.message
