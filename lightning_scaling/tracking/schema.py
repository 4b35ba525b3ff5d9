"""Names of the metrics, tags, params and artifacts that a run writes.

| name | what it holds |
|---|---|
| `scaling/loss` | smoothed training loss |
| `scaling/lr` | learning rate used |
| `scaling/samples`, `scaling/tokens` | seen so far, all ranks together |
| `scaling/flops`, `scaling/log10_flops` | floating-point operations spent so far; logarithm for a chart's x-axis |
| `scaling/seconds` | training time so far, in seconds |
| `scaling/forecast/final`, `.../lower`, `.../upper` | median and 90 % interval of the loss at the end of the plan |
| `scaling/deviation/e_value`, `scaling/deviation/log10_e` | evidence against the forecast, and its logarithm |
| `scaling/gradient_norm` | norm of the gradient before clipping, at a few of the steps |
| `scaling/gradient_noise_scale` | batch, in samples or tokens, beyond which more of it buys ever less |
| `scaling/overhead` | share of the wall time that the monitor itself takes |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.serialization import finite_or_none


class RunStatus(StrEnum):
    """Whether and how a run has ended."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"  # the monitor failed before the run ended

    @property
    def complete(self) -> bool:
        """Whether the run ended in order, as far as is known."""
        return self not in (RunStatus.INTERRUPTED, RunStatus.UNKNOWN)


LOSS = "scaling/loss"
LR = "scaling/lr"
TOKENS = "scaling/tokens"
SAMPLES = "scaling/samples"
FLOPS = "scaling/flops"
LOG10_FLOPS = "scaling/log10_flops"
SECONDS = "scaling/seconds"
FORECAST_FINAL = "scaling/forecast/final"
FORECAST_LOWER = "scaling/forecast/lower"
FORECAST_UPPER = "scaling/forecast/upper"
E_VALUE = "scaling/deviation/e_value"
LOG10_E = "scaling/deviation/log10_e"
GRADIENT_NORM = "scaling/gradient_norm"
GRADIENT_NOISE_SCALE = "scaling/gradient_noise_scale"
OVERHEAD = "scaling/overhead"

TAG_VERDICT = "scaling.verdict"
TAG_ADVICE = "scaling.advice"
TAG_REASON = "scaling.reason"
TAG_TRUST = "scaling.trust"
TAG_STATUS = "scaling.status"  # one of RunStatus
TAG_FORECASTS = "scaling.forecasts"
TAG_FAMILY = "scaling.family"
TAG_CALIBRATION = "scaling.calibration"  # of an experiment

TAG_RESIZE = "scaling.resize."
TAG_STOP = "scaling.stop."
STOP_KEYS = ("kind", "reason", "step", "saving", "cost")

PARAM_PREFIX = "scaling."
PARAM_MONITOR = "scaling.monitor"
PARAM_COUNT = "scaling.params.total"
PARAM_TOTAL_STEPS = "scaling.plan.total_steps"

ARTIFACT_CURVE = "scaling/curve.csv"
ARTIFACT_FORECASTS = "scaling/forecasts.json"
ARTIFACT_LAW = "scaling/law.json"
ARTIFACT_FIT = "scaling/fit.json"
ARTIFACT_FORECAST_FIGURE = "scaling/forecast.png"
ARTIFACT_COMPUTE_FIGURE = "scaling/loss_vs_compute.png"

_COUNTERS = (LR, TOKENS, SAMPLES, FLOPS, SECONDS, GRADIENT_NORM, GRADIENT_NOISE_SCALE, OVERHEAD)


def metrics_of(update: Mapping[str, Any], counters: Mapping[str, Any] | None = None) -> dict[str, float]:
    """The metrics that one update and the counters of that moment amount to.

    Args:
        update: An update as builtins (``Update.to_dict()``): ``loss``; ``forecast`` with ``final``, ``lower`` and
            ``upper``; ``deviation`` with ``e_value``.
        counters: Any of ``lr``, ``tokens``, ``samples``, ``flops`` (floating-point operations), ``seconds``,
            ``gradient_norm``, ``gradient_noise_scale`` and ``overhead`` (fraction of wall time).

    Returns:
        Metric names and finite values. What is missing or not finite is left out, and so is a forecast not to be used
        (``trust`` "none"): it would only stretch the charts.
    """
    found: dict[str, object] = {LOSS: update.get("loss")}
    forecast = _mapping(update.get("forecast"))
    if forecast.get("trust") != "none":
        names = {FORECAST_FINAL: "final", FORECAST_LOWER: "lower", FORECAST_UPPER: "upper"}
        found |= {name: forecast.get(key) for name, key in names.items()}
    found[E_VALUE] = _mapping(update.get("deviation")).get("e_value")
    found |= {f"scaling/{key}": value for key, value in (counters or {}).items() if f"scaling/{key}" in _COUNTERS}
    for name, logarithm in ((E_VALUE, LOG10_E), (FLOPS, LOG10_FLOPS)):
        value = finite_or_none(found.get(name))
        if value is not None and value > 0:
            found[logarithm] = math.log10(value)
    return {name: number for name, value in found.items() if (number := finite_or_none(value)) is not None}


def tags_of(update: Mapping[str, Any]) -> dict[str, str]:
    """The tags that show the state of a run at a glance: verdict, advice, its reason, and trust in the forecast."""
    advice = _mapping(update.get("advice"))
    found = {
        TAG_VERDICT: _mapping(update.get("deviation")).get("verdict"),
        TAG_ADVICE: advice.get("action"),
        TAG_REASON: advice.get("reason"),
        TAG_TRUST: _mapping(update.get("forecast")).get("trust"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def params_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Run parameters under their ``scaling.`` names, values as text; a value of ``None`` is left out."""
    named = {key if key.startswith(PARAM_PREFIX) else PARAM_PREFIX + key: value for key, value in values.items()}
    return {key: str(value) for key, value in named.items() if value is not None}


def scoped(name: str, scope: str) -> str:
    """A name of the scheme as a further monitor of the same run writes it, after the metric it follows.

    Example:
        >>> scoped("scaling/loss", "val_acc"), scoped("scaling.advice", "val_acc"), scoped("scaling/loss", "")
        ('scaling/val_acc/loss', 'scaling.val_acc.advice', 'scaling/loss')
    """
    if not scope or not name.startswith(("scaling/", "scaling.")):
        return name
    mark = len("scaling/")
    return f"{name[:mark]}{scope}{name[mark - 1 :]}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
