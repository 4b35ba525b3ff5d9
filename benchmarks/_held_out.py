"""The held-out part of the benchmark of laws: fit the cheap runs of a ladder, predict the expensive ones."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from _baselines import textbook_interval
from _ladders import Ladder, isoflops, others

from lightning_scaling import laws

LEAST_FITTED, LEAST_HELD = 8, 3
BAND = (88.0, 98.0)
LEAST_JUDGED = 9  # held-out runs for a share of them to mean something


def rows_of(ladder: Ladder, factor: float, level: float = 0.95) -> dict | None:
    """Errors (%), coverage (%) and widths (% of the loss) on one ladder; None where too few runs are left."""
    cheap, dear = ladder.split(factor)
    if cheap.sum() < LEAST_FITTED or dear.sum() < LEAST_HELD:
        return None
    seen, asked = ladder.take(cheap), ladder.take(dear)
    loss = asked.pop("loss")
    plain = laws.get("chinchilla").fit(seen, objective="least_squares")
    lower, upper = textbook_interval(dict(plain.params), seen, asked, level)
    began = time.process_time()
    fit = laws.fit_ladder(seen)
    took = time.process_time() - began
    low, high = fit.interval(level, **asked)
    away = 100 * (fit.predict(**asked) / loss - 1)
    return {
        "set": ladder.name,
        "source": ladder.source,
        "isoflop": ladder.isoflop,
        "fitted": int(cheap.sum()),
        "held": int(dear.sum()),
        "plain": 100 * float(np.median(np.abs(plain.predict(**asked) / loss - 1))),
        "plain_held": 100 * float(np.mean((lower <= loss) & (loss <= upper))),
        "plain_width": 100 * float(np.median((upper - lower) / loss)),
        "error": float(np.median(np.abs(away))),
        "bias": float(np.median(away)),
        "covered": 100 * float(np.mean((low <= loss) & (loss <= high))),
        "width": 100 * float(np.median((high - low) / loss)),
        "ms": 1e3 * took,
    }


def held_out(factor: float, quick: bool) -> pd.DataFrame:
    """One line per ladder; in reduced form every third isoFLOP set and the first of the others."""
    every = [*isoflops()], [*others()]
    ladders = [*every[0][::3], *every[1][:2]] if quick else [*every[0], *every[1]]
    rows = [rows_of(ladder, factor) for ladder in ladders]
    return pd.DataFrame([row for row in rows if row is not None])


def by_source(table: pd.DataFrame) -> pd.DataFrame:
    """Means per source, over the isoFLOP sets, and over the sources."""
    columns = ["plain", "plain_held", "plain_width", "error", "bias", "covered", "width", "ms"]
    means = table.groupby("source")[columns].mean()
    means.insert(0, "sets", table.groupby("source").size())
    isoflop = table[table.isoflop]
    extra = pd.DataFrame(
        [
            {"sets": len(isoflop), **isoflop[columns].mean()},
            {"sets": len(table), **means[columns].mean()},
        ],
        index=["isoFLOP sets", "mean over sources"],
    )
    return pd.concat([means, extra])


def bands(table: pd.DataFrame, column: str) -> dict[str, int]:
    """How many sets hold too few, the right share, or too many of their runs, and how many are too small to tell."""
    low, high = BAND
    enough, share = table.held >= LEAST_JUDGED, table[column]
    return {
        "under": int((enough & (share < low)).sum()),
        "within": int((enough & share.between(low, high)).sum()),
        "over": int((enough & (share > high)).sum()),
        "small": int((~enough).sum()),
    }


def pooled(table: pd.DataFrame, column: str) -> float:
    """Share (%) of all held-out runs that lie in the interval."""
    return float(np.average(table[column], weights=table.held))
