"""Calibration of intervals by the errors of past forecasts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from lightning_scaling.forecast.config import DEFAULT, CalibrationConfig
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
"""Parts of the run at which forecasts are judged."""

FAMILY, ALONE = "family", "alone"
MODES = (FAMILY, ALONE)
"""With past runs as prior, or from the run's own losses and the published prior."""

REVISION = 1
"""Of the forecasts themselves: raised when they change so much that earlier errors do not predict later ones."""

ENOUGH = 5
"""Runs below which nothing is corrected."""

_VERSION = 1
_LOG_FACTORS = np.linspace(-2.0, 2.0, 161)
_FACTOR_RANGE = (0.01, 100.0)  # outside of it a stored factor is corrupt


@dataclass(frozen=True)
class ScoredForecast:
    """One forecast of the final loss and its error.

    Attributes:
        run: Which run it was made for.
        kind: A number that runs of one size, length and schedule share: they share their errors too.
        mode: ``"family"`` or ``"alone"``.
        fraction: The part of the run that had been seen, one of :data:`FRACTIONS`.
        error: Logarithm of the outcome over the median forecast.
        scale: Scale of the forecast over its median, without any correction.
        live: Whether it was made while the run was training, rather than in a replay.
    """

    run: str
    kind: int
    mode: str
    fraction: float
    error: float
    scale: float
    live: bool = False

    @property
    def standardised(self) -> float:
        """The error in units of the scale."""
        return self.error / self.scale


@dataclass(frozen=True)
class ErrorSpread:
    """How widely the errors of one mode were spread, in units of the forecasts' scales, at each of the fractions.

    Attributes:
        runs: How many runs were forecast.
        kinds: At each fraction, how many different runs: those of one size, length and schedule count once.
        found: At each fraction the likeliest factor on the scale, 1 where there was no forecast.
    """

    runs: int
    kinds: tuple[int, ...]
    found: tuple[float, ...]
    config: CalibrationConfig = field(default=DEFAULT.calibration, repr=False, compare=False)

    @classmethod
    def fit(cls, rows: Iterable[ScoredForecast], config: CalibrationConfig = DEFAULT.calibration) -> ErrorSpread:
        """The spread of the errors of some forecasts: the likeliest scale of a Student t at each fraction."""
        rows = list(rows)
        kinds, found = [], []
        for fraction in FRACTIONS:
            here = [row for row in rows if row.fraction == fraction]
            errors = np.array([row.standardised for row in here])[:, None]
            likely = stats.t.logpdf(errors, DEGREES_OF_FREEDOM, scale=np.exp(_LOG_FACTORS)).sum(0)
            kinds.append(len({row.kind for row in here}))
            found.append(round(float(np.exp(_LOG_FACTORS[np.argmax(likely)])), 4) if here else 1.0)
        return cls(len({row.run for row in rows}), tuple(kinds), tuple(found), config)

    @property
    def enough(self) -> bool:
        """Whether there were enough runs to correct anything."""
        return self.runs >= ENOUGH

    @cached_property
    def factor(self) -> tuple[float, ...]:
        r"""The factors to use: :attr:`found`, smoothed over neighbouring fractions and drawn towards 1.

        With ``n`` different runs the logarithm is multiplied by ``n / (n + 5)`` where the factor widens the interval,
        by ``n / (n + 10)`` where it narrows it.
        """
        config, kinds = self.config, np.array(self.kinds, dtype=np.float64)
        place = np.arange(kinds.size)
        near = np.exp(-0.5 * ((place[:, None] - place) / config.smoothing_fractions) ** 2) * kinds
        total = near.sum(1)
        log = near @ np.log(self.found) / np.where(total > 0, total, 1.0)
        log *= kinds / (kinds + np.where(log > 0, config.widening_shrinkage, config.narrowing_shrinkage))
        return tuple(np.exp(log).tolist())

    def to_dict(self) -> dict[str, Any]:
        """The spread as builtins, with the factors that follow from it."""
        factor = [round(value, 4) for value in self.factor]
        return {"runs": self.runs, "kinds": list(self.kinds), "found": list(self.found), "factor": factor}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ErrorSpread:
        """Read back what :meth:`to_dict` gave.

        Raises:
            ValueError: If the numbers make no sense.
        """
        spread = cls(int(data["runs"]), tuple(map(int, data["kinds"])), tuple(map(float, data["found"])))
        sound = all(_FACTOR_RANGE[0] < value < _FACTOR_RANGE[1] for value in spread.found)
        if not sound or min(spread.kinds, default=0) < 0 or {len(spread.kinds), len(spread.found)} != {len(FRACTIONS)}:
            raise ValueError("its factors make no sense")
        return spread

    def joined(self, other: ErrorSpread) -> ErrorSpread:
        """This one and that of other runs together."""
        kinds = np.array([self.kinds, other.kinds])
        logs = (kinds * np.log([self.found, other.found])).sum(0) / np.maximum(kinds.sum(0), 1)
        found = tuple(round(value, 4) for value in np.exp(logs).tolist())
        return ErrorSpread(self.runs + other.runs, tuple(kinds.sum(0).tolist()), found, self.config)


