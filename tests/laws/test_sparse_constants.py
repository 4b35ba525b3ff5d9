"""Laws of sparse networks against numbers worked out by hand or measured by others."""

import numpy as np
import pytest

from lightning_scaling import laws


def test_clark_gives_back_released_losses():
    """Final validation losses of S-Base models in google-deepmind/scaling_laws_for_routing (Apache-2.0)."""
    law = laws.get("clark")
    small, large = 16527360, 368123904
    loss = law.evaluate(
        law.published["s_base"].values,
        active_params=np.array([small, small, small, large, large, large]),
        experts=np.array([2, 32, 512, 2, 32, 512]),
    )
    assert loss == pytest.approx([3.1124, 2.8268, 2.6205, 2.4360, 2.2499, 2.1351], rel=0.02)


def test_clark_effective_experts_start_and_saturate():
    law = laws.get("clark")
    params = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.0, "E_start": 1.847, "E_max": 314.478}
    x = law.evaluate(params, active_params=1e9, experts=np.array([1.0, 2.0, 1e9]))
    inner = 1 / (1 / 1.847 - 1 / 314.478)
    assert x == pytest.approx([1.847, 1 / (1 / (1 + inner) + 1 / 314.478), 314.478], rel=1e-5)


def test_krajewski_by_hand():
    law = laws.get("krajewski")
    at = {"params": 1e9, "tokens": 3e10}
    one = law.evaluate(law.published["moe"].values, granularity=1, **at)
    assert one == pytest.approx(0.47 + 20.2 / 1e9**0.115 + 30.8 / 3e10**0.147, rel=1e-12)
    assert law.evaluate(law.published["moe"].values, granularity=16, **at) < one


def test_frantar_sparsity_touches_the_size_term_only():
    law = laws.get("frantar")
    values = law.published["t5_c4"].values
    dense = law.evaluate(values, params=1e9, sparsity=0, tokens=1e11)
    assert dense == pytest.approx(61.8 / 1e9**0.245 + (6.9e8 / 1e11) ** 0.203 + 0.651, rel=1e-12)
    no_size = {"params": 1e60, "tokens": 1e11}
    assert law.evaluate(values, sparsity=0.9, **no_size) == pytest.approx(law.evaluate(values, sparsity=0.0, **no_size))
    assert law.evaluate(values, params=1e9, sparsity=0.75, tokens=1e11) < dense


def test_a_dense_model_has_one_expert():
    law = laws.get("wang_moe")
    params = {"A": 400.0, "alpha": 0.33, "gamma": 0.15, "B": 900.0, "beta": 0.32, "sigma": 1.5}
    dense = law.evaluate(params, active_params=1e9, experts=1, tokens=1e11)
    assert dense == pytest.approx(1.5 + 400 / 1e9**0.33 + 900 / 1e11**0.32, rel=1e-12)
    same = law.evaluate(params, active_params=1e9 * 8 ** (0.15 / 0.33), experts=1, tokens=1e11)
    assert law.evaluate(params, active_params=1e9, experts=8, tokens=1e11) == pytest.approx(same, rel=1e-12)


def test_abnar_by_hand():
    law = laws.get("abnar")
    loss = law.evaluate(law.published["abnar"].values, params=1e10, tokens=1e11, sparsity=0.9)
    by_hand = 16612.5 / 1e10**0.5962 + 5455.67 / 1e11**0.3954 + 0.4598 * 0.1**0.1666
    by_hand += 17.26 / (0.1**0.1603 * 1e10**0.1595) + 0.94
    assert loss == pytest.approx(by_hand, rel=1e-9)
    assert 1.8 < loss < 2.8


def test_p2_costs_nothing_when_nothing_is_damaged():
    law = laws.get("p2")
    params = {"N_C": 60.0, "alpha": 0.25, "D_C": 3000.0, "beta": 0.45, "E": 1.5, "gamma": -1.4, "delta": 0.06}
    at = {"params": 1e9, "tokens": 1e9, "dense_loss": 2.1}
    assert law.evaluate(params, rho=1e-9, **at) == pytest.approx(2.1)
    by_hand = 2.1 + 0.25**1.4 * 1e9**-0.06 * (60 / 1e9**0.25 + 3000 / 1e9**0.45 + 1.5)
    assert law.evaluate(params, rho=0.25, **at) == pytest.approx(by_hand, rel=1e-12)
