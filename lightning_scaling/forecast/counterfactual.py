"""Counterfactual forecasts under alternative plans."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.formatting import significant
from lightning_scaling.forecast.config import DEFAULT, ForecastConfig
from lightning_scaling.forecast.forecaster import Forecaster, Mixture, PriorSource
from lightning_scaling.forecast.priors.base import PUBLISHED
from lightning_scaling.forecast.result import DEFAULT_LEVEL, Forecast, MetricPrediction, Prediction, Trust
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule import changes
from lightning_scaling.schedule.changes import USUAL
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import Progress


@dataclass(frozen=True)
class WhatIf:
    """The forecast under another plan, and how it compares with carrying on.

    Attributes:
        name: What is changed, in a few words.
        step: The present step: the plans are the same up to it.
        plan: The other plan.
        total_steps: Where it ends.
        final_distribution: Predictive distribution of the loss there.
        difference: Predictive distribution of that loss minus the one of carrying on; most of the error of the two
            forecasts is the same and cancels. Below 0 the change pays.
        extra_steps: Steps more than planned; negative ones are saved.
        extra_compute: The same as a fraction of the planned steps.
        trust: Of the final loss: ``"none"``, ``"low"`` or ``"ok"``.
        why: Why the trust is not ``"ok"``, one clause; empty otherwise.
        reason: The answer as one plain sentence with numbers.
    """

    name: str
    step: int
    plan: Plan = field(repr=False, compare=False)
    total_steps: int
    final_distribution: Prediction
    difference: Prediction
    extra_steps: int
    extra_compute: float
    trust: Trust
    why: str
    reason: str

    @property
    def final(self) -> float:
        """Median of the loss at the end of the other plan; ``nan`` where too little is known."""
        return float(self.final_distribution)

    def interval(self, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
        """The central interval of the loss at the end of the other plan."""
        return self.final_distribution.interval(level)

    def quantile(self, q: float) -> float:
        """The loss at the end of the other plan below which the outcome falls with probability ``q``."""
        return self.final_distribution.quantile(q)

    def to_dict(self, level: float = DEFAULT_LEVEL) -> dict[str, Any]:
        """The answer as builtins, without the plan and with intervals of one level.

        Returns:
            ``name``, ``step``, ``total_steps``; of the loss at the end of the other plan the median ``final``, its
            ``scale``, the degrees of freedom ``df``, and the interval ``lower`` to ``upper`` of the given ``level``;
            ``difference`` with ``median``, ``scale``, ``lower`` and ``upper``; ``extra_steps``, ``extra_compute``,
            ``trust``, ``why`` and ``reason``.
        """
        end, apart = self.final_distribution, self.difference
        (lower, upper), (least, most) = end.interval(level), apart.interval(level)
        final = {"final": self.final, "scale": end.scale, "df": end.df, "level": level, "lower": lower, "upper": upper}
        difference = {"median": float(apart), "scale": apart.scale, "lower": least, "upper": most}
        known = {name: getattr(self, name) for name in _PLAIN}
        place = {"name": self.name, "step": self.step, "total_steps": self.total_steps}
        return {**place, **final, "difference": difference, **known}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WhatIf:
        """Read back what :meth:`to_dict` gave, with a plan of unknown rates; intervals are symmetric."""
        total, df, apart = int(data["total_steps"]), float(data["df"]), data["difference"]
        return cls(
            name=data["name"],
            step=int(data["step"]),
            plan=Plan.constant(total_steps=total, known=False, why="the answer was read back without its plan"),
            total_steps=total,
            final_distribution=Prediction(data["final"], data["scale"], df),
            difference=Prediction(apart["median"], apart["scale"], df),
            **{name: data[name] for name in _PLAIN},
        )


_PLAIN = ("extra_steps", "extra_compute", "trust", "why", "reason")


def what_if(
    forecast: Forecast,
    plan: Plan,
    change: str | Plan = "carry on",
    *,
    points: Points,
    prior: PriorSource = PUBLISHED,
    name: str | None = None,
    doubt: str = "",
    monitor: str = "loss",
    config: ForecastConfig = DEFAULT,
    **options: Any,
) -> WhatIf:
    """The final loss of a run if from the present step of a forecast on it followed another plan.

    The law of the forecast is evaluated on the changed plan in the units of the original one. Past runs with
    a final loss count under the changed plan too.

    Args:
        forecast: The forecast of the run under its plan.
        plan: That plan.
        change: ``"carry on"``, ``"stop"`` (option ``at``, a step), ``"decay"`` (``over``, ``shape``, ``to``),
            ``"longer"`` (``factor``), ``"wsd"`` (``decay``, ``shape``, ``to``), each as in
            :mod:`lightning_scaling.schedule.changes`, or another plan, of which the part after the present counts.
        points: The curve that the forecast was made from, on the scale of the law.
        prior: The prior of the forecast.
        name: What to call it; left out, a few words that say what is changed.
        doubt: Why forecasts of this run are in doubt at present; empty if they are not.
        monitor: Name of the metric, for the sentence.
        config: The tuned numbers.
        **options: Options of the change.

    Returns:
        The answer; its numbers are ``nan`` where the forecast has none.

    Raises:
        ValueError: If the rates of the plan are not known, the change is none of these or an option is out of its
            range.
        TypeError: If the change has no such option.
    """
    step = forecast.step
    changed, words = changes.changed(plan, step, change, options)
    end = changed.total_steps or forecast.horizon
    shared = changes.first_difference(plan, changed)
    trust, why, taken = forecast.trust, forecast.why, ""
    final_distribution = Prediction(float("nan"), float("inf"), forecast.df)
    if end == forecast.horizon and shared >= end:
        final_distribution, difference = forecast.final_distribution, Prediction(0.0, 0.0, forecast.df)
    else:
        on_law, own = forecast.on_law, forecast.own_path
        shift = _Shift(own, changed, forecast.horizon, end, config) if isinstance(own, Mixture) else None
        # The other plan on its own terms: whether its end can be trusted, and the prior from past runs. A rate above
        # all before would look like a warm-up.
        higher = changed.peak > (1 + config.counterfactual.max_rate_rise) * plan.peak and step > plan.warmup_end
        forecaster = Forecaster(plan if higher else changed, prior, config)
        other = forecaster.fit(points, step)
        mixture = other.own_path if isinstance(other.own_path, Mixture) else None
        if end <= forecast.horizon and shared >= end:
            found = on_law.at(end)
        elif shift is not None and mixture is not None and (higher or other.path is mixture):
            found = shift.final_distribution(mixture, forecast.df)
        else:
            found = final_distribution if higher else other.final_distribution
        scale = math.hypot(on_law.final_distribution.scale, found.scale)
        if shift is not None and mixture is not None:
            scale = min(scale, shift.scale(mixture, float(on_law.final_distribution)))
        difference = Prediction(float(found) - float(on_law.final_distribution), scale, forecast.df)
        final_distribution, difference = _shown(forecast, found, difference)
        trust, why = _trust(other, changed, plan, doubt, config.counterfactual.max_rate_rise)
        if _unseen(forecast) or _unseen(other):
            source = forecaster.shape_prior.source
            taken = f"this run has hardly decayed yet: what its decay gains is taken from {source}"
        if trust == "ok" and _unseen(other) and not (_unseen(forecast) and forecast.trust == "ok"):
            trust, why = "low", taken
    extra = end - forecast.horizon
    answer = WhatIf(
        name=name or words,
        step=step,
        plan=changed,
        total_steps=end,
        final_distribution=final_distribution,
        difference=difference,
        extra_steps=extra,
        extra_compute=extra / forecast.horizon,
        trust=trust,
        why=why,
        reason="",
    )
    return replace(answer, reason=_reason(answer, forecast, taken, monitor))


def what_ifs(
    forecast: Forecast,
    plan: Plan,
    asked: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None,
    *,
    points: Points,
    prior: PriorSource = PUBLISHED,
    doubt: str = "",
    monitor: str = "loss",
    config: ForecastConfig = DEFAULT,
) -> list[WhatIf]:
    """Carrying on, then several changes.

    Args:
        forecast: The forecast of the run under its plan.
        plan: That plan.
        asked: Changes, alone or with their options. Left out, the usual ones as far as the plan allows them: stop
            now, decay over 20 %, train twice as long, hold and decay over the last 20 %.
        points: As of :func:`what_if`.
        prior: As of :func:`what_if`.
        doubt: As of :func:`what_if`.
        monitor: As of :func:`what_if`.
        config: As of :func:`what_if`.

    Raises:
        ValueError: As :func:`what_if`.
        TypeError: As :func:`what_if`.
    """
    known: dict[str, Any] = {"points": points, "prior": prior, "doubt": doubt, "monitor": monitor, "config": config}
    answers = [what_if(forecast, plan, **known)]
    for change in USUAL if asked is None else asked:
        kind, options = change if isinstance(change, tuple) else (change, {})
        try:
            answers.append(what_if(forecast, plan, kind, **known, **options))
        except ValueError:
            if asked is not None:
                raise
    return answers


class _Shift:
    """The difference that another plan makes to the final loss of each shape of a forecast.

    Args:
        own: The shapes, weighted.
        changed: The other plan.
        horizon: Where the original ends.
        end: Where the other one ends.
        config: The tuned numbers.
    """

    def __init__(self, own: Mixture, changed: Plan, horizon: float, end: float, config: ForecastConfig) -> None:
        self._own, self._config = own, config
        self._ends = np.array([horizon, end], dtype=np.float64)
        self._there = there = Progress(changed, end, unit=own.progress)
        began, ended = (_parts(own, own.progress, at) for at in (own.now, horizon))
        # Falls of the rate are merged differently under each plan: what counts is each plan's change from the present.
        other_began, other_ended = (_parts(own, there, at) for at in (own.now, end))
        change, other = ended - began, other_ended - other_began
        follows = np.exp(-own.alpha * np.log(there.progress(end)))
        progress = other[:, 0] - change[:, 0]
        annealing = other[:, 1] * follows**config.counterfactual.gain_follows_slope - change[:, 1]
        self._middle = float(own.weight @ progress), float(own.weight @ annealing)
        self._spread = math.sqrt(float(own.weight @ (progress + annealing - sum(self._middle)) ** 2))
        self._doubt = 0.5 * float(own.weight @ (other[:, 1] * (follows - 1)))

    def final_distribution(self, other: Mixture, df: float) -> Prediction:
        """The final loss; the unknown gain of that plan's decay is taken from the other forecast."""
        there = replace(
            self._own, progress=self._there, spread_factor=other.spread_factor, gain_unknown=other.gain_unknown
        )
        medians, _ = self._own(self._ends[:1])
        _, scales = there(self._ends[1:])
        return Prediction(float(medians[0]) + sum(self._middle), math.hypot(scales[0], self._doubt), df)

    def scale(self, other: Mixture, final: float) -> float:
        """Scale of the error of the difference: that of both ends is much the same, and cancels."""
        config = self._config.counterfactual
        unknown = self._own.gain_unknown or other.gain_unknown
        share = 1 / self._config.error.interval_half_width if unknown else config.annealing_share
        progress, annealing = self._middle
        return math.hypot(
            config.min_share_of_loss * final,
            config.spread_share * self._spread,
            config.progress_share * progress,
            share * annealing,
            self._doubt,
        )


