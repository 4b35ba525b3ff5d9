"""Whom to suspect first when a run has left its path: the recipe before the size of the model."""

from __future__ import annotations

from typing import Literal

from lightning_scaling.advice.repeats import MANY
from lightning_scaling.advice.state import Situation

Cause = Literal[
    "batch",
    "data",
    "frozen layers",
    "leak",
    "learning rate",
    "marked change",
    "optimizer state",
    "precision",
    "repeated data",
    "warm-up",
]

_RECENT = 0.05
_BLOWN = 1.0


def likely_cause(s: Situation) -> Cause:
    """What the evidence speaks for most, where the run is off its path or diverges.

    What has been seen goes before what the shape of the losses suggests: gradients that are missing, an optimizer
    without its state, losses that were not finite, a change announced shortly before, data that begin anew right there
    or were gone over before a metric of held-out data got worse. Then the shape: a jump from one level to another is
    mostly the data's, a slow rise the learning rate's, a standstill that of layers that no longer learn, or the
    learning rate's where all layers were seen to have gradients.
    """
    d = s.deviation
    if s.divergence is None and d.alarm and not s.worse:
        return "leak" if s.held_out else "repeated data"
    if s.facts.get("idle"):
        return "frozen layers"
    if state_lost(s):
        return "optimizer state"
    if s.last_nonfinite is not None and s.step - s.last_nonfinite <= 2 * _RECENT * s.total:
        return "precision"
    if recent_mark(s):
        return "optimizer state" if _resume(s) else "marked change"
    if d.kind == "variance_increase":
        return "batch"
    if overfits(s) or pass_began(s):
        return "repeated data"
    if s.divergence is None and d.kind == "plateau":
        return "learning rate" if s.facts.get("tensors") else "frozen layers"
    if s.sudden is None:
        blown = s.divergence is not None and s.divergence.lost > _BLOWN
        shifted = s.divergence is None and d.kind == "level_shift"
        return "data" if blown or shifted else "learning rate"
    return "data" if s.sudden else "learning rate"


def state_lost(s: Situation) -> bool:
    """Whether the optimizer came back without its state not long ago."""
    lost = s.facts.get("state_lost")
    return lost is not None and s.step - lost <= 2 * _RECENT * s.total


def recent_mark(s: Situation) -> bool:
    """Whether what is wrong began right after an announced change or a resume."""
    if s.marked is None:
        return False
    since = s.divergence.since_step if s.divergence is not None else s.deviation.since_step
    return since is not None and 0 <= since - s.marked[0] <= _RECENT * s.total


def overfits(s: Situation) -> bool:
    """Whether a metric of held-out data gets worse bit by bit, or lags behind, on data gone over before.

    Up to four passes a mere lag speaks for nothing, as repeats are nearly as good as new data until then.
    """
    d = s.deviation
    if not (s.held_out and s.again and d.alarm and s.worse) or (d.kind == "level_shift" and s.sudden):
        return False
    if s.divergence is not None and (d.since_step is None or d.since_step >= s.divergence.since_step):
        return False
    return d.kind == "slow_divergence" or s.again.passes > MANY


def pass_began(s: Situation) -> bool:
    """Whether what is wrong began right where another pass over the data did."""
    return s.again is not None and s.again.boundary is not None


def _resume(s: Situation) -> bool:
    return s.marked is not None and s.marked[1].startswith("resumed")


def check(suspect: Cause, s: Situation) -> str:
    """What to check first, and then, as the second half of a sentence."""
    if suspect == "repeated data":
        return _check_repeats(s)
    half = str(s.facts.get("precision", "")).startswith("16")
    if suspect == "data":
        return (
            "check first the data that arrived since then (a damaged shard, wrong labels, inputs scaled in another "
            f"way), then the learning rate, then the precision{_and_repeats(s)}"
        )
    if suspect == "learning rate" and s.divergence is None and s.deviation.kind == "plateau":
        return (
            "check first the learning rate, which may have become too low (all "
            f"{s.facts.get('tensors', 0):,} parameter tensors that had a gradient still have one)"
            f"{_and_repeats(s) or ', then whether the data repeat'}"
        )
    if suspect == "learning rate":
        return (
            "check first the learning rate, which may be too high, then the precision and the clipping of gradients, "
            f"then the data{_and_repeats(s)}"
        )
    if suspect == "frozen layers":
        return (
            "check first whether layers are frozen or cut off from the loss, then whether the learning rate has become "
            f"too low{_and_repeats(s) or ', then whether the data repeat'}"
        )
    if suspect == "optimizer state":
        return (
            "check first whether the optimizer's state was restored at the resume, then whether the data go on where "
            "they had stopped"
        )
    if suspect == "marked change":
        step, reason = s.marked or (0, "")
        return f"check first what was announced at step {step:,} ({reason.rstrip('.')}), then the data"
    if suspect == "precision":
        kind = "half precision overflows" if half else "numbers overflow, as they do in half precision"
        return f"check first whether {kind}, then the learning rate, then the data"
    if suspect == "batch":
        return (
            "check first whether the batch has become smaller (fewer samples, ranks or accumulated batches), then the "
            "quality of the data, then the learning rate"
        )
    if suspect == "leak":
        return "check first whether data held out leak into training, then whether the metric or its data have changed"
    return "check first the warm-up, then the learning rate, then the data"


def _check_repeats(s: Situation) -> str:
    again = s.again
    began = pass_began(s)
    if again is None or (not s.worse and s.divergence is None):
        there = ", which began right there" if began else ""
        which = "" if again is None else f" (this is pass {again.number:,} over {again.data}{there})"
        return (
            f"check first whether the same data come again and again{which}, then whether the answer leaks into the "
            "inputs, then whether the loss is still computed as before"
        )
    if overfits(s) or (s.held_out and not began):
        best = "" if s.best is None else f", and the best so far was {s.best[1]:.4g} at step {s.best[0]:,}"
        return (
            "check first whether the training loss still gets better: the model then overfits (this is pass "
            f"{again.number:,} over {again.data}{best}), and new data or fewer passes help; then the learning rate, "
            "then whether the held-out data have changed"
        )
    where = f"begin anew right where the trouble did, at step {again.boundary:,}" if began else "come again"
    return (
        f"check first the data, which {where} ({again.told}): their order, their shuffling, a part that not every pass "
        "has; then the learning rate, then the precision"
    )


def _and_repeats(s: Situation) -> str:
    """The repeats as the last thing to check, where the run has left its path on data that it has seen before."""
    if s.again is None or s.divergence is not None or not (s.deviation.alarm and s.worse):
        return ""
    return f", then the repeats ({s.again.told})"
