"""The correction of intervals: from errors to factors, and from factors to forecasts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.calibration import (
    ENOUGH,
    FRACTIONS,
    MODES,
    REVISION,
    Calibration,
    ErrorSpread,
    ScoredForecast,
    short,
)

LAW = Forecaster.law


def rows(runs, width, *, mode="family", kinds=None, seed=0, prefix="run"):
    """Forecasts whose errors are spread `width` times as widely as they say."""
    off = np.random.default_rng(seed).standard_t(4, (runs, len(FRACTIONS))) * width
    return [
        ScoredForecast(f"{prefix}{run}", run % (kinds or runs), mode, fraction, 0.01 * off[run, place], 0.01)
        for run in range(runs)
        for place, fraction in enumerate(FRACTIONS)
    ]


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_spread_of_many_errors_is_found(width):
    factors = ErrorSpread.fit(rows(400, width)).factor
    assert np.allclose(factors, width, rtol=0.15)


def test_few_runs_correct_little_and_narrow_less_than_they_widen():
    widened, narrowed = (Calibration.fit(rows(6, width, seed=3), LAW) for width in (3.0, 1 / 3))
    for fraction in FRACTIONS:
        more, less = np.log([widened.factor("family", fraction), narrowed.factor("family", fraction)])
        assert 0 < more < np.log(3)
        assert -more < less < 0


def test_runs_of_one_kind_count_once():
    apart, alike = rows(12, 3.0), rows(12, 3.0, kinds=2)
    assert all(1 < b < a for a, b in zip(ErrorSpread.fit(apart).factor, ErrorSpread.fit(alike).factor, strict=True))


def test_too_few_runs_correct_nothing():
    few = Calibration.fit(rows(ENOUGH - 1, 5.0), LAW)
    assert not few
    assert few.apply("family", 0.5, 2.0, 0.1) == (2.0, 0.1)
    assert Calibration.fit(rows(ENOUGH, 5.0), LAW)


def test_modes_are_kept_apart():
    found = Calibration.fit(rows(40, 2.0) + rows(40, 0.5, mode="alone"), LAW)
    assert found.factor("family", 0.5) > 1.5
    assert found.factor("alone", 0.5) < 0.8
    only = Calibration.fit(rows(40, 2.0), LAW)
    assert only.apply("alone", 0.5, 2.0, 0.1) == (2.0, 0.1)


def test_the_median_stays_and_factors_between_fractions_lie_between_theirs():
    found = Calibration.fit(rows(30, 2.0), LAW)
    median, scale = found.apply("family", 0.375, 3.0, 0.1)
    assert median == 3.0
    assert scale == pytest.approx(0.1 * (found.factor("family", 0.25) + found.factor("family", 0.5)) / 2)
    assert found.factor("family", 0.01) == found.factor("family", 0.05)
    assert found.factor("family", 0.99) == found.factor("family", 0.9)


def test_joining_is_as_if_all_had_been_seen_at_once():
    one, other = rows(20, 2.0), rows(20, 2.0, seed=1, prefix="later")
    joined = Calibration.fit(one, LAW).joined(Calibration.fit(other, LAW))
    at_once = Calibration.fit([*one, *other], LAW)
    assert joined.spreads["family"].runs == 40
    assert set(joined.seen) == set(at_once.seen) == {short(row.run) for row in [*one, *other]}
    assert joined.factor("family", 0.5) == pytest.approx(at_once.factor("family", 0.5), rel=0.1)


def test_it_survives_json_exactly():
    found = Calibration.fit(rows(300, 1.7) + rows(300, 0.6, mode="alone"), LAW, made="now", version="1", family="a b")
    text = json.dumps(found.to_dict())
    assert len(text) < 5000
    again = Calibration.from_dict(json.loads(text))
    assert again == found
    assert [again.factor(mode, 0.3) for mode in MODES] == [found.factor(mode, 0.3) for mode in MODES]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(version=99),
        lambda data: data.update(fractions=[0.5]),
        lambda data: data.pop("law"),
        lambda data: data["modes"]["family"].update(found=[-1.0] * 6),
        lambda data: data["modes"].update(family=3),
    ],
)
def test_what_is_no_calibration_is_refused(spoil):
    data = Calibration.fit(rows(8, 1.0), LAW).to_dict()
    spoil(data)
    with pytest.raises(ValueError, match=r"its? "):
        Calibration.from_dict(data)


def test_one_of_other_forecasts_is_stale():
    found = Calibration.fit(rows(8, 1.0), LAW, version="0.1")
    assert found.stale(LAW) == ""
    assert "another_law" in Calibration.fit(rows(8, 1.0), "another_law").stale(LAW)
    older = Calibration(found.spreads, LAW, REVISION - 1, version="0.1")
    assert "version 0.1, which forecasts differently" in older.stale(LAW)


def test_it_says_what_it_does():
    assert "as past forecasts of 40 runs ask for" in Calibration.fit(rows(40, 2.0), LAW).sentence()
    assert "Too few" in Calibration.fit(rows(2, 2.0), LAW).sentence()