def _parts(own: Mixture, progress: Progress, step: float) -> NDArray[np.float64]:
    """What progress and annealing contribute to the loss by each shape of the law, shape ``(shapes, 2)``."""
    made = own.slope * np.exp(-own.alpha * np.log(progress.progress(step)))
    gain = -own.slope * own.kappa * own.alpha * progress.annealing([step])[own.speed, 0]
    return np.stack([made, gain], axis=1)


def _shown(forecast: Forecast, found: Prediction, apart: Prediction) -> tuple[Prediction, Prediction]:
    """The same in the units of the metric."""
    if forecast.scale.plain:
        return found, apart
    noise = math.hypot(found.scale, forecast.params.get("noise", 0.0))
    end = MetricPrediction(Prediction(float(found), noise, found.df), forecast.scale)
    spread = float(forecast.scale.spread_from_law(float(found), apart.scale))
    return end, Prediction(float(end) - forecast.final, spread, apart.df)


def _trust(other: Forecast, changed: Plan, plan: Plan, doubt: str, max_rise: float) -> tuple[Trust, str]:
    if other.trust == "none":
        return "none", other.why
    if doubt:
        return "low", doubt
    start = max(other.step, plan.warmup_end)
    ahead = changed.lr[changed.steps >= start]
    if ahead.size and ahead.max() - changed.at(start) > max_rise * plan.peak:
        return "low", "the learning rate would rise again, of which the law knows little"
    return other.trust, other.why


