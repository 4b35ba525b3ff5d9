import numpy as np
import pytest

from lightning_scaling.advice.context import is_abrupt


def losses(shape, seed=0, noise=0.02):
    return 2.0 + noise * np.random.default_rng(seed).standard_normal(40) + shape


AT = np.arange(40)


@pytest.mark.parametrize("seed", range(5))
def test_a_jump_is_sudden_and_a_ramp_is_not(seed):
    assert is_abrupt(losses(np.where(AT >= 30, 0.3, 0.0), seed)) is True
    assert is_abrupt(losses(0.03 * np.maximum(AT - 18, 0), seed)) is False


def test_a_jump_that_fades_is_sudden():
    assert is_abrupt(losses(np.where(AT >= 28, 0.5 * 0.9 ** (AT - 28.0), 0.0))) is True


def test_of_what_is_to_be_high_a_fall_is_the_jump():
    assert is_abrupt(losses(np.where(AT >= 30, -0.3, 0.0)), rising=True) is True


@pytest.mark.parametrize("shape", [np.zeros(40), np.where(AT >= 30, -0.3, 0.0)])
def test_without_a_rise_there_is_no_answer(shape):
    assert is_abrupt(losses(shape)) is None


def test_too_few_losses_give_no_answer():
    assert is_abrupt(np.array([2.0] * 8 + [3.0] * 8)) is None
