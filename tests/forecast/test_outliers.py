import numpy as np
import pytest

from lightning_scaling.forecast.law_grid import sustained_outliers

FALLING = 2 + np.linspace(0.05, 1, 80) ** -0.5


def noisy(scale, seed=0):
    return FALLING + scale * np.random.default_rng(seed).standard_normal(FALLING.size)


@pytest.mark.parametrize("scale", [0.0, 0.003, 0.03, 0.3])
def test_noise_is_no_excursion(scale):
    assert not sustained_outliers(noisy(scale)).any()


def test_a_blow_up_and_the_way_back_are():
    loss = noisy(0.003)
    loss[40:46] += [2.0, 1.4, 1.0, 0.8, 0.6, 0.5]
    assert np.flatnonzero(sustained_outliers(loss)).tolist() == [40, 41, 42, 43, 44, 45]


def test_nothing_is_an_outlier_among_the_first_losses():
    assert not sustained_outliers(np.array([3.0, 5.0, 9.0])).any()