def _unseen(forecast: Forecast) -> bool:
    return isinstance(forecast.own_path, Mixture) and forecast.own_path.progress.unseen(forecast.step)


def _reason(answer: WhatIf, forecast: Forecast, taken: str, monitor: str) -> str:
    if not math.isfinite(answer.final):
        return f"Nothing can be said of it yet: {answer.why}."
    metric = "a loss" if monitor == "loss" else f"`{monitor}`"
    lower, upper = map(significant, answer.interval())
    said = f"{answer.name[0].upper()}{answer.name[1:]}: {metric} of {significant(answer.final)}"
    said += f" at step {answer.total_steps:,} (90% sure: {lower} to {upper})"
    if answer.difference.scale > 0 or answer.extra_steps:
        least, most = answer.difference.interval()
        off = float(answer.difference)
        side = "above" if off > 0 else "below"
        said += f", {abs(off):.3g} {side} carrying on to step {forecast.horizon:,} ({least:+.2g} to {most:+.2g})"
    if answer.extra_steps:
        verb = "costs" if answer.extra_steps > 0 else "saves"
        said += f"; it {verb} {abs(answer.extra_steps):,} steps, {abs(answer.extra_compute):.0%} of the planned compute"
    return f"{said}; {taken}." if taken else f"{said}."
