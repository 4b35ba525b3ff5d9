"""Console output of the monitor: short lines through :mod:`logging`, above the progress bar."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

_logger = logging.getLogger("lightning_scaling")
_TENTHS = 10


class ScalingAdviceWarning(UserWarning):
    """Advice of the monitor has changed; advice never stops a run."""


class _AboveProgressBar(logging.Handler):
    """Writes a line above the Trainer's progress bar instead of through it."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(logging.INFO)
        self._trainer = trainer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            bar = getattr(self._trainer, "progress_bar_callback", None)
            if bar is None or getattr(bar, "is_disabled", False):
                print(line, file=sys.stderr, flush=True)
            else:
                bar.print(line)
        except Exception:
            self.handleError(record)


class Console:
    """Lines and warnings of one monitor on one rank.

    If logging is not configured, lines go to the terminal above the progress bar; otherwise to the handlers there are.
    Ranks other than zero are silent.

    Args:
        first: Whether this is rank zero.
    """

    def __init__(self, first: bool) -> None:
        self._first = first
        self._handler: logging.Handler | None = None
        self._warned: set[str] = set()
        self._reached = -1

    def open(self, trainer: Any) -> None:
        """Choose where lines are shown."""
        if _logger.level == logging.NOTSET:
            _logger.setLevel(logging.INFO)
        if self._first and self._handler is None and not _logger.hasHandlers():
            self._handler = _AboveProgressBar(trainer)
            _logger.addHandler(self._handler)

    def close(self) -> None:
        """Stop showing lines above the progress bar."""
        if self._handler is not None:
            _logger.removeHandler(self._handler)
            self._handler = None

    def info(self, text: str) -> None:
        """Log a line at level INFO."""
        if self._first:
            _logger.info("%s", text)

    def warn(self, text: str, category: type[Warning] = UserWarning) -> None:
        """Warn."""
        if self._first:
            warn(text, category)

    def warn_once(self, topic: str, text: str) -> None:
        """Warn about a topic the first time it comes up."""
        if topic not in self._warned:
            self._warned.add(topic)
            self.warn(text)

    def progress(self, update: Mapping[str, Any], total_steps: int | None, metric: str = "loss") -> None:
        """Log where the run stands, at about each tenth of the run; without a plan, each time it has doubled."""
        fraction, step = update.get("fraction"), int(update["step"])
        reached = int(fraction * _TENTHS + 1e-9) if fraction is not None else int(math.log2(max(step, 1)))
        if reached > self._reached:
            self._reached = reached
            self.info(progress_line(update, total_steps, metric))


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """A Python warning that never turns into an exception, whatever the warning filters say."""
    try:
        warnings.warn(text, category, stacklevel=2)
    except Warning:
        _logger.warning("%s", text)


def progress_line(update: Mapping[str, Any], total_steps: int | None, metric: str = "loss") -> str:
    """One line on where a run stands.

    Args:
        update: An update as builtins: ``step``, ``fraction``, ``loss``, ``forecast``, ``deviation``.
        total_steps: Steps of the plan, if it has an end.
        metric: What to call that which is followed.

    Example:
        >>> forecast = {"final": 2.981, "lower": 2.942, "upper": 3.02, "trust": "low", "why": "nothing decayed yet"}
        >>> progress_line({"step": 500, "fraction": 0.25, "loss": 3.4, "forecast": forecast}, 2000)
        'step 500/2,000 (25%): loss 3.400, final 2.981 expected (90% 2.942 to 3.020), trust low: nothing decayed yet'
    """
    fraction = update.get("fraction")
    share = "" if total_steps is None or fraction is None else f"/{total_steps:,} ({fraction:.0%})"
    parts = [f"step {update['step']:,}{share}: {metric} {_short(update.get('loss'))}"]
    forecast = update.get("forecast") or {}
    trust = forecast.get("trust", "none")
    why = f": {forecast['why']}" if forecast.get("why") else ""
    if trust == "none":
        parts.append(f"no forecast yet{why}")
    else:
        at = "final" if total_steps is not None else f"at step {forecast.get('horizon', 0):,}"
        interval = f"(90% {_short(forecast.get('lower'))} to {_short(forecast.get('upper'))})"
        parts.append(f"{at} {_short(forecast.get('final'))} expected {interval}")
        if trust != "ok":
            parts.append(f"trust {trust}{why}")
    verdict = (update.get("deviation") or {}).get("verdict")
    if verdict and verdict != "undecidable":
        parts.append(str(verdict))
    return ", ".join(parts)


def _short(value: Any) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.4g}"
