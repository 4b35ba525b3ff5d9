"""Baselines that watch a loss without a forecast; each returns when it first speaks, or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Watcher = Callable[[np.ndarray, np.ndarray], float | None]
"""From times and losses of shape ``(n,)`` each."""


def early_stopping(min_delta: float, patience: int = 3) -> Watcher:
    """Lightning's EarlyStopping, asked every 2.5 % of the run: no value lower by ``min_delta`` than the best so far."""

    def watch(at: np.ndarray, loss: np.ndarray) -> float | None:
        best, waited = np.inf, 0
        for end in np.arange(0.075, 1.0001, 0.025):
            part = loss[(at > end - 0.025 + 1e-9) & (at <= end + 1e-9)]
            if not part.size:
                continue
            value = float(part.mean())
            if value < best - min_delta:
                best, waited = value, 0
            else:
                waited += 1
                if waited >= patience:
                    return float(end)
        return None

    return watch


def running_mean(at: np.ndarray, loss: np.ndarray) -> float | None:
    """A loss above the mean of the last twenty by three of their standard deviations."""
    for i in range(10, loss.size):
        last = loss[max(i - 20, 0) : i]
        if loss[i] > last.mean() + 3 * last.std():
            return float(at[i])
    return None


def page_hinkley(at: np.ndarray, loss: np.ndarray, *, slack: float = 0.5, limit: float = 10.0) -> float | None:
    """Page (1954): the sum of rises above the running mean, in standard deviations of the first ten differences."""
    if loss.size < 12:
        return None
    unit = float(np.std(np.diff(loss[:11]))) / np.sqrt(2) + 1e-12
    mean, total, least = float(loss[0]), 0.0, 0.0
    for i in range(1, loss.size):
        mean += (loss[i] - mean) / (i + 1)
        total += (loss[i] - mean) / unit - slack
        least = min(least, total)
        if total - least > limit:
            return float(at[i])
    return None


def adwin(at: np.ndarray, loss: np.ndarray, *, delta: float = 0.002) -> float | None:
    """Bifet and Gavalda (2007): a window cut wherever the means of its parts differ; only a rise speaks."""
    start = 0
    for end in range(10, loss.size + 1):
        cut = True
        while cut:
            cut = False
            window = loss[start:end]
            n, variance = window.size, float(window.var())
            for split in range(5, n - 4):
                left, right = window[:split], window[split:]
                m = 1 / (1 / left.size + 1 / right.size)
                log = np.log(2 * np.log(max(n, 3)) / delta)
                if abs(left.mean() - right.mean()) > np.sqrt(2 / m * variance * log) + 2 / (3 * m) * log * np.sqrt(
                    variance
                ):
                    if right.mean() > left.mean():
                        return float(at[end - 1])
                    start, cut = start + split, True
                    break
    return None


BASELINES: dict[str, Watcher] = {
    "EarlyStopping": early_stopping(0.0),
    "EarlyStopping .001": early_stopping(0.001),
    "mean + 3 sd": running_mean,
    "Page-Hinkley": page_hinkley,
    "ADWIN": adwin,
}
