"""The recorded runs that the benchmarks read; they are not part of the project."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_scaling import Run


@dataclass(frozen=True)
class Recorded:
    """A recorded run with its label and its outcome."""

    id: str
    source: str
    family: str
    schedule: str
    label: str
    final_loss: float
    rate_known: bool
    run: Run


def folder() -> Path:
    """The folder named by LIGHTNING_SCALING_DATA, else ``../shared/data``; leaves with a message where it is absent."""
    path = Path(os.environ.get("LIGHTNING_SCALING_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not (path / "curves" / "runs.csv").exists():
        print(f"skipped: no recorded runs in {path.name!r} (set LIGHTNING_SCALING_DATA to the data folder)")
        sys.exit(0)
    return path


def curves(source: str | None = None) -> list[Recorded]:
    """All recorded runs of the folder ``curves``, or those of one source."""
    base = folder() / "curves"
    table = pd.read_csv(base / "runs.csv")
    rows = dict(tuple(pd.read_csv(base / "curves.csv.gz").groupby("run_id")))
    if source is not None:
        table = table[table.source == source]
    return [record(meta, rows[meta.run_id]) for meta in table.itertuples()]


def record(meta: tuple, rows: pd.DataFrame) -> Recorded:
    """One run from its line of ``runs.csv`` and its rows of ``curves.csv.gz``."""
    known = bool(rows.lr.notna().mean() > 0.5)
    rows = rows[rows.loss.notna() | (rows.lr.notna() if known else False)]
    run = Run(
        rows.step.to_numpy(),
        rows.loss.to_numpy(),
        np.maximum(rows.lr.to_numpy(), 0.0) if known else None,
        total_steps=int(meta.total_steps),
        params=None if pd.isna(meta.n_params) else int(meta.n_params),
        tokens_per_step=None if pd.isna(meta.tokens_per_step) else float(meta.tokens_per_step),
        family=meta.family,
        name=meta.run_id,
    )
    return Recorded(
        meta.run_id, meta.source, meta.family, meta.schedule, meta.label, float(meta.final_loss), known, run
    )


def scored(runs: list[Recorded]) -> list[Recorded]:
    """The runs of task B1: healthy, rates known, and of ``haegele_schaipp`` only the validation losses."""
    return [
        r
        for r in runs
        if r.label == "healthy" and r.rate_known and (r.source != "haegele_schaipp" or r.id.endswith("-val"))
    ]
