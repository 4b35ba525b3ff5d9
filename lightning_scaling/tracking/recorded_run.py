"""A journal as a ``RecordedRun``, from which a replay says again what was said live."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling.runs.curve import LossBlock
from lightning_scaling.runs.events import (
    ChangeMarked,
    DiagnosticsReported,
    Event,
    LossesObserved,
    PlanReplaced,
    PriorLearned,
    RecordedRun,
    RunStarted,
    UpdateMade,
)
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.tracking.journal import ANNOUNCED, HISTORY, NOTED, PLAN, RESUMED, being_written
from lightning_scaling.tracking.journal_reader import JournalContents, read_journal

_FED = ("step", "loss", "lr", "tokens", "flops")
_RESUMED_AT = "resumed at step "
_SILENT = ("points-stopped", "resize", "rows-lost", "stop")


def run_from_journal(path: str | os.PathLike[str]) -> RecordedRun:
    """Read the journal of a run; see :meth:`lightning_scaling.Run.from_journal`."""
    contents = read_journal(Path(path))
    try:
        return _recording(Path(path), contents)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: a row of it lacks {error}.") from error
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _recording(path: Path, contents: JournalContents) -> RecordedRun:
    kept = _kept(contents)
    points = _columns([row for row in kept.rows if row["op"] == "points"])
    if not np.isfinite(points["loss"]).any():
        raise ValueError(f"{path} holds no finite loss, so there is nothing to replay.")
    first, last = kept.headers[0], kept.headers[-1]
    events = _events(kept)
    plan = next(event.plan for event in reversed(events) if isinstance(event, RunStarted | PlanReplaced))
    steps = points["step"].astype(np.int64)
    known, told = last.get("settings", {}), _told(last)
    ended = contents.end is not None
    learned = [event for event in events if isinstance(event, PriorLearned)]
    return RecordedRun(
        steps,
        np.where(np.isfinite(points["loss"]), points["loss"], np.inf),
        points["lr"] if np.isfinite(points["lr"]).any() else None,
        events=events,
        settings=told,
        said=[row["data"] for row in kept.rows if row["op"] == "update"],
        gaps=kept.gaps,
        total_steps=plan.total_steps or max(int(steps[-1]), 1),
        planned_lr=(plan.steps, plan.lr),
        params=told["params"],
        tokens_per_step=_each(points["tokens"], steps),
        flops_per_step=_each(points["flops"], steps),
        name=last.get("name") or first.get("name") or path.stem,
        meta={
            "journal": str(path),
            "metric": told["monitor"] or "loss",
            "unit": known.get("unit"),
            "steps": "optimizer steps",
            "status": "FINISHED" if ended else "RUNNING" if being_written(path) else "FAILED",
            "start_time": contents.segments[0].time,
            "end_time": contents.end["t"] if contents.end else None,
            "plan": {"known": plan.known, "why": plan.why, "source": plan.source},
            **{name: told[name] for name in ("mode", "bounds") if name in told},
            "open_ended": plan.total_steps is None,
            "settings": told,
            "learned": [
                {"step": one.step, "source": one.source, "run_ids": list(one.runs), "runs": len(one.runs)}
                for one in learned
            ],
            "run_id": next((t["run_id"] for s in contents.segments for t in s.targets if t.get("run_id")), None),
        },
    )


class _Kept:
    """The rows that led to where the run is now, those of abandoned attempts left out.

    Attributes:
        rows: The rows, in order.
        headers: What the headers among them say of the run.
        gaps: Sentences on what is missing.
    """

    def __init__(self, rows: list[dict[str, Any]], gaps: list[str]) -> None:
        self.rows = rows
        self.headers: list[dict[str, Any]] = [row.get("data", {}) for row in rows if row["op"] == "header"]
        self.gaps = gaps


def _kept(contents: JournalContents) -> _Kept:
    """Follow the run back from its last segment to its first, from checkpoint to checkpoint."""
    gaps: list[str] = []
    if contents.damaged:
        gaps.append(f"{_counted(contents.damaged, 'line')} of the journal cannot be read")
    segments = {one.id: [row for row in contents.rows if row["segment"] == one.id] for one in contents.segments}
    order = [one.id for one in contents.segments]
    current, until = order[-1], math.inf
    chain: list[dict[str, Any]] = []
    while True:
        rows = [row for row in segments[current] if row["n"] < until]
        chain = [*rows, *chain]
        header = rows[0].get("data", {}) if rows else {}
        before = order[: order.index(current)]
        if "resumed" in header:
            current, until = header["resumed"]["segment"], header["resumed"]["rows"]
            if current not in before:
                gaps.append("the run went on from a checkpoint that the journal does not hold")
                break
        elif (resumed := _resumed_at(rows)) is None or "state" in header or not before:
            break
        else:  # written before headers said where a run goes on from
            current = before[-1]
            beyond = (row["n"] for row in segments[current] if row["op"] == "points" and row["step"][0] > resumed)
            until = next(beyond, math.inf)
    for row in chain:
        if row["op"] == "mark" and row["reason"] == "points-stopped":
            gaps.append(f"from step {row.get('step'):,} on the journal was full and holds no losses")
        elif row["op"] == "mark" and row["reason"] == "rows-lost":
            gaps.append("a full disk has cost the journal some rows")
    return _Kept(chain, gaps)


def _resumed_at(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The step at which a segment goes on, by its mark; ``None`` for one that began a run."""
    for row in rows:
        if row["op"] == "points":
            break
        if row["op"] == "mark" and str(row["reason"]).startswith(_RESUMED_AT):
            return int(str(row["reason"]).removeprefix(_RESUMED_AT))
    return None


