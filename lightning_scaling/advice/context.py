"""Context of the advice next to the losses: past runs, announced changes, diagnostics; and the state of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import robust_std
from lightning_scaling.advice.config import DEFAULT, AdviceConfig, ChangeShapeConfig
from lightning_scaling.advice.hints import batch_size_hint, learning_rate_hint
from lightning_scaling.advice.matched_runs import MatchedRuns, learning_rate_optimum
from lightning_scaling.advice.repeats import Passes, Repeats
from lightning_scaling.advice.state import RunState
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_HELD_OUT = ("val", "test", "eval", "dev", "heldout", "held_out")
_HOUR = 3600.0


class AdviceContext:
    """Keeps what advice rests on next to the losses, and makes the state of the run from both.

    Args:
        plan: Plan of the run.
        params: Its number of parameters.
        unique_tokens: Distinct tokens (or samples) there are; left out, worked out from the length of a pass.
        metric: Name of the metric followed; ``None`` is the training loss.
        rising: Whether that is to be high.
        config: Tuned numbers.

    Attributes:
        facts: Diagnostics by name.
        repeats: Where the run was in its data at the last update; ``None`` where that is not known.
    """

    def __init__(
        self,
        plan: Plan,
        params: int | None,
        unique_tokens: float | None = None,
        *,
        metric: str | None = None,
        rising: bool = False,
        config: AdviceConfig = DEFAULT,
    ) -> None:
        self.facts: dict[str, Any] = {}
        self.repeats: Repeats | None = None
        self._config = config
        self._passes = Passes(unique_tokens, config.repeats)
        self._plan, self._params, self._metric, self._rising = plan, params, metric, rising
        self._past_runs: list[Run] = []
        self._changed = False
        self._last = 0
        self._memory: Mapping[str, Any] | None = None
        self._match()

    def use(self, past_runs: Iterable[Run]) -> None:
        """Compare with past runs from here on; those of another metric are left out."""
        self._past_runs = [run for run in past_runs if (run.meta.get("metric") or None) == self._metric]
        self._match()

    def replan(self, plan: Plan) -> None:
        """Follow a new plan from here on."""
        self._plan = plan
        self._match()

    def _match(self) -> None:
        known = self._plan, self._params, self._rising, self._config
        self._matched = MatchedRuns([] if self._changed else self._past_runs, *known)
        if self._memory is not None:
            self._matched.load_state_dict(self._memory)
        self._optimum = learning_rate_optimum(self._past_runs, *known)

    def note(self, facts: Mapping[str, Any], step: int = 0) -> None:
        """Add diagnostics by name, observed at a step; ``None`` removes one."""
        if "epoch_steps" in facts:
            self._passes.note(facts["epoch_steps"], step)
        self.facts = {key: value for key, value in {**self.facts, **facts}.items() if value is not None}

    def mark(self) -> None:
        """A change was announced: past runs are no measure any more, and layers may be idle on purpose."""
        self._changed = True
        self._memory = None
        self._match()
        self.note({"idle": None, "idle_share": None, "idle_names": None, "idle_since": None})

    def state(
        self, curve: Curve, *, step: int, loss: float, deviation: Deviation, divergence: Divergence | None, **known: Any
    ) -> RunState:
        """The state of the run at an update; to be called once for each, in order.

        Args:
            curve: The curve so far.
            step: The present step.
            loss: Mean loss since the last update.
            deviation: The verdict against earlier forecasts.
            divergence: A divergence under way.
            **known: Further fields of :class:`~lightning_scaling.advice.state.RunState`.
        """
        in_trouble = deviation.alarm or divergence is not None
        since = deviation.since_step if divergence is None else divergence.since_step
        points, total, config = curve.points, self._plan.total_steps, self._config
        held_out = (self._metric or "").lower().startswith(_HELD_OUT)
        best = None
        if in_trouble and held_out:
            at = np.argmax(points.loss) if self._rising else np.argmin(points.loss)
            best = round(float(points.step[at])), float(points.loss[at])
        self.repeats = self._passes.count(curve, points, self._plan, self.facts.get("unit"), since)
        tokens = float(points.tokens[-1] / points.last[-1]) if len(curve) and points.last[-1] > 0 else math.nan
        lag = self._matched.compare(self._last, step, loss, tokens)
        self._last = step
        self._memory = self._matched.state_dict()
        steps_left = None if total is None else total - max(curve.last_step, 0)
        return RunState(
            step=step,
            loss=loss,
            deviation=deviation,
            divergence=divergence,
            nonfinite_tail=curve.nonfinite_tail,
            nonfinite_total=curve.nonfinite,
            last_nonfinite=curve.last_nonfinite_step,
            abrupt=is_abrupt(points.loss, rising=self._rising, config=config.change_shape) if in_trouble else None,
            marked=curve.segments[-1] if curve.segments else None,
            facts=self.facts,
            lag=lag,
            learning_rate_optimum=self._optimum,
            hint=self._hint(tokens),
            batch_hint=batch_size_hint(self.facts, step / total if total else None, config.batch_size),
            held_out=held_out,
            repeats=self.repeats,
            best=best,
            flops_left=_remaining(points.last, points.flops, steps_left),
            hours_left=_remaining(points.last, points.seconds / _HOUR, steps_left),
            **known,
        )

    def _hint(self, tokens_per_step: float) -> str:
        """What is to be said at the start of the run."""
        hints = ["" if self.repeats is None else self.repeats.hint(self._config.repeats)]
        if self.facts.get("unit") == "tokens" and math.isfinite(tokens_per_step) and self._plan.total_steps is not None:
            tokens = tokens_per_step * self._plan.total_steps
            hints.insert(0, learning_rate_hint(self._plan.peak, self._params, tokens, self._config.learning_rate))
        return " ".join(filter(None, hints))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins."""
        return {
            "facts": dict(self.facts),
            "changed": self._changed,
            "last": self._last,
            "matched_runs": self._matched.state_dict(),
            "passes": self._passes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.facts, self._changed, self._last = dict(state["facts"]), state["changed"], state["last"]
        self._memory = state["matched_runs"]
        self._passes.load_state_dict(state["passes"])
        self._match()


def is_abrupt(
    losses: NDArray[np.float64], *, rising: bool = False, config: ChangeShapeConfig = DEFAULT.change_shape
) -> bool | None:
    """Whether the losses went from one level to a worse one at once.

    The last forty bins of the curve, each about 1/256 of the plan, are cut in two where that explains most; the three
    before the cut must still be at the old level and the three after it at the new one, or beyond.

    Args:
        losses: Mean losses of the bins up to now, shape ``(n,)``.
        rising: Whether the metric is to be high.
        config: Tuned numbers.

    Returns:
        The answer; ``None`` where too few losses or too much noise allow none.
    """
    values = np.asarray(losses[-config.window :], dtype=np.float64) * (-1.0 if rising else 1.0)
    count, edge = values.size, config.edge
    if count < config.min_before + config.min_after:
        return None
    sums = np.cumsum(values)
    cuts = np.arange(config.min_before, count - config.min_after + 1)
    before = sums[cuts - 1] / cuts
    after = (sums[-1] - sums[cuts - 1]) / (count - cuts)
    gain = np.where(after > before, (after - before) ** 2 * cuts * (count - cuts) / count, 0.0)
    cut = int(cuts[int(np.argmax(gain))])
    base, level = float(np.median(values[: cut - edge])), float(np.median(values[cut : cut + 4 * edge]))
    jump = level - base
    noise = robust_std(values[: cut - edge], base)
    if jump <= config.min_jump * max(noise, 1e-12) / math.sqrt(edge):
        return None
    early = (float(values[cut - edge : cut].mean()) - base) / jump
    late = (float(values[cut : cut + edge].mean()) - base) / jump
    return early < config.max_share_before and late > config.min_share_after


def _remaining(steps: Array, counted: Array, steps_left: int | None) -> float | None:
    """What remains of a cumulative count until the end of the plan, at its mean rate so far."""
    known = np.flatnonzero(np.isfinite(counted))
    if steps_left is None or not known.size or steps[known[-1]] <= 0:
        return None
    return float(counted[known[-1]] / steps[known[-1]]) * max(steps_left, 0)
