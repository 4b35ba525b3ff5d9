"""Robust and small-sample statistics against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_scaling._utils.stats import robust_std, t_quantile


def test_the_robust_standard_deviation_ignores_outliers():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    assert robust_std(values) == pytest.approx(2.0, rel=0.03)
    values[:500] = 1e9
    assert robust_std(values) == pytest.approx(2.0, rel=0.06)
    assert robust_std(values) == pytest.approx(stats.median_abs_deviation(values, scale="normal"), rel=1e-4)


def test_deviations_can_be_taken_from_another_center():
    assert robust_std(np.array([1.0, 2.0, 3.0]), center=0.0) == pytest.approx(2 * 1.4826)


@pytest.mark.parametrize("dof", [1, 4, 30, 1e9])
def test_quantiles_of_students_t(dof):
    assert t_quantile(0.95, dof) == pytest.approx(stats.t.ppf(0.95, dof))
    assert t_quantile(0.5, dof) == pytest.approx(0, abs=1e-12)
