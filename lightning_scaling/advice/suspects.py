"""Whom to suspect first when a run has left its path: the recipe before the size of the model."""

from __future__ import annotations

from typing import Literal

from lightning_scaling.advice.situation import Situation

Suspect = Literal[
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


def first_suspect(s: Situation) -> Suspect:
    """What the evidence speaks for most, where the run is off its path or diverges.

    What has been seen goes before what the shape of the losses suggests: gradients that are missing, an optimizer
    without its state, losses that were not finite, a change announced shortly before. Then the shape: a jump from one
    level to another is mostly the data's, a slow rise the learning rate's, a standstill that of layers that no longer
    learn, or the learning rate's where all layers were seen to have gradients.
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
    if d.kind == "noise growth":
        return "batch"
    if s.divergence is None and d.kind == "plateau":
        return "learning rate" if s.facts.get("tensors") else "frozen layers"
    if s.sudden is None:
        blown = s.divergence is not None and s.divergence.lost > _BLOWN
        shifted = s.divergence is None and d.kind == "level shift"
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


def _resume(s: Situation) -> bool:
    return s.marked is not None and s.marked[1].startswith("resumed")


def check(suspect: Suspect, s: Situation) -> str:
    """What to check first, and then, as the second half of a sentence."""
    half = str(s.facts.get("precision", "")).startswith("16")
    if suspect == "data":
        return (
            "check first the data that arrived since then (a damaged shard, wrong labels, inputs scaled in another "
            "way), then the learning rate, then the precision"
        )
    if suspect == "learning rate" and s.divergence is None and s.deviation.kind == "plateau":
        return (
            "check first the learning rate, which may have become too low, then whether the data repeat (all "
            f"{s.facts.get('tensors', 0):,} parameter tensors that had a gradient still have one)"
        )
    if suspect == "learning rate":
        return (
            "check first the learning rate, which may be too high, then the precision and the clipping of gradients, "
            "then the data"
        )
    if suspect == "frozen layers":
        return (
            "check first whether layers are frozen or cut off from the loss, then whether the learning rate has become "
            "too low, then whether the data repeat"
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
    if suspect == "warm-up":
        return "check first the warm-up, then the learning rate, then the data"
    passes = s.passes
    which = f" (this is pass {int(passes) + 1:,} over them)" if passes is not None and passes > 1 else ""
    return (
        f"check first whether the same data come again and again{which}, then whether the answer leaks into the "
        "inputs, then whether the loss is still computed as before"
    )
