"""Laws of fine-tuning, distillation and precision against numbers worked out by hand."""

import numpy as np
import pytest

from lightning_scaling import laws


def test_data_transferred_by_hand():
    law = laws.get("hernandez")
    one = law.evaluate(law.published["text_to_python"].values, finetune_tokens=1e6, params=1e8)
    assert one == pytest.approx(1.9e4 * 1e6**0.18 * 1e8**0.38, rel=1e-12)
    mixed = law.published["text_and_code_to_python"].values
    assert law.evaluate(mixed, finetune_tokens=1e6, params=1e8) > one


def test_unified_law_is_kaplans_with_effective_data():
    law = laws.get("hernandez_loss")
    params = {"N_C": 2e9, "alpha_N": 0.3, "D_k": 3e6, "alpha_D": 0.35, "alpha": 0.6, "beta": 0.3}
    by_hand = ((2e9 / 1e8) ** (0.3 / 0.35) + 3e6 / (1e5**0.6 * 1e8**0.3)) ** 0.35
    assert law.evaluate(params, params=1e8, finetune_tokens=1e5) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("factor", ["params", "tokens", "adapter_params"])
def test_fine_tuning_scales_the_chosen_factor(factor):
    law = laws.get("zhang", factor=factor)
    assert law.inputs == (factor, "finetune_tokens")
    params = {"A": 60.0, "alpha": 0.12, "beta": 0.1, "E": 0.6}
    loss = law.evaluate(params, **{factor: 1e9}, finetune_tokens=1e5)
    assert loss == pytest.approx(60 / 1e9**0.12 / 1e5**0.1 + 0.6, rel=1e-12)


@pytest.mark.parametrize("name", ["zhang", "dlrm", "graph", "alphazero_elo"])
def test_an_unknown_factor_is_refused(name):
    with pytest.raises(ValueError, match=r"`factor` must be one of .*, but got 'width'"):
        laws.get(name, factor="width")


def test_rectified_is_flat_and_then_a_power():
    law = laws.get("rectified")
    params = {"B": 900.0, "D_l": 400.0, "beta": 0.75, "E": 0.6}
    few, many = law.evaluate(params, finetune_tokens=np.array([1e-9, 1e9]))
    assert few == pytest.approx(0.6 + 900 / 400)
    assert many == pytest.approx(0.6 + 900 / (400 + 1e9**0.75), rel=1e-12)


def test_transfer_between_errors_by_hand():
    gap = laws.get("mikami").evaluate({"a": 8.0, "alpha": 0.28, "c": 0.12}, tokens=1e6)
    assert gap == pytest.approx(8 / 1e6**0.28 + 0.12, rel=1e-12)
    down = laws.get("abnar_transfer").evaluate({"k": 0.9, "a": 1.6, "c": 0.08}, upstream_error=0.25)
    assert down == pytest.approx(0.9 * 0.25**1.6 + 0.08, rel=1e-12)


def test_distillation_by_hand_and_at_its_limits():
    law = laws.get("busbridge")
    params = {"c_0": 1.5, "c_1": 2.0, "d_1": 1.1, "f_1": 0.12, "A": 900.0, "alpha": 0.42, "B": 4000.0, "beta": 0.45}
    params["gamma"] = 0.7
    at = {"params": 1e9, "tokens": 1e10}
    broken = (1 + (2.4 / (1.1 * 2.2)) ** (1 / 0.12)) ** (-2.0 * 0.12)
    by_hand = 2.4 + 2.4**-1.5 * broken * (900 / 1e9**0.42 + 4000 / 1e10**0.45) ** 0.7
    assert law.evaluate(params, teacher_loss=2.4, supervised_loss=2.2, **at) == pytest.approx(by_hand, rel=1e-12)
    huge = law.evaluate(params, params=1e30, tokens=1e30, teacher_loss=2.4, supervised_loss=2.2)
    assert huge == pytest.approx(2.4, abs=1e-4)
    assert np.isfinite(law.evaluate(params | {"f_1": 0.005}, teacher_loss=9.0, supervised_loss=1.0, **at))


def test_losses_pair_above_their_floors():
    law = laws.get("loss_to_loss")
    params = {"K": 1.3, "E_0": 1.5, "kappa": 0.8, "E_1": 0.9}
    above, below = law.evaluate(params, other_loss=np.array([2.5, 1.2]))
    assert above == pytest.approx(0.9 + 1.3 * 1.0**0.8, rel=1e-12)
    assert below == pytest.approx(0.9, abs=1e-3)


def test_many_bits_leave_the_size_as_it_is():
    law = laws.get("kumar")
    params = {"A": 4000.0, "alpha": 0.45, "B": 9000.0, "beta": 0.44, "E": 1.5}
    params |= {"gamma_w": 2.7, "gamma_a": 2.2, "gamma_kv": 1.6}
    at = {"params": 1e9, "tokens": 1e11}
    full = law.evaluate(params, weight_bits=500, activation_bits=500, kv_bits=500, **at)
    assert full == pytest.approx(1.5 + 4000 / 1e9**0.45 + 9000 / 1e11**0.44, rel=1e-12)
    kept = (1 - np.exp(-4 / 2.7)) * (1 - np.exp(-8 / 2.2)) * (1 - np.exp(-3 / 1.6))
    low = law.evaluate(params, weight_bits=4, activation_bits=8, kv_bits=3, **at)
    assert low == pytest.approx(1.5 + 4000 / (kept * 1e9) ** 0.45 + 9000 / 1e11**0.44, rel=1e-12)


def test_quantisation_damage_grows_by_1_42_when_tokens_double():
    law = laws.get("kumar_ptq")
    values = law.published["kumar"].values
    once, twice = law.evaluate(values, params=1e9, tokens=np.array([1e11, 2e11]), post_bits=4)
    assert twice / once == pytest.approx(1.42, abs=0.005)
    assert once == pytest.approx(0.0598 * 1e11**0.5068 / 1e9**0.3439 * np.exp(-4 / 0.5907), rel=1e-12)
    assert set(law.published["kumar"].inexact) == {"C_T", "gamma_post"}
