"""Published constants and worked values of the laws of dense pre-training."""

import numpy as np
import pytest

from lightning_scaling import laws


def value(name, constants=None, **inputs):
    law = laws.get(name)
    known = law.published
    return law.evaluate((known[constants] if constants else next(iter(known.values()))).values, **inputs)


def test_data_constrained_law_gives_its_authors_losses():
    losses = value(
        "data_constrained", params=np.array([6.34e9, 8.67e9]), tokens=np.array([242e9, 178e9]), unique_tokens=25e9
    )
    np.testing.assert_allclose(losses, [2.2256440889984477, 2.2269634075087867], rtol=1e-12)


def test_data_constrained_law_gives_its_authors_allocation():
    sizes = np.geomspace(1e9, 1e11, 20001)
    losses = value("data_constrained", params=sizes, tokens=1e22 / 6 / sizes, unique_tokens=25e9)
    best = sizes[np.argmin(losses)]
    assert best == pytest.approx(7.022e9, rel=2e-3)
    assert 1e22 / 6 / best / 25e9 == pytest.approx(9.49, rel=2e-3)


@pytest.mark.parametrize(("epochs", "worth"), [(2, 1.97), (4, 3.73), (8, 6.62), (16, 10.6), (32, 14.3)])
def test_repeated_epochs_are_worth_less(epochs, worth):
    law = laws.get("data_constrained")
    p = law.published["muennighoff"].values
    small = 1e6
    repeated = law.evaluate(p, params=small, tokens=epochs * 1e9, unique_tokens=1e9)
    fresh = law.evaluate(p, params=small, tokens=worth * 1e9, unique_tokens=worth * 1e9)
    assert repeated == pytest.approx(fresh, rel=1e-3)


def test_without_repeats_the_data_constrained_law_is_chinchillas():
    p = dict(laws.get("data_constrained").published["muennighoff"].values)
    inputs = {"params": np.geomspace(1e7, 1e9, 5), "tokens": np.full(5, 1e11)}
    chinchilla = {k: p[k] for k in ("E", "A", "alpha", "B", "beta")}
    expected = laws.get("chinchilla").evaluate(chinchilla, **inputs)
    for unique in (1e11, 1e13):
        got = laws.get("data_constrained").evaluate(p, unique_tokens=unique, **inputs)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_kaplans_scales_are_where_the_loss_is_one():
    assert value("kaplan_params", params=8.8e13) == pytest.approx(1)
    assert value("kaplan_tokens", tokens=5.4e13) == pytest.approx(1)
    assert value("kaplan_compute", flops=3.1e8 * 8.64e19) == pytest.approx(1)
    assert value("kaplan_compute", "kaplan-fixed-batch", flops=1.6e7 * 8.64e19) == pytest.approx(1)
    assert value("kaplan_params_steps", params=6.5e13, steps=2.1e3) == pytest.approx(2)


def test_kaplans_joint_law_goes_over_into_the_single_ones():
    p = laws.get("kaplan_params_tokens").published["kaplan"].values
    joint = laws.get("kaplan_params_tokens")
    endless_data = joint.evaluate(p, params=1e9, tokens=1e40)
    endless_model = joint.evaluate(p, params=1e40, tokens=1e9)
    assert endless_data == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-9)
    assert endless_model == pytest.approx((1.8e13 / 1e9) ** 0.103, rel=1e-9)
    both = ((6.4e13 / 1e9) ** (0.076 / 0.103) + 1.8e13 / 1e10) ** 0.103
    assert joint.evaluate(p, params=1e9, tokens=1e10) == pytest.approx(both)


def test_over_training_law_in_compute_and_ratio():
    p = laws.get("over_training").published["redpajama"].values
    size, tokens = 1.4e9, 9e11
    compute, ratio = 6 * size * tokens, tokens / size
    expected = p["E"] + (p["a"] * ratio ** p["eta"] + p["b"] * ratio ** -p["eta"]) * compute ** -p["eta"]
    assert value("over_training", "redpajama", params=size, tokens=tokens) == pytest.approx(expected, rel=1e-12)


def test_over_training_law_is_least_at_the_optimal_ratio():
    p = laws.get("over_training").published["c4"].values
    best = (p["b"] / p["a"]) ** (1 / (2 * p["eta"]))
    ratios = np.array([0.8, 1.0, 1.25]) * best
    sizes = np.sqrt(1e20 / 6 / ratios)
    losses = value("over_training", "c4", params=sizes, tokens=ratios * sizes)
    assert np.argmin(losses) == 1


def test_error_link():
    assert value("over_training_error", "c4", validation_loss=3.0) == pytest.approx(0.850 - 2.08 * np.exp(-0.756 * 3.0))


def test_deepseek_allocation_spends_the_compute():
    flops = np.geomspace(1e18, 1e24, 4)
    spent = value("deepseek_params", flops=flops) * value("deepseek_tokens", flops=flops)
    np.testing.assert_allclose(spent / flops, 1.0, rtol=2e-3)


def test_vocabulary_that_its_authors_recommend():
    other = 7e9
    flops = (other / np.exp(-2.4846510161625193)) ** 2
    vocabulary = np.geomspace(1e7, 1e10, 4001)
    losses = value(
        "vocabulary", non_vocab_params=other, vocab_params=vocabulary, tokens=flops / 6 / (other + vocabulary)
    )
    assert vocabulary[np.argmin(losses)] / 4096 == pytest.approx(60_000, rel=0.02)


def test_envelope_is_the_papers_complex_form():
    p = {"eps_0": 0.9, "a": 400.0, "alpha": 0.7, "b": 100.0, "beta": 0.5, "c_inf": 0.05}
    size, tokens = np.array([1e3, 1e5, 1e8]), np.array([1e2, 1e6, 1e7])
    e = p["a"] * tokens ** -p["alpha"] + p["b"] * size ** -p["beta"] + p["c_inf"]
    for eta in (1.0, 7.0):
        expected = p["eps_0"] * np.abs(eta * e / (eta * e - 1j * eta))
        got = laws.get("rosenfeld_envelope").evaluate(p, params=size, tokens=tokens)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_gemstones_floor_vanished_in_the_three_term_fit():
    assert value("width_depth", width=1e30, depth=1e60, tokens=1e40) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("over", ["params", "tokens", "flops"])
def test_henighan_takes_the_input_it_is_made_for(over):
    law = laws.get("henighan", over=over)
    assert law.inputs == (over,)
    assert over in law.formula
    assert law.evaluate({"L_inf": 2.0, "x_0": 1e6, "alpha": 0.5}, **{over: 1e8}) == pytest.approx(2.1)
    assert laws.get("henighan", **law.options()).inputs == (over,)


def test_henighan_refuses_an_unknown_input():
    with pytest.raises(ValueError, match="over='size' is not an input"):
        laws.get("henighan", over="size")


def test_word_language_model_of_hestness():
    assert value("hestness", tokens=1e8) == pytest.approx(11.9 * 1e8**-0.066)
