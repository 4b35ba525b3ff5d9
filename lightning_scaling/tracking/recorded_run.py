"""A journal as a ``RecordedRun``, from which a replay says again what was said live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.formatting import plural
from lightning_scaling._utils.serialization import with_nonfinite
from lightning_scaling.runs import events as happened
from lightning_scaling.runs.events import Event, LossesObserved, PriorLearned, RecordedRun, RunStarted
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.tracking.journal import EventKind, being_written
from lightning_scaling.tracking.journal_reader import JournalContents, read_journal
from lightning_scaling.tracking.schema import RunStatus


def run_from_journal(path: str | os.PathLike[str]) -> RecordedRun:
    """Read the journal of a run; see :meth:`lightning_scaling.Run.from_journal`."""
    contents = read_journal(Path(path))
    try:
        return _recorded_run(contents)
    except (KeyError, TypeError) as error:
        lacks = "a row of it lacks " if isinstance(error, KeyError) else ""
        raise ValueError(f"{path} is damaged: {lacks}{error}.") from error


def _recorded_run(contents: JournalContents) -> RecordedRun:
    path, points = contents.path, contents.points
    if not np.isfinite(points.loss).any():
        raise ValueError(f"{path} holds no finite loss, so there is nothing to replay.")
    rows = contents.current
    headers = [row.get("data", {}) for row in rows if row["op"] == "header"]
    events = _events(rows)
    plan = next(event.plan for event in reversed(events) if isinstance(event, RunStarted | happened.PlanReplaced))
    header = headers[-1]
    settings = {name: value for name, value in header.get("engine", {}).items() if name != "next_update"}
    lr = points.filled("lr")
    steps = points.step.astype(np.int64)
    if contents.end is None:
        status = "RUNNING" if being_written(path) else "FAILED"
    else:
        status = "FINISHED" if RunStatus(contents.end.get("status", RunStatus.FINISHED)).complete else "FAILED"
    return RecordedRun(
        steps,
        np.where(np.isfinite(points.loss), points.loss, np.inf),
        lr if np.isfinite(lr).any() else None,
        events=events,
        settings=settings,
        said=[row["data"] for row in rows if row["op"] == "update"],
        gaps=_gaps(contents, headers[0]),
        total_steps=plan.total_steps or max(int(steps[-1]), 1),
        planned_lr=(plan.steps, plan.lr),
        params=settings.get("params"),
        tokens_per_step=_per_step(points.filled("tokens"), points.step),
        flops_per_step=_per_step(points.filled("flops"), points.step),
        name=header.get("name") or headers[0].get("name") or path.stem,
        meta={
            "journal": str(path),
            "metric": settings.get("monitor") or "loss",
            "unit": header.get("settings", {}).get("unit"),
            "steps": "optimizer steps",
            "status": status,
            "start_time": contents.segments[0].time,
            "end_time": contents.end["t"] if contents.end else None,
            "plan": {"known": plan.known, "why": plan.why, "source": plan.source},
            **{name: settings[name] for name in ("mode", "bounds") if name in settings},
            "open_ended": plan.total_steps is None,
            "settings": settings,
            "learned": [
                {"step": event.step, "source": event.source, "run_ids": list(event.runs), "runs": len(event.runs)}
                for event in events
                if isinstance(event, PriorLearned)
            ],
            "run_id": next((t["run_id"] for s in contents.segments for t in s.targets if t.get("run_id")), None),
        },
    )


def _gaps(contents: JournalContents, first: Mapping[str, Any]) -> list[str]:
    """Sentences on what the journal lacks; `first` is the header at which the run begins."""
    gaps = []
    if contents.damaged:
        gaps.append(f"{plural(contents.damaged, 'line')} of the journal cannot be read")
    if "resumed" in first:
        gaps.append("the run went on from a checkpoint that the journal does not hold")
    for row in contents.current:
        if _kind(row) == EventKind.POINTS_STOPPED:
            gaps.append(f"from step {row['step']:,} on the journal was full and holds no losses")
        elif _kind(row) == EventKind.ROWS_LOST:
            gaps.append("a full disk has cost the journal some rows")
    return gaps


def _events(rows: list[dict[str, Any]]) -> list[Event]:
    events: list[Event] = []
    for row in rows:
        if row["op"] == "header":
            data = row.get("data", {})
            state = with_nonfinite(data.get("state"))
            plan = Plan.from_dict(data["plan"]) if data.get("plan") else Plan.constant(known=False, why="no plan")
            resumed = bool(events) and state is None
            events.append(RunStarted(plan, resumed, state, data.get("engine", {}).get("next_update")))
        elif row["op"] == "points":
            events.append(LossesObserved(row["block"]))
        elif row["op"] == "update":
            step, last = int(row["data"]["step"]), events[-1]
            if isinstance(last, LossesObserved):
                events[-1] = LossesObserved(last.block, (*last.updates, step))
            else:
                events.append(happened.UpdateMade(step))
        elif row["op"] == "mark":
            events += _marked(row)
    return events


def _marked(row: Mapping[str, Any]) -> list[Event]:
    """What a mark says to the monitor; nothing where it was only written down."""
    kind, data = _kind(row), row.get("data", {})
    if kind == EventKind.PRIOR:
        runs = tuple(str(one) for one in data.get("runs", ()))
        source = str(data.get("source") or "past runs")
        return [PriorLearned(int(row.get("step") or 0), source, runs, data.get("calibration"))]
    if kind == EventKind.DIAGNOSTICS:
        return [happened.DiagnosticsReported(data["facts"])]
    if kind == EventKind.PLAN:
        return [happened.PlanReplaced(Plan.from_dict(data["plan"]))]
    if kind in (EventKind.CHANGE, EventKind.RESUME):
        resumed = kind == EventKind.RESUME
        return [happened.ChangeMarked(str(row["reason"]), bool(data.get("follow_rates")), resumed)]
    return []


def _kind(row: Mapping[str, Any]) -> str | None:
    return row["data"].get("kind") if row["op"] == "mark" and row.get("data") else None


def _per_step(total: NDArray[np.float64], steps: NDArray[np.float64]) -> float | None:
    known = np.flatnonzero(np.isfinite(total) & (total > 0))
    return float(total[known[-1]] / steps[known[-1]]) if known.size else None
