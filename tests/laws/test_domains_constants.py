"""Laws of vision, several modalities, reinforcement learning and retrieval against hand-made and released numbers."""

import numpy as np
import pytest

from lightning_scaling import laws
from lightning_scaling.laws.catalogue.vision.openclip import envelope

# Total GMACs and mean accuracy on five ImageNet variants, from LAION-AI/scaling-laws-openclip (MIT), rounded.
LAION = """
6.63151e12 .71129  3.54940e12 .69610  2.80736e12 .67553  3.00176e12 .65247  1.12294e12 .64608  1.15944e12 .63839
7.03821e11 .58648  2.24590e11 .57557  2.14411e11 .57530  7.03821e11 .57137  2.68122e11 .55890  2.68122e11 .54892
3.00389e12 .54230  2.56968e11 .52512  1.14401e12 .52229  2.53198e11 .50122  7.04320e11 .49294  9.77984e10 .48966
9.62000e10 .48832  2.24590e11 .48263  5.26595e10 .48065  5.02729e10 .47821  2.68234e11 .47286  5.26595e10 .43481
2.53377e11 .43010  1.89441e10 .42439  9.47205e10 .42232  1.80855e10 .41604  1.89441e10 .37949
"""
OPENAI = "1.12294e12 .71387  2.63296e11 .58640  9.47200e10 .48626"


@pytest.mark.parametrize(("table", "name"), [(LAION, "robustness_laion"), (OPENAI, "robustness_openai")])
def test_openclip_constants_come_out_of_the_released_results(table, name):
    gmacs, accuracy = np.array(table.split(), dtype=float).reshape(-1, 2).T
    law = laws.get("openclip")
    macs, error = envelope(gmacs * 1e9, 1 - accuracy)
    fit = law.fit({"macs": macs, "error": error}, loss="error", objective="least_squares")
    assert fit.params["alpha"] == pytest.approx(law.published[name].values["alpha"], abs=1e-3)
    known = law.evaluate(law.published[name].values, macs=macs)
    assert known == pytest.approx(fit.predict(macs=macs), rel=0.005)


@pytest.mark.parametrize(
    ("name", "gmacs", "accuracy"), [("imagenet_laion", 6.63e12, 0.78), ("imagenet_openai", 1.12e12, 0.755)]
)
def test_openclip_on_imagenet(name, gmacs, accuracy):
    law = laws.get("openclip")
    error = law.evaluate(law.published[name].values, macs=gmacs * 1e9)
    assert 1 - error == pytest.approx(accuracy, abs=0.01)


def test_envelope_takes_the_best_of_every_bin():
    compute = np.array([1e3, 1.1e3, 3e5, 2e5, 1e8])
    error = np.array([0.5, 0.4, 0.30, 0.35, 0.2])
    c, e = envelope(compute, error)
    assert c.tolist() == [1.1e3, 3e5, 1e8]
    assert e.tolist() == [0.4, 0.30, 0.2]
    assert [v.tolist() for v in envelope([5.0], [0.3])] == [[5.0], [0.3]]


@pytest.mark.parametrize(
    ("compute", "error", "bins", "message"),
    [
        ([1.0, 2.0], [0.1], 5, "equally long"),
        ([], [], 5, "at least one point"),
        ([0.0, 1.0], [0.1, 0.2], 5, "`compute` must be positive"),
        ([1.0, 2.0], [0.1, np.nan], 5, "`error` finite"),
        ([1.0, 2.0], [0.1, 0.2], 0, "`bins` must be at least 1"),
    ],
)
def test_envelope_refuses(compute, error, bins, message):
    with pytest.raises(ValueError, match=message):
        envelope(compute, error, bins)


def test_two_modalities_compete_below_the_barrier():
    law = laws.get("aghajanyan")
    params = {"C": 0.4, "A": 500.0, "alpha": 0.38, "B": 3000.0, "beta": 0.4}
    small = law.evaluate(params, params=1e7, tokens_i=1e9, tokens_j=2e9, loss_i=3.0, loss_j=4.0)
    large = law.evaluate(params, params=1e11, tokens_i=1e12, tokens_j=2e12, loss_i=2.0, loss_j=3.0)
    assert small == pytest.approx(3.5 - 0.4 + 500 / 1e7**0.38 + 3000 / 3e9**0.4, rel=1e-12)
    assert small > 3.5
    assert large < 2.5


