"""What a fit gives: tables, files, draws, many at once."""

import json
import re

import numpy as np
import pytest
from planted import CASES

from lightning_scaling import laws

CASE = CASES["chinchilla"]
NEW = {"params": np.array([1e9, 2e10]), "tokens": np.array([2e10, 2e12])}


@pytest.fixture(scope="module")
def fit():
    said = {"models": "56 decoders", "schedule": "cosine", "seed_policy": "one each"}
    return CASE.law.fit(CASE.seen(noise=0.003, seed=1), training=said)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_fit_says_the_same_after_loading(name, tmp_path):
    case = CASES[name]
    fit = case.law.fit(case.seen(noise=0.002, seed=1), objective="least_squares", bootstrap=3)
    loaded = laws.load(fit.save(tmp_path / "fit.json"))
    assert loaded.params == fit.params
    assert loaded.law.formula == fit.law.formula
    np.testing.assert_array_equal(loaded.predict(**case.inputs), fit.predict(**case.inputs))
    np.testing.assert_allclose(loaded.interval(0.9, **case.inputs), fit.interval(0.9, **case.inputs), rtol=1e-12)
    assert loaded.summary() == fit.summary()


def test_a_saved_fit_is_strict_json_with_the_checklist(fit, tmp_path):
    def refuse(word):
        raise AssertionError(word)

    found = json.loads(fit.save(tmp_path / "fit.json").read_text(), parse_constant=refuse)
    report = found["report"]
    assert set(report) == {"hypothesis", "training", "collection", "fitting", "validation", "versions"}
    assert report["training"]["models"] == "56 decoders"
    assert report["training"]["seed_policy"] == "one each"
    assert report["training"]["optimizer"] == "not stated"
    assert report["fitting"]["objective"] == "huber"
    assert report["fitting"]["points_used"] == 56


def test_published_constants_save_and_load(tmp_path):
    known = CASE.law.known("besiroglu")
    loaded = laws.load(known.save(tmp_path / "known.json"))
    assert loaded.status == "published"
    assert loaded.predict(**NEW) == pytest.approx(known.predict(**NEW))
    assert loaded.conf_int()["alpha"] == pytest.approx((0.3176, 0.3780), abs=1e-3)


def test_nothing_is_half_written(fit, tmp_path, monkeypatch):
    target = tmp_path / "fit.json"
    fit.save(target)
    before = target.read_text()
    monkeypatch.setattr("json.dumps", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("full")))
    with pytest.raises(RuntimeError):
        fit.save(target)
    assert target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[1]", "is not a saved fit"),
        ('{"format": "lightning-scaling fit", "version": 99}', "later version"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        laws.load(tmp_path / "x.json")


def test_the_summary_holds_what_a_paper_needs(fit):
    text = fit.summary()
    for word in (
        "Hoffmann et al. 2022",
        "56 used of 56",
        "huber (delta 0.001, summed)",
        "95 %, profile",
        "alpha",
        "status      ok",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_draws_spread_as_the_errors_say(fit):
    drawn = fit.draws(4000, seed=1)
    assert np.std(drawn["beta"]) == pytest.approx(fit.standard_errors["beta"], rel=0.1)
    assert np.all(drawn["E"] >= 0)
    assert fit.draws(5)["alpha"].tolist() == fit.draws(5)["alpha"].tolist()
    assert np.ptp(CASE.law.known("hoffmann").draws(10)["alpha"]) == 0


def test_intervals_widen_with_the_distance_from_the_points(fit):
    low, high = fit.interval(0.95, **NEW)
    width = (high - low) / fit.predict(**NEW)
    assert width[1] > width[0]
    inner, outer = fit.interval(0.5, **NEW), fit.interval(0.99, **NEW)
    assert np.all(outer[0] < inner[0])
    assert np.all(outer[1] > inner[1])
    band = fit.interval(0.95, of="law", **NEW)
    assert np.all(band[0] > low)


def test_many_curves_at_once_agree_with_one_by_one():
    rng = np.random.default_rng(0)
    x = np.geomspace(1e17, 1e21, 30)
    law = laws.get("compute")
    truth = {"E": rng.uniform(1, 3, 40), "A": 1e5 * rng.uniform(0.5, 2, 40), "alpha": rng.uniform(0.2, 0.3, 40)}
    y = law.evaluate({k: v[:, None] for k, v in truth.items()}, flops=x) * np.exp(0.002 * rng.standard_normal((40, 30)))
    y[3, 20:] = np.nan
    y[5, 2:] = np.nan
    fits = law.fit_many({"flops": x, "loss": y})
    assert list(np.flatnonzero(fits.status != "ok")) == [5]
    assert fits.status[5] == "too_few_points"
    assert np.isnan(fits.params["E"][5])
    for i in (0, 3, 17):
        one = law.fit({"flops": x, "loss": y[i]}, objective="least_squares")
        assert fits[i].params == pytest.approx(one.params, rel=1e-9)
        for name, value in one.params.items():
            assert fits.params[name][i] == pytest.approx(value, rel=1e-5)
    assert fits.predict(flops=[1e22]).shape == (40, 1)


def test_the_same_data_give_the_same_fit_to_the_last_bit(fit):
    again = CASE.law.fit(CASE.seen(noise=0.003, seed=1))
    assert again.params == fit.params
    first = CASE.law.fit(CASE.seen(noise=0.003, seed=1), bootstrap=20, seed=4).replicates
    second = CASE.law.fit(CASE.seen(noise=0.003, seed=1), bootstrap=20, seed=4).replicates
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", CASES)
def test_every_law_has_a_card(name):
    from lightning_scaling.laws.summary import law_card

    law = laws.get(name, **CASES[name].options)
    card = law_card(law)
    assert law.formula in card
    assert str(law.source.year) in card
    assert law.tags
    for p in law.parameters:
        assert p.name in card
        assert p.meaning
    for name_ in law.inputs:
        assert law.unit(name_)
    for constants in law.published.values():
        assert set(constants.values) == {p.name for p in law.parameters}


def test_a_fit_survives_builtins_and_shows_itself_in_a_line():
    fit = CASE.law.fit(CASE.seen(noise=0.003, seed=1))
    again = laws.Fit.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert again.params == fit.params
    assert again.to_dict() == fit.to_dict()
    assert repr(fit).startswith("Fit(chinchilla: E=")
    assert "<pre>" in fit._repr_html_()


def test_many_curves_at_once_need_a_number_as_delta():
    flops = np.geomspace(1e17, 1e20, 6)
    data = {"flops": flops, "loss": np.stack([2 + 30 * flops**-0.1, 3 + 30 * flops**-0.1])}
    law = laws.get("kaplan_compute")
    sentence = "`delta` must be a number when many curves are fitted at once, but got 'auto'."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        law.fit_many(data, objective="huber", delta="auto")
