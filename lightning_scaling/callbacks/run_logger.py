"""Output of a monitored run: journal, MLflow and other loggers, and console."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.advice import Advice
from lightning_scaling.callbacks.aggregation import Block
from lightning_scaling.callbacks.artifacts import write_artifacts
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.console import Console, ScalingAdviceWarning
from lightning_scaling.callbacks.guard import Guard
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.tracking import EventKind, LoggerTarget, Tracker, find_targets, new_journal_path, schema
from lightning_scaling.tracking.schema import RunStatus

if TYPE_CHECKING:
    from lightning_scaling.compute import ParamCounts
    from lightning_scaling.engine.monitor import Monitor
    from lightning_scaling.engine.records import Update
    from lightning_scaling.schedule import Plan

_DESCRIBE_EVERY = 0.05  # of the plan
_WRITE_INTERVAL = 10.0  # seconds between two batches of rows to a server
_PACKAGES = ("lightning-scaling", "lightning", "pytorch-lightning", "torch", "numpy", "scipy")


class RunLogger:
    """Writes one fit to where it is kept; does nothing on ranks other than zero.

    It is given curve points, updates, advice and events as they come; when the engine makes an update is not its
    business.

    Args:
        settings: The arguments of the callback.
        trainer: The Trainer, set up.
        console: Where to log lines.
        scope: What names of metrics, tags and files are distinguished by from those of another monitor.
        state: The state of the session that this one goes on from, with what :meth:`state_dict` returned in it.

    Attributes:
        first: Whether this is rank zero.
    """

    def __init__(
        self, settings: Settings, trainer: Any, console: Console, state: Mapping[str, Any] | None, *, scope: str
    ) -> None:
        self.first = bool(trainer.is_global_zero)
        self._settings, self._console, self._scope = settings, console, scope
        self._guard = Guard(console.warn)
        self._tracker: Tracker | None = None
        self._described, self._state = -1.0, state
        self._advice: Any = None
        self._resumed = dict(state["logger"] if state else {})
        if self.first:
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
    def own_run_fields(self) -> dict[str, Any]:
        """The run's own place in MLflow, on rank zero: ``run_id`` and ``tracking_uri``."""
        targets = self._targets if self.first else []
        own = next((one.reference for one in targets if not isinstance(one, LoggerTarget)), {})
        return {name: own.get(name) for name in ("run_id", "tracking_uri")}

    def state_dict(self) -> dict[str, Any]:
        """Where the run is written, as builtins, to go on there after a resume."""
        if not self.first or self._tracker is None:
            return dict(self._resumed)
        path = self._tracker.journal_path
        return {
            "journal": None if path is None else str(path),
            "targets": to_builtins([target.describe() for target in self._targets]),
            **self._tracker.position,
        }

    def introduce(self, sizes: BatchSizeMeter, counts: ParamCounts | None, engine: Monitor, step: int) -> None:
        """Open the journal with what is counted and planned; called once, when the first step has been seen."""
        if not self.first:
            return
        plan = engine.plan
        self._total = plan.total_steps
        self._counting = [*filter(None, [engine.metric.sentence]), *sizes.sentences(), plan_sentence(plan)]
        params = self._params(sizes, counts, engine)
        header = {
            "name": self._settings.name,
            "plan": plan.to_dict(),
            "params": None if counts is None else counts.to_dict(),
            "step": step,
            "settings": {key: value for key, value in params.items() if value is not None},
            "engine": {**engine.config.to_dict(), "next_update": engine.next_update, **engine.metric.settings},
            **self._origin(),
        }
        self._state = None
        header = to_builtins(header)
        self._tracker = Tracker(
            self._targets, journal=self._journal, header=header, interval=_WRITE_INTERVAL, scope=self._scope
        )
        self._tracker.params(params)
        self._tracker.tags({schema.TAG_VERDICT: "undecidable", schema.TAG_ADVICE: "continue"})
        self._describe(engine)
        journal = f" Journal: {self._journal}." if self._journal is not None else ""
        counting = "; ".join(sentence.rstrip(".") for sentence in self._counting)
        self._console.info(f"Scaling monitor: {counting}. {self._where}{journal}")

    def _params(self, sizes: BatchSizeMeter, counts: ParamCounts | None, engine: Monitor) -> dict[str, Any]:
        """Parameters of the run, for MLflow."""
        plan, settings = engine.plan, self._settings
        return {
            "unit": sizes.unit,
            "counting": sizes.sentences()[0],
            "flops.provenance": sizes.meter.provenance,
            "flops.note": sizes.meter.note or None,
            "plan.total_steps": self._total,
            "plan.source": plan.source,
            "plan.peak_lr": plan.peak,
            **{name: getattr(settings, name) for name in ("law", "alpha", "target", "monitor")},
            "measure": engine.metric.sentence or None,
            **{f"params.{key}": value for key, value in (counts.to_dict() if counts else {}).items()},
            **{f"versions.{name}": number for name, number in versions().items()},
        }

    def _origin(self) -> dict[str, Any]:
        """Where this journal holds what the run goes on from; where it does not, the state of the engine itself."""
        if self._state is None or self._journal is None:
            return {}
        if str(self._journal) == self._resumed.get("journal") and self._resumed.get("segment"):
            return {"resumed": {key: self._resumed.get(key) for key in ("segment", "rows")}}
        return {"state": to_builtins(self._state["engine"], nonfinite="text")}

    def prior_forecast(self, engine: Monitor) -> None:
        """Log and write the forecast that rests on past runs alone."""
        forecast = engine.forecast
        if self._tracker is None or forecast.trust == "none" or engine.forecast_log:
            return
        values = {"forecast": forecast.to_dict()}
        self._tracker.metrics(schema.metrics_of(values), 0)
        self._tracker.tags(schema.tags_of(values))
        lower, upper = forecast.interval(0.9)
        self._console.info(
            f"Scaling monitor: before the first update the final {engine.metric.name} is forecast at "
            f"{forecast.final:.4g} (90 % between {lower:.4g} and {upper:.4g}), trust {forecast.trust}: {forecast.why}."
        )

    def points(self, block: Block) -> None:
        """Keep a stretch of the curve in the journal."""
        if self._tracker is not None:
            self._tracker.points(**{**block.columns(), "seconds": None})

    def mark(self, reason: str, step: int, data: Mapping[str, Any] | None = None) -> None:
        """Write an event to the journal."""
        if self._tracker is not None:
            self._tracker.mark(reason, step, data)

    def resize(self, advice: Advice, *, notify: bool) -> None:
        """Write advice on size to the journal and the tags; with `notify`, pass it on as the user asked for."""
        if self._tracker is not None:
            kept = to_builtins(advice.to_dict())
            self._tracker.mark("resize", advice.step, {"kind": EventKind.RESIZE, **kept})
            following = kept["evidence"].get("next") or {}
            tags = {"action": advice.action, "reason": advice.reason, "saving": advice.saving, **following}
            self._tracker.tags({schema.TAG_RESIZE + key: value for key, value in tags.items()})
        if notify:
            self.advice(advice)

    def stop(self, decision: Mapping[str, Any], *, stopped: bool) -> None:
        """Log and write a decision to stop; in the tags only if the run is stopped."""
        if self._tracker is not None:
            kept = to_builtins(dict(decision))
            self._tracker.mark("stop", int(kept["step"]), {"kind": EventKind.STOP, "stopped": stopped, **kept})
            if stopped:
                self._tracker.tags({schema.TAG_STOP + key: kept[key] for key in schema.STOP_KEYS})
        done = "Stopping" if stopped else "Dry run, would stop"
        self._console.info(f"Scaling monitor: {done} at step {decision['step']:,}. {decision['reason']}")

    def update(self, update: Update, counters: Mapping[str, Any], step: int, engine: Monitor) -> None:
        """Write an update of the engine; ``step`` is the one Lightning's own metrics of that moment have."""
        if self._tracker is None:
            return
        data = update.to_dict()
        self._tracker.update(data)
        self._tracker.metrics(schema.metrics_of(data, counters), max(step, 0))
        self._tracker.tags(schema.tags_of(data))
        self._console.progress(data, self._total, engine.metric.name)
        self._advice, fraction = data["advice"], update.fraction
        if fraction is None or fraction >= self._described + _DESCRIBE_EVERY:
            self._described = fraction or 0.0
            self._describe(engine)

    def _describe(self, engine: Monitor, status: RunStatus = RunStatus.RUNNING) -> None:
        from lightning_scaling.report import description

        if self._tracker is not None:
            known = {"advice": self._advice, "counting": self._counting, "metric": engine.metric.name}
            self._tracker.note(description(engine.forecast_log, status=status, **known))

    def advice(self, advice: Advice) -> None:
        """Pass on advice that has changed, in the way the user asked for."""
        if not self.first:
            return
        way = self._settings.on_advice
        text = f"Scaling advice at step {advice.step:,}: {advice.action}. {advice.reason}"
        if callable(way):
            sentence = "`on_advice` raised {cause}; from now on advice is a warning, and training goes on."
            self._guard.run("on_advice", sentence, way, advice)
            way = "warn" if self._guard.has_failed("on_advice") else "ignore"
        if way == "warn" and advice.action != "continue":
            self._console.warn(text, ScalingAdviceWarning)
        elif way in ("warn", "log"):
            self._console.info(text)

    def close(
        self, engine: Monitor, fields: Mapping[str, Any], spent: Mapping[str, float], status: RunStatus, deadline: float
    ) -> None:
        """Write what belongs to the end of a run, figures while the time allows, and send what waits.

        Args:
            engine: The engine.
            fields: What is known of the run besides its curve.
            spent: The monitor's ``overhead`` as a fraction of the training time, and its ``setup_seconds``.
            status: How the run ended; of one that did not end in order nothing is fitted or drawn.
            deadline: Seconds given to all of this.
        """
        if self._tracker is None:
            return
        until = perf_counter() + deadline
        end = [engine, fields, status, until]
        self._guard.run("artifacts", "The artifacts are incomplete: {cause}", self._conclude, *end)
        least = 1.0 if status.complete else 0.0
        report = self._tracker.close(max(until - perf_counter(), least), status=status.value, **spent)
        self._tracker = None
        share = f"took {spent['overhead']:.2%} of the training time"
        self._console.info(f"Scaling monitor: {share}. {report.message}".rstrip())

    def _conclude(self, engine: Monitor, fields: Mapping[str, Any], status: RunStatus, until: float) -> None:
        from lightning_scaling.forecast.calibrated import forecast_log_of

        assert self._tracker is not None
        self._tracker.tags({schema.TAG_STATUS: status.value})
        if not status.complete and not engine.forecast_log:
            return
        self._describe(engine, status)
        if not status.complete:
            return
        if engine.metric.plain and len(engine.curve):  # for the calibration of later runs
            forecasts = forecast_log_of(engine.forecast_log, engine.run(**fields))
            if forecasts is not None:
                self._tracker.tags({schema.TAG_FORECASTS: json.dumps(forecasts, separators=(",", ":"))})
        if self._tracker.targets or self._tracker.journal_path is not None:
            write_artifacts(self._tracker.artifact, engine, fields, until)


def plan_sentence(plan: Plan) -> str:
    """What is known of the plan, for the first line of a run."""
    length = "no known end" if plan.total_steps is None else f"{plan.total_steps:,} steps"
    rate = f"learning rate up to {plan.peak:.3g}"
    return f"plan: {length}, {rate}" + (f" ({plan.why.rstrip('.')})" if plan.why else "")


def versions() -> dict[str, str]:
    """Versions of what a run depends on, Python included."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