@dataclass(frozen=True)
class Calibration:
    """The correction of intervals by the finished runs of a family.

    A factor on the scale of the forecast at each of :data:`FRACTIONS`, separate for forecasts with past runs and
    for those made alone; medians stay as they are.

    Attributes:
        spreads: By mode, what was found; a mode of fewer than :data:`ENOUGH` runs corrects nothing yet.
        law: Name of the law behind the forecasts.
        revision: :data:`REVISION` of the version that made them.
        made: When, in ISO format.
        version: Version of the package that made it.
        family: Whose forecasts they were, if it has a name.
        seen: Short names of the runs it rests on.
    """

    spreads: Mapping[str, ErrorSpread]
    law: str
    revision: int = REVISION
    made: str = ""
    version: str = ""
    family: str | None = None
    seen: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, rows: Sequence[ScoredForecast], law: str, config: CalibrationConfig = DEFAULT.calibration, **known: Any
    ) -> Calibration:
        """The correction that some forecasts ask for.

        Args:
            rows: The forecasts.
            law: Name of the law behind them.
            config: The tuned numbers.
            **known: Other attributes: ``made``, ``version``, ``family``.
        """
        spreads = {mode: ErrorSpread.fit((row for row in rows if row.mode == mode), config) for mode in MODES}
        seen = tuple(dict.fromkeys(short(row.run) for row in rows))[-config.max_known_runs :]
        return cls({mode: spread for mode, spread in spreads.items() if spread.runs}, law, seen=seen, **known)

    def __bool__(self) -> bool:
        return any(spread.enough for spread in self.spreads.values())

    def factor(self, mode: str, fraction: float) -> float:
        """The factor on the scale of a forecast made at a fraction of the run; 1 where there is nothing to go by."""
        spread = self.spreads.get(mode)
        return 1.0 if spread is None or not spread.enough else float(np.interp(fraction, FRACTIONS, spread.factor))

    def apply(self, mode: str, fraction: float, median: float, scale: float) -> tuple[float, float]:
        """Median and scale of a corrected forecast.

        Args:
            mode: ``"family"`` or ``"alone"``.
            fraction: How much of the run has been seen.
            median: Median of the final loss.
            scale: Scale of its error.
        """
        return median, scale * self.factor(mode, fraction)

    def joined(self, other: Calibration) -> Calibration:
        """This one and that of other runs of the same family together."""
        spreads = {}
        for mode in MODES:
            found = [one.spreads[mode] for one in (self, other) if mode in one.spreads]
            if found:
                spreads[mode] = found[0] if len(found) == 1 else found[0].joined(found[1])
        return Calibration(
            spreads,
            self.law,
            self.revision,
            max(self.made, other.made),
            self.version or other.version,
            self.family or other.family,
            (*self.seen, *other.seen)[-DEFAULT.calibration.max_known_runs :],
        )

    def stale(self, law: str) -> str:
        """Why it says nothing of forecasts by this law and revision; empty if it does."""
        if self.law == law and self.revision == REVISION:
            return ""
        by = f"version {self.version}" if self.version else "another version"
        return f"it was made by {by}, which forecasts differently ({self.law}, revision {self.revision})"

    def sentence(self) -> str:
        """What it does to the intervals."""
        spread = next((self.spreads[m] for m in MODES if m in self.spreads and self.spreads[m].enough), None)
        if spread is None:
            return "Too few past forecasts to correct the intervals."
        least, most = min(spread.factor), max(spread.factor)
        between = f"{least:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
        return f"Intervals are scaled by {between}, as past forecasts of {spread.runs} runs ask for."

    def to_dict(self) -> dict[str, Any]:
        """The correction as builtins, less than 5,000 characters of JSON."""
        return {
            "version": _VERSION,
            "law": self.law,
            "revision": self.revision,
            "made": self.made,
            "by": self.version,
            "family": self.family,
            "fractions": list(FRACTIONS),
            "modes": {mode: spread.to_dict() for mode, spread in self.spreads.items()},
            "seen": list(self.seen),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Read back what :meth:`to_dict` gave.

        Raises:
            ValueError: If it is something else, or of a later version.
        """
        try:
            if data["version"] != _VERSION or list(data["fractions"]) != list(FRACTIONS):
                raise ValueError(f"it has format {data['version']!r}, this version reads {_VERSION}")
            spreads = {mode: ErrorSpread.from_dict(one) for mode, one in data["modes"].items() if mode in MODES}
            family, made, by = data.get("family"), str(data.get("made", "")), str(data.get("by", ""))
            family, seen = None if family is None else str(family), tuple(map(str, data.get("seen", ())))
            return cls(spreads, str(data["law"]), int(data["revision"]), made, by, family, seen)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no calibration ({type(error).__name__}: {error})") from error


def short(run: str) -> str:
    """A short name of a run, by which it is known to have been counted."""
    return hashlib.sha1(run.encode(), usedforsecurity=False).hexdigest()[:6]
