"""Where a monitored run is written: journal, MLflow and other loggers, console, and the figures at its end."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_scaling.callbacks.aggregation import Block
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.capture import Capture
from lightning_scaling.callbacks.console import Console, ScalingAdviceWarning, warn
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.tracking import MLflowTarget, Tracker, find_targets, new_journal_path
from lightning_scaling.tracking import schema as names
from lightning_scaling.tracking.journal import PLAN, RESIZE, STOPPED, builtins_of

if TYPE_CHECKING:
    from lightning_scaling.compute import ParamCounts
    from lightning_scaling.engine.monitor import Monitor
    from lightning_scaling.schedule import Plan

_NOTE_EVERY = 0.05
_WRITE_SECONDS = 10.0
_ENOUGH_TO_FIT = 20
_PACKAGES = ("lightning-scaling", "lightning", "pytorch-lightning", "torch", "numpy", "scipy")


class RunLogger:
    """The written side of one fit; does nothing on ranks other than zero.

    Args:
        settings: The arguments of the callback.
        trainer: The Trainer, set up.
        console: Where to say things.
        state: The state of the session that this one goes on from, with what :meth:`state_dict` returned in it.
    """

    def __init__(
        self, settings: Settings, trainer: Any, console: Console, state: Mapping[str, Any] | None = None
    ) -> None:
        self._settings = settings
        self._console = console
        self._first = bool(trainer.is_global_zero)
        self._tracker: Tracker | None = None
        self._counting: list[str] = []
        self._noted = -1.0
        self._advice: Any = None
        self._total: int | None = None
        self._state = state
        self._resumed = dict(state["record"] if state else {})
        if self._first:
            self._targets, self._where = find_targets(trainer)
            self._journal = self._journal_path(trainer)

    def _journal_path(self, trainer: Any) -> Path | None:
        folder = self._settings.journal_folder(trainer.default_root_dir)
        if folder is None:
            return None
        before = self._resumed.get("journal")
        if before and Path(before).parent == folder.absolute() and Path(before).exists():
            return Path(before)
        return new_journal_path(folder, self._settings.name or "scaling")

    @property
    def own_run(self) -> MLflowTarget | None:
        """The run's own place in MLflow, on rank zero."""
        return next((t for t in self._targets if isinstance(t, MLflowTarget)), None) if self._first else None

    def state_dict(self) -> dict[str, Any]:
        """Where the run is written, as builtins, to go on there after a resume."""
        if not self._first or self._tracker is None:
            return dict(self._resumed)
        path = self._tracker.journal_path
        return {
            "journal": None if path is None else str(path),
            "targets": builtins_of([target.describe() for target in self._targets]),
            **self._tracker.position,
        }

    def introduce(self, sizes: BatchSizeMeter, counts: ParamCounts | None, engine: Monitor, capture: Capture) -> None:
        """Say and write what is being counted and planned; called once, when the first step has been seen."""
        if not self._first:
            return
        plan = engine.plan
        self._total = None if plan is None else plan.total_steps
        followed = [engine.metric.sentence] if engine.metric.sentence else []
        self._counting = [*followed, *sizes.sentences(), plan_sentence(plan)]
        params = {
            "unit": sizes.unit,
            "counting": sizes.sentences()[0],
            "flops.provenance": sizes.provenance,
            "flops.note": sizes.note or None,
            "plan.total_steps": self._total,
            "plan.source": None if plan is None else plan.source,
            "plan.peak_lr": None if plan is None else plan.peak,
            "law": self._settings.law,
            "alpha": self._settings.alpha,
            "target": self._settings.target,
            "monitor": self._settings.monitor,
            "measure": engine.metric.sentence or None,
        }
        if counts is not None:
            params |= {f"params.{key}": value for key, value in counts.to_dict().items()}
        params |= {f"versions.{name}": number for name, number in versions().items()}
        header = {
            "name": self._settings.name,
            "plan": None if plan is None else plan.to_dict(),
            "params": None if counts is None else counts.to_dict(),
            "step": capture.steps,
            "settings": {key: value for key, value in params.items() if value is not None},
            "engine": {
                **engine.config.to_dict(),
                **engine.metric.settings,
                "next_update": engine.next_update,
            },
            **self._past(),
        }
        self._state = None
        self._tracker = Tracker(
            self._targets, journal=self._journal, header=builtins_of(header), interval=_WRITE_SECONDS
        )
        self._tracker.params(params)
        self._tracker.tags({names.TAG_VERDICT: "undecidable", names.TAG_ADVICE: "continue"})
        self._note(engine, finished=False)
        journal = f" Journal: {self._journal}." if self._journal is not None else ""
        said = "; ".join(sentence.rstrip(".") for sentence in self._counting)
        self._console.line(f"Scaling monitor: {said}. {self._where}{journal}")

    def _past(self) -> dict[str, Any]:
        """Where this journal holds what the run goes on from; where it does not, the state of the engine itself."""
        if self._state is None or self._journal is None:
            return {}
        place = {key: self._resumed.get(key) for key in ("segment", "rows")}
        if str(self._journal) == self._resumed.get("journal") and place["segment"]:
            return {"resumed": place}
        return {"state": self._state["engine"]}

    def foretell(self, engine: Monitor) -> None:
        """Say and write what past runs tell of the end before this one has shown anything."""
        forecast = engine.forecast
        if self._tracker is None or forecast.trust == "none" or engine.forecast_log:
            return
        told = {"forecast": forecast.to_dict()}
        self._tracker.metrics(names.metrics_of(told), 0)
        self._tracker.tags(names.tags_of(told))
        lower, upper = forecast.interval(0.9)
        self._console.line(
            f"Scaling monitor: before the first update the final {engine.metric.name} is forecast at "
            f"{forecast.final:.4g} (90 % between {lower:.4g} and {upper:.4g}), trust {forecast.trust}: {forecast.why}."
        )

    def points(self, block: Block) -> None:
        """Keep a stretch of the curve in the journal."""
        if self._tracker is not None:
            self._tracker.points(
                block.step,
                block.loss,
                lr=block.lr,
                tokens=block.samples if block.tokens is None else block.tokens,
                flops=block.flops,
            )

    def mark(self, reason: str, step: int, data: Mapping[str, Any] | None = None) -> None:
        """Note an event in the journal."""
        if self._tracker is not None:
            self._tracker.mark(reason, step, data)

    def replan(self, plan: Plan, step: int) -> None:
        """Note another plan in the journal."""
        self.mark("plan", step, {"kind": PLAN, "plan": plan.to_dict()})

    def resize(self, advice: Any, *, aloud: bool) -> None:
        """Note advice on size in the journal and the tags; `aloud`, pass it on as the user asked for."""
        if self._tracker is not None:
            kept = builtins_of(advice.to_dict())
            self._tracker.mark("resize", advice.step, {"kind": RESIZE, **kept})
            following = kept["evidence"].get("next") or {}
            told = {"action": advice.action, "reason": advice.reason, "saving": advice.saving, **following}
            self._tracker.tags({names.TAG_RESIZE + key: value for key, value in told.items()})
        if aloud:
            self.advice(advice)

    def stop(self, decision: Mapping[str, Any], stopped: bool) -> None:
        """Note a decision to stop in the journal, and in the tags if the run is stopped."""
        if self._tracker is not None:
            kept = builtins_of(dict(decision))
            self._tracker.mark("stop", int(kept["step"]), {"kind": STOPPED, "stopped": stopped, **kept})
            if stopped:
                self._tracker.tags({names.TAG_STOP + key: kept[key] for key in names.STOP_KEYS})

    def update(self, update: Any, counters: Mapping[str, Any], step: int, engine: Monitor) -> None:
        """Write an update of the engine; ``step`` is the one Lightning's own metrics of that moment have."""
        if self._tracker is None:
            return
        data = update.to_dict()
        self._tracker.update(data)
        self._tracker.metrics(names.metrics_of(data, counters), max(step, 0))
        self._tracker.tags(names.tags_of(data))
        self._console.progress(data, self._total, engine.metric.name)
        self._advice = data.get("advice")
        fraction = data.get("fraction")
        if fraction is None or fraction >= self._noted + _NOTE_EVERY:
            self._noted = fraction or 0.0
            self._note(engine, finished=False)

    def _note(self, engine: Monitor, *, finished: bool) -> None:
        from lightning_scaling.report import description

        if self._tracker is not None:
            text = description(
                engine.forecast_log,
                advice=self._advice,
                counting=self._counting,
                finished=finished,
                metric=engine.metric.name,
            )
            self._tracker.note(text)

    def advice(self, advice: Any) -> None:
        """Pass on advice that has changed, in the way the user asked for."""
        if not self._first:
            return
        way = self._settings.on_advice
        text = f"Scaling advice at step {advice.step:,}: {advice.action}. {advice.reason}"
        if callable(way):
            try:
                way(advice)
            except Exception as error:
                self._console.once(
                    "on_advice", f"`on_advice` raised {type(error).__name__}: {error}; training goes on."
                )
        elif way == "warn" and advice.action != "continue":
            warn(text, ScalingAdviceWarning)
        elif way in ("warn", "log"):
            self._console.line(text)

    def close(
        self, engine: Monitor, known: Mapping[str, Any], overhead: float, setup_seconds: float, deadline: float
    ) -> None:
        """Write what belongs to the end of a run, figures while the time allows, and send what waits."""
        if self._tracker is None:
            return
        until = perf_counter() + deadline
        try:
            self._note(engine, finished=True)
            self._ledger(engine, known)
            if self._tracker.targets or self._tracker.journal_path is not None:
                self._artifacts(engine, known, until)
        except Exception as error:
            self._console.once("artifacts", f"The artifacts are incomplete: {type(error).__name__}: {error}")
        report = self._tracker.close(max(until - perf_counter(), 1.0), overhead=overhead, setup_seconds=setup_seconds)
        self._tracker = None
        self._console.line(f"Scaling monitor: took {overhead:.2%} of the training time. {report.message}".rstrip())

    def _ledger(self, engine: Monitor, known: Mapping[str, Any]) -> None:
        """Leave the run with the forecasts made of it beside what came, for those that come after it."""
        from lightning_scaling.forecast.calibrated import forecast_log_of

        assert self._tracker is not None
        if engine.metric.plain and len(engine.curve):
            ledger = forecast_log_of(engine.forecast_log, engine.run(**known))
            if ledger is not None:
                self._tracker.tags({names.TAG_FORECASTS: json.dumps(ledger, separators=(",", ":"))})

    def _artifacts(self, engine: Monitor, known: Mapping[str, Any], until: float) -> None:
        assert self._tracker is not None
        ledger = engine.forecast_log
        self._tracker.artifact(names.ARTIFACT_CURVE, curve_csv(engine))
        self._tracker.artifact(names.ARTIFACT_FORECASTS, json.dumps(builtins_of(ledger), indent=1))
        self._tracker.artifact(names.ARTIFACT_LAW, json.dumps(builtins_of(engine.forecast.to_dict()), indent=1))
        if not ledger or not len(engine.curve):
            return
        from lightning_scaling.laws.io import dumps
        from lightning_scaling.laws.run_fit import fit_run
        from lightning_scaling.report import forecast_figure, loss_compute_figure

        run, points = engine.run(**known), engine.curve.points
        spent = np.isfinite(points.flops)
        flops = np.interp(run.step, points.last[spent], points.flops[spent]) if spent.any() else None
        if perf_counter() < until and len(run) >= _ENOUGH_TO_FIT and engine.metric.plain:
            with suppress(ValueError):  # most of it a warm-up: there is no law to leave behind
                self._tracker.artifact(names.ARTIFACT_FIT, dumps(fit_run(run)))
        if perf_counter() < until:
            self._tracker.artifact(names.ARTIFACT_FORECAST_FIGURE, forecast_figure(run, ledger))
        if perf_counter() < until:
            self._tracker.artifact(names.ARTIFACT_COMPUTE_FIGURE, loss_compute_figure(run, ledger, flops=flops))


def curve_csv(engine: Monitor) -> str:
    """The curve in bins as CSV: last step, mean loss, mean rate and the counters at that step."""
    points = engine.curve.points
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "loss", "lr", "tokens", "flops", "seconds", "count"])
    for row in zip(
        points.last, points.loss, points.lr, points.tokens, points.flops, points.seconds, points.count, strict=True
    ):
        writer.writerow([_cell(float(value)) for value in row])
    return text.getvalue()


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def plan_sentence(plan: Any) -> str:
    """What is known of the plan, for the first line of a run."""
    if plan is None:
        return "no plan"
    length = "no known end" if plan.total_steps is None else f"{plan.total_steps:,} steps"
    rate = f"learning rate up to {plan.peak:.3g}"
    return f"plan: {length}, {rate}" + (f" ({plan.why.rstrip('.')})" if plan.why else "")


def versions() -> dict[str, str]:
    """Versions of what a run depends on, Python included."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
