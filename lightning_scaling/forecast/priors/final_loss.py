"""The prior of a final loss from the final losses of past runs."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.priors.final_loss_law import Rows, axes, fit_field, fit_law
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM, Prediction, Trust
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

# Of the schedule, as in `Progress` with its second speed: annealing, then work and the grid.
_SPEED, _BETA, _SLOW, _POWER, _GRID = 0.01, 0.59, 1.0, 0.75, 256
_LAST = 0.02
_MIDWAY = (0.35, 0.6)
_MOST = 300
_STARTED = 0.25

_FEWEST, _FEW = 2, 6
_OF_DISTANCE = 0.15
_FAR = math.log(10.0)
_SAME_LENGTH = 1.05
_UNRELATED = 0.03


class FinalPrediction(Prediction):
    """A :class:`Prediction` of the final loss that says how far it may be trusted.

    Attributes:
        trust: ``"none"`` (the scale is infinite), ``"low"`` or ``"ok"``.
        why: Why the trust is not ``"ok"``, one clause; empty otherwise.
    """

    trust: Trust
    why: str

    def __new__(cls, median: float, scale: float, df: float, trust: Trust = "ok", why: str = "") -> FinalPrediction:
        """A float with a scale and a reason."""
        self = cast(FinalPrediction, super().__new__(cls, median, scale, df))
        self.trust = trust
        self.why = why
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (FinalPrediction, (float(self), self.scale, self.df, self.trust, self.why))


class FinalLossPrior:
    r"""The final loss of a new run from the finished, unfinished and differently annealed runs of its family.

    The law joins size and data under one exponent (Busbridge et al. 2025, arXiv 2502.08606) and counts data by the
    schedule: ``loss = E + ((A N^-alpha)^q + (B W^-beta (1 + kappa beta (1 - U) peak^p))^q)^(1/q)``. ``W`` is the work:
    steps, each counting by its rate over the peak to the power .75, times ``tokens per step`` to a fitted power. ``U``
    is the annealing gain at the end, of the form of the Multi-Power Law (Luo et al. 2025, arXiv 2503.12811, section 3)
    with rates relative to the peak: 0 for a constant rate, near 1 once the rate has fallen for long. A run that is
    unfinished or ends on a high rate thus informs the same law as one that was annealed.

    It is fitted to log losses by reweighted least squares with the weights of a Student t, under weak priors of all
    parameters; losses midway through the past runs' curves count a little while the past runs are few. A Gaussian
    process then follows what the law leaves over near the runs it has seen (regression kriging), if that predicts the
    past runs, each left out, better than the law alone.

    The error is a Student t. Its squared scale adds the law's covariance, the variance of the process and the noise of
    one run, stretched until nine tenths of the past runs, each left out, lie inside their intervals, and .15 of how far
    the prediction lies below every past run.

    Example:
        >>> steps = range(100, 1001, 100)
        >>> runs = [
        ...     Run(steps, [2 + 900 * n**-0.4 + (s * 1e4) ** -0.1 for s in steps], [1.0] * 10, total_steps=1000,
        ...         params=n, tokens_per_step=1e4) for n in (10**6, 10**7, 10**8)
        ... ]
        >>> FinalLossPrior.from_history(RunHistory(runs[:1])) is None
        True
        >>> prior = FinalLossPrior.from_history(RunHistory(runs))
        >>> prior.predict(3 * 10**7, 1e7, runs[0].plan).trust
        'low'
    """

    def __init__(self, kind: Literal["tokens", "steps"], sized: bool, rows: Rows, midway: Rows, why: str) -> None:
        self.why = why
        self._kind, self._sized, self._rows = kind, sized, rows
        self.past_runs = len(rows.loss)
        if self.past_runs < _FEW:
            self.why = why or f"there are only {self.past_runs} past runs"
        self.trust: Trust = "low" if self.why else "ok"
        self._annealed = float(np.median(rows.annealed))
        self._share = float(np.median(rows.work - rows.steps))
        self._law, robust = fit_law(rows, midway)
        fitted, slopes = self._law(rows)
        hidden = 1 / np.maximum(1 - self._law.variance(slopes) * robust / self._law.noise**2, 0.2)
        self._field = fit_field(axes(rows), (rows.loss - fitted) * hidden / self._law.noise)
        self._least = float(fitted.min())

    @classmethod
    def from_history(cls, history: RunHistory | None) -> FinalLossPrior | None:
        """Learn from the past runs of a run.

        Args:
            history: Runs of its family, finished or not.

        Returns:
            The prior; ``None`` where fewer than two of them have a loss to learn from.
        """
        runs = [run for run in history or () if _usable(run)]
        tokens = [run for run in runs if run.tokens_per_step]
        why = ""
        kind: Literal["tokens", "steps"] = "tokens"
        if len(tokens) < max(_FEWEST, len(runs) / 2):
            kind, why = "steps", "the tokens of the past runs are not known, so that steps stand for them"
        else:
            runs = tokens
        known = [run for run in runs if run.params]
        sized = len(known) >= max(_FEWEST, len(runs) / 2)
        if sized:
            runs = known
        else:
            why = "the sizes of the past runs are not known"
        if len(runs) < _FEWEST:
            return None
        runs = runs[-_MOST:]
        rows = [_read(run, kind, sized) for run in runs]
        midway = [row for run in rows for row in run[1:]]
        return cls(kind, sized, _rows([run[0] for run in rows]), _rows(midway), why)

    def predict(self, params: float | None, tokens: float | None, plan: Plan) -> FinalPrediction:
        """The final loss of a run that has not begun.

        Args:
            params: Its parameters, counted as the past runs' are; ``None`` when unknown.
            tokens: Tokens it will see in all (``total_steps`` times tokens per step); ``None`` when unknown.
            plan: Its schedule.

        Returns:
            Median and scale of the final loss, with how far to trust them.

        Raises:
            ValueError: If ``params`` or ``tokens`` is not positive.
        """
        for name, given in (("params", params), ("tokens", tokens)):
            if given is not None and not (math.isfinite(given) and given > 0):
                raise ValueError(f"`{name}` must be a positive number or None, but got {given!r}.")
        total = plan.total_steps
        if total is None and tokens is not None and self._kind == "tokens":
            total = max(round(tokens / math.exp(float(np.median(self._rows.batch)))), 1)
        if total is None:
            return self._nothing(plan.why or "the run has no planned end")
        if self._sized and params is None:
            return self._of_same_length(total, "params")
        if self._kind == "tokens" and tokens is None:
            return self._of_same_length(total, "tokens")
        size = math.log(params) if self._sized and params else 0.0
        batch = math.log(tokens / total) if self._kind == "tokens" and tokens else 0.0
        if _followed(plan):
            done, gain = (float(column[0]) for column in _schedule(plan, total, np.array([float(total)])))
            work, annealed, peak, why = math.log(max(done, 1e-3)), gain, math.log(plan.peak), ""
        else:
            work, annealed, peak = math.log(total) + self._share, self._annealed, float(np.median(self._rows.peak))
            why = "the schedule is not known and taken to be that of the past runs"
        query = _rows([(size, work, batch, peak, annealed, math.log(total), 0.0)])
        value, slopes = self._law(query)
        rest, variance = self._field(axes(query))
        distance = max(self._least - float(value[0]), 0.0)
        noise = self._law.noise
        scale = math.sqrt(
            self._field.stretch**2 * (float(self._law.variance(slopes)[0]) + noise**2 * float(variance[0]))
            + (_OF_DISTANCE * distance) ** 2
        )
        median = math.exp(float(value[0]) + noise * float(rest[0]))
        trust, reason = self._judge(query)
        return FinalPrediction(median, median * scale, DEGREES_OF_FREEDOM, "low" if why else trust, why or reason)

    def _judge(self, query: Rows) -> tuple[Trust, str]:
        if self.trust != "ok":
            return self.trust, self.why
        for name, asked, seen in (
            ("size", query.params, self._rows.params),
            ("training length", query.work + query.batch, self._rows.work + self._rows.batch),
            ("compute", query.compute, self._rows.compute),
        ):
            away = max(float(asked[0] - seen.max()), float(seen.min() - asked[0]))
            if away > _FAR:
                return "low", f"its {name} is {math.exp(away):.0f} times outside that of the past runs"
        return "ok", ""

    def _of_same_length(self, total: int, missing: str) -> FinalPrediction:
        """Without a size or tokens only past runs of the same length can be compared with."""
        rows = self._rows
        alike = np.abs(rows.steps - math.log(total)) < math.log(_SAME_LENGTH)
        if alike.sum() < _FEWEST:
            return self._nothing(f"the run's `{missing}` is not known, and too few past runs have its length")
        logs = rows.loss[alike]
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle)))
        spread = math.sqrt((logs.size * spread**2 + 2 * _UNRELATED**2) / logs.size)
        median = math.exp(middle)
        why = f"the run's `{missing}` is not known; {logs.size} past runs of the same length"
        return FinalPrediction(median, median * spread, DEGREES_OF_FREEDOM, "low", why)

    @staticmethod
    def _nothing(why: str) -> FinalPrediction:
        return FinalPrediction(math.nan, math.inf, DEGREES_OF_FREEDOM, "none", why)


def _usable(run: Run) -> bool:
    seen = ~np.isnan(run.loss)
    step, loss = run.step[seen], run.loss[seen]
    if not step.size or step[-1] < max(_STARTED * run.total_steps, run.plan.warmup_end):
        return False
    end = loss[step > step[-1] - max(_LAST * run.total_steps, 1)]
    return bool(np.all(np.isfinite(end)) and np.mean(end) > 0)


def _read(run: Run, kind: str, sized: bool) -> list[tuple[float, ...]]:
    """The last loss of a run and those midway, each the mean over 2 % of the plan before it."""
    plan, total = run.plan, run.total_steps
    seen = np.isfinite(run.loss)
    step, loss = run.step[seen].astype(np.float64), run.loss[seen]
    ends = np.maximum(np.array([1.0, *_MIDWAY]) * step[-1], step[0])
    last = np.searchsorted(step, ends, side="right")
    first = np.minimum(np.searchsorted(step, ends - _LAST * total, side="right"), last - 1)
    level = np.array([loss[i:j].mean() for i, j in zip(first, last, strict=True)])
    at = np.array([step[i:j].mean() for i, j in zip(first, last, strict=True)])
    at[0] = step[-1]
    work, annealed = _schedule(plan, total, at)
    known = plan.peak > 0 and (run.planned_lr is not None or run.lr is not None)
    size = math.log(run.params) if sized and run.params else 0.0
    batch = math.log(run.tokens_per_step) if kind == "tokens" and run.tokens_per_step else 0.0
    peak = math.log(plan.peak) if known else math.nan
    return [
        (size, math.log(max(w, 1e-3)), batch, peak, u if known else math.nan, math.log(total), math.log(y))
        for w, u, y in zip(work, annealed, np.where(level > 0, level, level[0]), strict=True)
    ]


def _rows(rows: list[tuple[float, ...]]) -> Rows:
    columns = np.array(rows, dtype=np.float64).T
    for index, otherwise in ((3, 0.0), (4, 0.8)):
        known = np.isfinite(columns[index])
        columns[index][~known] = np.median(columns[index][known]) if known.any() else otherwise
    return Rows(*columns)


def _followed(plan: Plan) -> bool:
    return plan.known and plan.peak > 0


def _schedule(plan: Plan, total: int, at: Array) -> tuple[Array, Array]:
    """Work done by the given steps, in steps at the peak rate, and the annealing gain there."""
    grid = np.unique(np.concatenate([[0.0], np.linspace(0, total, _GRID + 1), np.linspace(0, 0.05 * total, 65)]))
    rate = plan.at(np.maximum(grid, 1.0)) / plan.peak if plan.peak > 0 else np.ones_like(grid)
    width, middle = np.diff(grid), (rate[1:] + rate[:-1]) / 2
    work = np.concatenate([[0.0], np.cumsum(width * middle**_POWER)])
    plain = np.concatenate([[0.0], np.cumsum(width * middle)])
    falls = np.where(grid[1:] > plan.warmup_end, -np.diff(rate), 0.0)
    moved = np.flatnonzero(np.abs(falls) > 1e-9)
    since = np.interp(at, grid, plain)[:, None] - (plain[moved] + plain[moved + 1])[None, :] / 2
    reach = np.maximum(since, 0.0) * np.maximum(middle[moved], 1e-3) ** -_SLOW
    gain = (1 - (1 + _SPEED * reach) ** -_BETA) @ falls[moved]
    return np.interp(at, grid, work), np.asarray(gain)
