"""The prior of a final loss from the final losses of past runs."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import robust_std
from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.config import FinalLossConfig
from lightning_scaling.forecast.priors.final_loss_law import ResidualProcess, Rows, fit_law
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM, Prediction, Trust
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]
Kind = Literal["tokens", "steps"]

_MIN_WORK = 1e-3  # steps at the peak rate: keeps the logarithm finite
_MIN_RATE = 1e-3  # over the peak: a lower rate delays the gain of its fall no further
_NO_FALL = 1e-9  # changes of the rate over the peak up to here are none
_GRID, _EARLY, _EARLY_GRID = 257, 0.05, 65  # steps at which rates are read: in all, and in the first twentieth


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

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self.trust, self.why

    def to_dict(self) -> dict[str, Any]:
        """``median``, ``scale``, degrees of freedom ``df``, ``trust`` and ``why`` as builtins."""
        return {**super().to_dict(), "trust": self.trust, "why": self.why}


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

    def __init__(
        self, kind: Kind, sized: bool, rows: Rows, midway: Rows, why: str, config: FinalLossConfig = DEFAULT.final_loss
    ) -> None:
        self.past_runs = len(rows.loss)
        self.why = why
        if self.past_runs < config.few_runs:
            self.why = why or f"there are only {self.past_runs} past runs"
        self.trust: Trust = "low" if self.why else "ok"
        self._kind, self._sized, self._rows, self._config = kind, sized, rows, config
        self._law, robust = fit_law(rows, midway, config)
        fitted, slopes = self._law(rows)
        kept = np.maximum(1 - self._law.variance(slopes) * robust / self._law.noise**2, config.min_left_out_share)
        self._residuals = ResidualProcess.fit(rows, (rows.loss - fitted) / kept / self._law.noise, config)
        self._least = float(fitted.min())

    @classmethod
    def from_history(
        cls, history: RunHistory | None, config: FinalLossConfig = DEFAULT.final_loss
    ) -> FinalLossPrior | None:
        """Learn from the past runs of a run.

        Args:
            history: Runs of its family, finished or not.
            config: The tuned numbers.

        Returns:
            The prior; ``None`` where fewer than two of them have a loss to learn from.
        """
        runs = [run for run in history or () if _usable(run, config)]
        enough = max(config.min_runs, len(runs) / 2)
        counted = [run for run in runs if run.tokens_per_step]
        kind: Kind = "tokens" if len(counted) >= enough else "steps"
        runs = counted if kind == "tokens" else runs
        why = "" if kind == "tokens" else "the tokens of the past runs are not known, so that steps stand for them"
        known = [run for run in runs if run.params]
        sized = len(known) >= max(config.min_runs, len(runs) / 2)
        runs = known if sized else runs
        why = why if sized else "the sizes of the past runs are not known"
        if len(runs) < config.min_runs:
            return None
        rows = [_losses(run, kind, sized, config) for run in runs[-config.max_runs :]]
        midway = [row for run in rows for row in run[1:]]
        return cls(kind, sized, _rows([run[0] for run in rows], config), _rows(midway, config), why, config)

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
        rows, total, counts_tokens = self._rows, plan.total_steps, self._kind == "tokens"
        if total is None and tokens is not None and counts_tokens:
            total = max(round(tokens / math.exp(float(np.median(rows.batch)))), 1)
        if total is None:
            return _nothing(plan.why or "the run has no planned end")
        if self._sized and params is None:
            return self._of_same_length(total, "params")
        if counts_tokens and tokens is None:
            return self._of_same_length(total, "tokens")
        size = math.log(params) if self._sized and params else 0.0
        batch = math.log(tokens / total) if counts_tokens and tokens else 0.0
        why = ""
        if plan.known and plan.peak > 0:
            done, gain = (float(column[0]) for column in _schedule(plan, total, np.array([float(total)]), self._config))
            work, annealed, peak = math.log(max(done, _MIN_WORK)), gain, math.log(plan.peak)
        else:
            work = math.log(total) + float(np.median(rows.work - rows.steps))
            annealed, peak = float(np.median(rows.annealed)), float(np.median(rows.peak))
            why = "the schedule is not known and taken to be that of the past runs"
        query = Rows(*np.array([(size, work, batch, peak, annealed, math.log(total), 0.0)]).T)
        value, slopes = self._law(query)
        rest, std = self._residuals(query)
        noise = self._law.noise
        error = self._residuals.stretch * math.hypot(
            math.sqrt(float(self._law.variance(slopes)[0])), noise * float(std[0])
        )
        below = max(self._least - float(value[0]), 0.0)
        median = math.exp(float(value[0]) + noise * float(rest[0]))
        scale = median * math.hypot(error, self._config.error_per_distance * below)
        trust, reason = self._trust(query)
        return FinalPrediction(median, scale, DEGREES_OF_FREEDOM, "low" if why else trust, why or reason)

    def _trust(self, query: Rows) -> tuple[Trust, str]:
        rows = self._rows
        for name, asked, seen in (
            ("size", query.params, rows.params),
            ("training length", query.work + query.batch, rows.work + rows.batch),
            ("compute", query.compute, rows.compute),
        ):
            away = math.exp(max(float(asked[0] - seen.max()), float(seen.min() - asked[0])))
            if self.trust == "ok" and away > self._config.far_ratio:
                return "low", f"its {name} is {away:.0f} times outside that of the past runs"
        return self.trust, self.why

    def _of_same_length(self, total: int, missing: str) -> FinalPrediction:
        """Without a size or tokens only past runs of the same length can be compared with."""
        rows, config = self._rows, self._config
        logs = rows.loss[np.abs(rows.steps - math.log(total)) < math.log(config.same_length_max_ratio)]
        if logs.size < config.min_runs:
            return _nothing(f"the run's `{missing}` is not known, and too few past runs have its length")
        median = math.exp(float(np.median(logs)))
        spread = math.sqrt(robust_std(logs) ** 2 + config.same_length_runs * config.same_length_std**2 / logs.size)
        why = f"the run's `{missing}` is not known; {logs.size} past runs of the same length"
        return FinalPrediction(median, median * spread, DEGREES_OF_FREEDOM, "low", why)


def _nothing(why: str) -> FinalPrediction:
    return FinalPrediction(math.nan, math.inf, DEGREES_OF_FREEDOM, "none", why)


def _usable(run: Run, config: FinalLossConfig) -> bool:
    """Whether a run got beyond its warm-up and a quarter of its plan, and ended on positive losses."""
    seen = ~np.isnan(run.loss)
    step, loss = run.step[seen], run.loss[seen]
    if not step.size or step[-1] < max(config.min_share_seen * run.total_steps, run.plan.warmup_end):
        return False
    end = loss[step > step[-1] - max(config.window_share * run.total_steps, 1)]
    return bool(np.all(np.isfinite(end)) and np.mean(end) > 0)


def _losses(run: Run, kind: Kind, sized: bool, config: FinalLossConfig) -> list[tuple[float, ...]]:
    """The last loss of a run and those midway, each the mean over 2 % of the plan before it."""
    plan, total = run.plan, run.total_steps
    seen = np.isfinite(run.loss)
    step, loss = run.step[seen].astype(np.float64), run.loss[seen]
    ends = np.maximum(np.array([1.0, *config.midway_shares]) * step[-1], step[0])
    last = np.searchsorted(step, ends, side="right")
    first = np.minimum(np.searchsorted(step, ends - config.window_share * total, side="right"), last - 1)
    level, at = (np.array([values[i:j].mean() for i, j in zip(first, last, strict=True)]) for values in (loss, step))
    at[0] = step[-1]
    work, annealed = _schedule(plan, total, at, config)
    known = plan.peak > 0 and (run.planned_lr is not None or run.lr is not None)
    size = math.log(run.params) if sized and run.params else 0.0
    batch = math.log(run.tokens_per_step) if kind == "tokens" and run.tokens_per_step else 0.0
    peak = math.log(plan.peak) if known else math.nan
    return [
        (size, math.log(max(w, _MIN_WORK)), batch, peak, u if known else math.nan, math.log(total), math.log(y))
        for w, u, y in zip(work, annealed, np.where(level > 0, level, level[0]), strict=True)
    ]


def _rows(rows: list[tuple[float, ...]], config: FinalLossConfig) -> Rows:
    """Losses by column; unknown rates and annealing are set to the median of the known ones."""
    found = Rows(*np.array(rows, dtype=np.float64).T)
    for column, otherwise in ((found.peak, 0.0), (found.annealed, config.usual_annealing)):
        known = np.isfinite(column)
        column[~known] = np.median(column[known]) if known.any() else otherwise
    return found


def _schedule(plan: Plan, total: int, at: Array, config: FinalLossConfig) -> tuple[Array, Array]:
    """Work done by the given steps, in steps at the peak rate, and the annealing gain there.

    Both are those of :class:`~lightning_scaling.schedule.progress.Progress`, at a few steps only: its tables for all
    steps and several speeds would take most of the time with some hundred past runs.
    """
    grid = np.unique(np.concatenate([np.linspace(0, total, _GRID), np.linspace(0, _EARLY * total, _EARLY_GRID)]))
    rate = plan.at(np.maximum(grid, 1.0)) / plan.peak if plan.peak > 0 else np.ones_like(grid)
    width, middle = np.diff(grid), (rate[1:] + rate[:-1]) / 2
    work, plain = (np.concatenate([[0.0], np.cumsum(width * middle**power)]) for power in (config.work_power, 1.0))
    falls = np.where(grid[1:] > plan.warmup_end, -np.diff(rate), 0.0)
    moved = np.flatnonzero(np.abs(falls) > _NO_FALL)
    since = np.interp(at, grid, plain)[:, None] - (plain[moved] + plain[moved + 1]) / 2
    reach = np.maximum(since, 0.0) * np.maximum(middle[moved], _MIN_RATE) ** -config.low_rate_power
    gain = (1 - (1 + config.anneal_rate * reach) ** -config.anneal_power) @ falls[moved]
    return np.interp(at, grid, work), np.asarray(gain)