def _events(kept: _Kept) -> list[Event]:
    events: list[Event] = []
    begun = False
    for row in kept.rows:
        if row["op"] == "header":
            data = row.get("data", {})
            state = data.get("state")
            plan = Plan.from_dict(data["plan"]) if data.get("plan") else Plan.constant(known=False, why="no plan")
            events.append(RunStarted(plan, begun and state is None, state, data.get("engine", {}).get("next_update")))
            begun = True
        elif row["op"] == "points":
            events.append(LossesObserved(LossBlock.of(**{name: _array(row[name]) for name in _FED if name in row})))
        elif row["op"] == "update":
            step = int(row["data"]["step"])
            seen = events[-1]
            if isinstance(seen, LossesObserved):
                events[-1] = LossesObserved(seen.block, (*seen.updates, step))
            else:
                events.append(UpdateMade(step))
        elif row["reason"] not in _SILENT:
            events.append(_mark(row))
    return events


def _mark(row: Mapping[str, Any]) -> Event:
    data = row.get("data") or {}
    kind = data.get("kind") or _guessed(row["reason"], data)
    if kind == HISTORY:
        runs = tuple(str(one) for one in data.get("runs", ()))
        source = str(data.get("source") or "past runs")
        return PriorLearned(int(row.get("step") or 0), source, runs, data.get("calibration"))
    if kind == NOTED:
        return DiagnosticsReported(data["facts"])
    if kind == PLAN:
        return PlanReplaced(Plan.from_dict(data["plan"]))
    return ChangeMarked(str(row["reason"]), bool(data.get("follow_rates")))


def _guessed(reason: str, data: Mapping[str, Any]) -> str:
    """What a mark is that was written before marks said so."""
    if reason == "history" and "runs" in data:
        return HISTORY
    return RESUMED if reason.startswith(_RESUMED_AT) else ANNOUNCED


def _told(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the monitor was told, as arguments of :class:`~lightning_scaling.engine.monitor.Monitor`."""
    settings, engine = header.get("settings", {}), header.get("engine", {})
    old = {
        "alpha": settings.get("alpha", 0.01),
        "target": settings.get("target"),
        "params": (header.get("params") or {}).get("total"),
        "monitor": settings.get("monitor"),
    }
    told = {**old, **{name: engine[name] for name in (*old, "mode", "bounds", "unique_tokens") if name in engine}}
    return told


def _columns(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for name in _FED:
        parts = [_array(block.get(name, [None] * len(block["step"]))) for block in blocks]
        found[name] = np.concatenate([np.empty(0), *parts])
    return found


def _array(column: Sequence[Any]) -> Any:
    return np.array([math.nan if value is None else value for value in column], dtype=np.float64)


def _each(total: Any, steps: Any) -> float | None:
    known = np.flatnonzero(np.isfinite(total) & (total > 0))
    return float(total[known[-1]] / steps[known[-1]]) if known.size else None


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