def test_multimodal_and_acoustic_forms_by_hand():
    law = laws.get("shukor_multimodal")
    values = {"E": 2.0, "A": 500.0, "alpha": 0.33, "B": 900.0, "beta": 0.32}
    loss = law.evaluate(values, active_params=1e9, tokens=1e11)
    assert loss == pytest.approx(2 + 500 / 1e9**0.33 + 900 / 1e11**0.32, rel=1e-12)
    law = laws.get("droppo")
    values = {"L_inf": 0.7, "N_C": 3e5, "alpha_N": 0.4, "D_C": 30.0, "alpha_D": 0.45, "alpha": 0.5}
    by_hand = (0.7**2 + (3e5 / 1e6) ** 0.8 + (30 / 1e3) ** 0.9) ** 0.5
    assert law.evaluate(values, params=1e6, audio_hours=1e3) == pytest.approx(by_hand, rel=1e-12)


def test_intrinsic_performance_is_its_own_compute_on_the_frontier():
    """Best over sizes at a compute of params times interactions, it must grow in proportion to that compute."""
    law = laws.get("hilton")
    values = {"N_c": 1e3, "alpha_N": 0.8, "E_c": 1e4, "alpha_E": 0.6}
    compute = np.geomspace(1e12, 1e16, 5)
    sizes = np.geomspace(1e3, 1e11, 4001)
    best = [law.evaluate(values, params=sizes, interactions=c / sizes) for c in compute]
    growth = np.polyfit(np.log(compute), np.log([b.max() for b in best]), 1)[0]
    optimal = np.polyfit(np.log(compute), np.log([sizes[b.argmax()] for b in best]), 1)[0]
    assert growth == pytest.approx(1.0, abs=1e-3)
    assert optimal == pytest.approx(1 / (1 + 0.8 / 0.6), abs=2e-3)


def test_elo_grows_by_400_alpha_per_decade():
    law = laws.get("alphazero_elo", factor="flops")
    low, high = law.evaluate({"alpha": 0.55, "constant": -3000.0}, flops=np.array([1e12, 1e13]))
    assert high - low == pytest.approx(220.0)


def test_ten_times_the_training_saves_fifteen_times_the_search():
    law = laws.get("jones_test_time")
    values = law.published["hex_9x9"].values
    little, much = law.evaluate(values, flops=np.array([1e15, 1e16]), elo_gap=0)
    assert 10 ** (little - much) == pytest.approx(15.8, abs=0.1)
    assert law.evaluate(values, flops=1e15, elo_gap=250) == pytest.approx(little - 1.0)


def test_reward_rises_between_its_bounds():
    law = laws.get("scale_rl")
    values = {"R_0": 0.22, "A": 0.61, "C_mid": 2500.0, "B": 1.8}
    start, middle, later, end = law.evaluate(values, compute=np.array([1e-6, 2500.0, 1e4, 1e12]))
    assert (start, middle, end) == pytest.approx((0.22, 0.415, 0.61))
    assert later == pytest.approx(0.22 + 0.39 / (1 + (2500 / 1e4) ** 1.8), rel=1e-12)


def test_retrieval_recommendation_and_graphs_by_hand():
    law = laws.get("dense_retrieval")
    values = {"A": 4e4, "alpha": 0.56, "B": 3e3, "beta": 1.31, "delta": 0.1}
    by_hand = ((4e4 / 1e7) ** (0.56 / 1.31) + 3e3 / 1e5) ** 1.31 + 0.1
    assert law.evaluate(values, params=1e7, annotations=1e5) == pytest.approx(by_hand, rel=1e-12)
    law = laws.get("dlrm", factor="flops")
    assert law.evaluate({"alpha": 30.0, "beta": 0.3, "gamma": 0.5}, flops=1e12) == pytest.approx(30 / 1e12**0.3 + 0.5)
    law = laws.get("graph")
    assert law.inputs == ("edges",)
    assert law.evaluate({"a": 8.0, "b": 0.28, "c": 0.1}, edges=1e6) == pytest.approx(8 / 1e6**0.28 + 0.1)
