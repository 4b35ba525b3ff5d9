"""The description of a run in Markdown: what its page in MLflow says at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_scaling.report.forecast_table import checkpoints, digits, forecasts, known, percent
from lightning_scaling.tracking.schema import RunStatus

_VERDICTS = {
    "on track": "on track",
    "deviating": "**off its forecast**",
    "undecidable": "too early to say",
}
_LONGEST_SENTENCE = 500
_ENDINGS = {RunStatus.INTERRUPTED: "was interrupted", RunStatus.UNKNOWN: "was last seen"}
_HEADLINES = {
    "continue": "Carry on",
    "investigate": "Investigate",
    "stop": "Stop",
    "resize": "Resize",
}


def description(
    ledger: Sequence[Mapping[str, Any]],
    *,
    advice: Mapping[str, Any] | None = None,
    counting: Sequence[str] = (),
    status: RunStatus = RunStatus.RUNNING,
    metric: str = "loss",
) -> str:
    """Status, forecast, trust, advice and what is counted, in a screen of Markdown.

    Args:
        ledger: The forecasts made so far, oldest first, as rows of ``Monitor.forecast_log``.
        advice: The latest advice as builtins (``Advice.to_dict()``: ``action``, ``reason`` and, when they are numbers,
            ``saving`` as a fraction of the planned compute and ``cost`` in units of the loss).
        counting: Sentences that say what is counted and how (samples or tokens, FLOPs, learning rate).
        status: Whether and how the run has ended; the forecasts of one that has are shown against its outcome.
        metric: What to call that which is followed.

    Returns:
        Markdown of well under 8000 characters, the most that MLflow keeps of a description.
    """
    finished = status != RunStatus.RUNNING
    parts = [_status(ledger, status, metric)]
    if advice is not None and not (finished and advice.get("action") == "continue"):
        parts.append(_advice(advice, metric))
    if finished:
        parts.append(_outcomes(ledger))
    if counting:
        parts.append("**What is counted**\n\n" + "\n".join(f"- {_sentence(line)}" for line in counting[:8]))
    parts.append(
        "Figures, the curve and every forecast: tab *Artifacts*, folder `scaling`. Charts: tab *Model metrics*; for "
        "loss against compute add a line chart of `scaling/loss` with the metric `scaling/log10_flops` as its x-axis."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _status(ledger: Sequence[Mapping[str, Any]], status: RunStatus, metric: str) -> str:
    finished = status != RunStatus.RUNNING
    if not ledger:
        ended = "The run ended before" if finished else "Nothing yet:"
        return f"### No forecast\n\n{ended} the first forecast, which needs a few hundred steps past the warm-up."
    row = ledger[-1]
    where = f"step {row['step']:,}"
    if row.get("fraction") is not None:
        where += f" ({row['fraction']:.0%} of the plan)"
    verdict = _VERDICTS.get(str(row.get("verdict")), str(row.get("verdict")))
    if finished and known(row, "outcome") is not None:
        lines = [
            f"### Final {metric} {digits(row['outcome'])}",
            f"The run ended at {where}; at the end it was {verdict}.",
        ]
    elif not forecasts([row]):
        return (
            f"### No forecast yet\n\nAt {where}, {metric} {_number(row, 'loss')}: {_clip(row.get('why') or verdict)}."
        )
    else:
        span = f"{_number(row, 'lower')} to {_number(row, 'upper')}"
        horizon = f" at step {row['horizon']:,}" if row.get("horizon") is not None else ""
        interval = f"{row.get('level', 0.9):.0%} interval **{span}**"
        now = f"at {where}, {metric} {_number(row, 'loss')}: {verdict}."
        if finished:
            ended = _ENDINGS.get(status, "stopped early")
            expected = f"Expected{horizon} was {digits(row['final'])}, {interval}."
            lines = [f"### Ended early, {metric} {_number(row, 'loss')}", f"The run {ended} {now} {expected}"]
        else:
            lines = [f"### Final {metric}: {digits(row['final'])} expected", f"{interval}{horizon}. Now {now}"]
    trust = row.get("trust")
    if trust != "ok" and not finished:
        why = f": {_clip(row['why']).rstrip('.')}" if row.get("why") else ""
        lines.append(f"Trust in this forecast: **{trust}**{why}.")
    if row.get("law"):
        lines.append(f"Law: {row['law']}.")
    return "\n\n".join(lines[:2]) + "".join(f" {line}" for line in lines[2:])


def _advice(advice: Mapping[str, Any], metric: str) -> str:
    action = str(advice.get("action"))
    text = f"**Advice: {_HEADLINES.get(action, action)}.** {_clip(advice.get('reason') or '')}".strip()
    saving, cost = advice.get("saving"), advice.get("cost")
    if action == "stop" and saving:
        text += f" Saves {saving:.0%} of the planned compute"
        text += f", gives up {cost:.3g} of {metric}." if cost else "."
    return text


def _outcomes(ledger: Sequence[Mapping[str, Any]]) -> str:
    """Forecasts against what came, as a list: MLflow shows tables without any space between their columns."""
    rows = [row for row in checkpoints(forecasts(ledger)) if known(row, "outcome") is not None]
    return "\n".join(
        f"- After {row['fraction']:.0%} the forecast was {digits(row['final'])} "
        f"({_number(row, 'lower')} to {_number(row, 'upper')}): off by {percent(row.get('error'))}."
        for row in rows
    )


def _number(row: Mapping[str, Any], key: str) -> str:
    value = known(row, key)
    return "unknown" if value is None else digits(value)


def _sentence(text: str) -> str:
    text = _clip(text.strip())
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _clip(sentence: Any) -> str:
    text = str(sentence)
    return text if len(text) <= _LONGEST_SENTENCE else text[: _LONGEST_SENTENCE - 1] + "…"
