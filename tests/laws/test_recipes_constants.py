"""Published constants and worked values of the laws of learning rate, batch and counting."""

import numpy as np
import pytest

from lightning_scaling import laws


def value(name, **inputs):
    law = laws.get(name)
    return law.evaluate(next(iter(law.published.values())).values, **inputs)


def test_step_law_at_one_billion_parameters():
    assert value("step_law_rate", params=1e9, tokens=2e10) == pytest.approx(1.0e-3, rel=0.03)
    assert value("step_law_batch", tokens=2e10) == pytest.approx(4.4e5, rel=0.03)


def test_deepseek_at_1e19_flops():
    assert value("deepseek_rate", flops=1e19) == pytest.approx(1.31e-3, rel=5e-3)
    assert value("deepseek_batch", flops=1e19) == pytest.approx(4.8e5, rel=5e-3)


@pytest.mark.parametrize(("loss", "batch"), [(4.0, 2.7e5), (3.0, 1.07e6), (2.5, 2.55e6), (2.0, 7.4e6)])
def test_kaplans_critical_batch_grows_as_the_loss_falls(loss, batch):
    assert value("kaplan_critical_batch", training_loss=loss) == pytest.approx(batch, rel=0.01)


def test_steps_and_data_trade_off_as_a_hyperbola():
    p = {"S_min": 5000.0, "B_crit": 1e6}
    batch = np.geomspace(1e4, 1e8, 9)
    steps = laws.get("batch_tradeoff").evaluate(p, batch_tokens=batch)
    data = steps * batch
    np.testing.assert_allclose((steps / 5000.0 - 1) * (data / (5000.0 * 1e6) - 1), 1.0, rtol=1e-9)
    assert laws.get("batch_tradeoff").evaluate(p, batch_tokens=1e6) == pytest.approx(10000.0)


def test_rate_grows_with_the_batch_up_to_its_limit():
    p = {"eta_max": 0.01, "B_noise": 1e6}
    rates = laws.get("rate_for_batch").evaluate(p, batch_tokens=[1e3, 2e3, 1e6, 1e12])
    assert rates[1] / rates[0] == pytest.approx(2, rel=2e-3)
    assert rates[2] == pytest.approx(0.005)
    assert rates[3] == pytest.approx(0.01)


def test_embeddings_of_a_small_model_outweigh_the_rest():
    assert value("pearce_params", non_embedding_params=1e9) == pytest.approx(1e9 + 47491e3)
    assert value("pearce_params", non_embedding_params=1e6) == pytest.approx(1e6 + 4.7491e6)
