"""Likely causes of a deviation or a divergence, the training recipe before the size of the model."""

from __future__ import annotations

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling.advice.config import DEFAULT, CausesConfig
from lightning_scaling.advice.state import RunState


class Cause(StrEnum):
    """What may be wrong with a run."""

    BATCH = "batch"
    DATA = "data"
    FROZEN_LAYERS = "frozen_layers"
    LEAK = "leak"
    LEARNING_RATE = "learning_rate"
    MARKED_CHANGE = "marked_change"
    OPTIMIZER_STATE = "optimizer_state"
    PRECISION = "precision"
    REPEATED_DATA = "repeated_data"
    WARMUP = "warmup"

    @property
    def label(self) -> str:
        """The cause within a sentence."""
        return self.value.replace("_", " ")


def likely_cause(s: RunState, config: CausesConfig = DEFAULT.causes) -> Cause:
    """The cause that the evidence speaks for most, where the run is off its path or diverges.

    What has been seen goes before what the shape of the losses suggests: gradients that are missing, an optimizer
    without its state, losses that were not finite, a change announced shortly before, data that begin anew right there
    or were gone over before a metric of held-out data got worse. Then the shape: a jump from one level to another is
    mostly the data's, a slow rise the learning rate's, a standstill that of layers that no longer learn, or the
    learning rate's where all layers were seen to have gradients.
    """
    d, gone = s.deviation, s.divergence
    recent = config.event_share * s.planned_steps
    marked, mark = _recent_mark(s, config)
    blown_up = gone is not None and gone.lost > config.blown_up
    plateau = gone is None and d.kind == "plateau"
    shifted = blown_up or (gone is None and d.kind == "level_shift")
    evidence = (
        (gone is None and d.alarm and not s.worse, Cause.LEAK if s.held_out else Cause.REPEATED_DATA),
        (s.facts.get("idle"), Cause.FROZEN_LAYERS),
        (state_lost(s, config), Cause.OPTIMIZER_STATE),
        (s.last_nonfinite is not None and s.step - s.last_nonfinite <= recent, Cause.PRECISION),
        (marked, Cause.OPTIMIZER_STATE if mark.startswith("resumed") else Cause.MARKED_CHANGE),
        (d.kind == "variance_increase", Cause.BATCH),
        (overfits(s, config) or pass_began(s), Cause.REPEATED_DATA),
        (plateau, Cause.LEARNING_RATE if s.facts.get("tensors") else Cause.FROZEN_LAYERS),
        (shifted if s.abrupt is None else s.abrupt, Cause.DATA),
    )
    return next((cause for holds, cause in evidence if holds), Cause.LEARNING_RATE)


def state_lost(s: RunState, config: CausesConfig = DEFAULT.causes) -> bool:
    """Whether the optimizer came back without its state not long ago."""
    lost = s.facts.get("state_lost")
    return lost is not None and s.step - lost <= config.event_share * s.planned_steps


def _recent_mark(s: RunState, config: CausesConfig) -> tuple[bool, str]:
    """Whether the trouble began right after an announced change or a resume, and the reason given for that."""
    since = s.divergence.since_step if s.divergence is not None else s.deviation.since_step
    if s.marked is None or since is None:
        return False, ""
    return 0 <= since - s.marked[0] <= config.change_share * s.planned_steps, s.marked[1]


def overfits(s: RunState, config: CausesConfig = DEFAULT.causes) -> bool:
    """Whether a metric of held-out data gets worse bit by bit, or lags behind, on data gone over before.

    Up to four passes a mere lag speaks for nothing, as repeats are nearly as good as new data until then.
    """
    d = s.deviation
    if not (s.held_out and s.repeated and d.alarm and s.worse) or (d.kind == "level_shift" and s.abrupt):
        return False
    if s.divergence is not None and (d.since_step is None or d.since_step >= s.divergence.since_step):
        return False
    return d.kind == "slow_divergence" or s.repeated.passes > config.few_passes


def pass_began(s: RunState) -> bool:
    """Whether the trouble began right where another pass over the data did."""
    return s.repeated is not None and s.repeated.boundary is not None


def check(cause: Cause, s: RunState) -> str:
    """What to check first, and then, as the second half of a sentence."""
    off_path = s.divergence is None and s.deviation.alarm and s.worse
    # The repeats are the last thing to check where the run has left its path on data that it has seen before.
    repeats = f", then the repeats ({s.repeated.clause})" if s.repeated is not None and off_path else ""
    if cause == Cause.REPEATED_DATA:
        return f"check first {_repeats(s)}"
    if cause == Cause.LEARNING_RATE and s.divergence is None and s.deviation.kind == "plateau":
        return (
            "check first the learning rate, which may have become too low (all "
            f"{s.facts.get('tensors', 0):,} parameter tensors that had a gradient still have one)"
            f"{repeats or _OR_REPEATS}"
        )
    if cause == Cause.MARKED_CHANGE:
        step, reason = s.marked or (0, "")
        return f"check first what was announced at step {step:,} ({reason.rstrip('.')}), then the data"
    if cause == Cause.PRECISION:
        half = str(s.facts.get("precision", "")).startswith("16")
        kind = "half precision overflows" if half else "numbers overflow, as they do in half precision"
        return f"check first whether {kind}, then the learning rate, then the data"
    last = repeats if cause in (Cause.DATA, Cause.LEARNING_RATE, Cause.FROZEN_LAYERS) else ""
    return f"check first {_CHECKS[cause]}{last or (_OR_REPEATS if cause == Cause.FROZEN_LAYERS else '')}"


_OR_REPEATS = ", then whether the data repeat"
_CHECKS = {
    Cause.DATA: (
        "the data that arrived since then (a damaged shard, wrong labels, inputs scaled in another way), then the "
        "learning rate, then the precision"
    ),
    Cause.LEARNING_RATE: (
        "the learning rate, which may be too high, then the precision and the clipping of gradients, then the data"
    ),
    Cause.FROZEN_LAYERS: (
        "whether layers are frozen or cut off from the loss, then whether the learning rate has become too low"
    ),
    Cause.OPTIMIZER_STATE: (
        "whether the optimizer's state was restored at the resume, then whether the data go on where they had stopped"
    ),
    Cause.BATCH: (
        "whether the batch has become smaller (fewer samples, ranks or accumulated batches), then the quality of the "
        "data, then the learning rate"
    ),
    Cause.LEAK: "whether data held out leak into training, then whether the metric or its data have changed",
    Cause.WARMUP: "the warm-up, then the learning rate, then the data",
}


def _repeats(s: RunState) -> str:
    repeats, began = s.repeated, pass_began(s)
    if repeats is None or (not s.worse and s.divergence is None):
        there = ", which began right there" if began else ""
        which = "" if repeats is None else f" (this is pass {repeats.number:,} over {repeats.data}{there})"
        return (
            f"whether the same data come again and again{which}, then whether the answer leaks into the inputs, then "
            "whether the loss is still computed as before"
        )
    if overfits(s) or (s.held_out and not began):
        best = "" if s.best is None else f", and the best so far was {s.best[1]:.4g} at step {s.best[0]:,}"
        return (
            f"whether the training loss still gets better: the model then overfits (this is pass {repeats.number:,} "
            f"over {repeats.data}{best}), and new data or fewer passes help; then the learning rate, then whether the "
            "held-out data have changed"
        )
    where = f"begin anew right where the trouble did, at step {repeats.boundary:,}" if began else "come again"
    return (
        f"the data, which {where} ({repeats.clause}): their order, their shuffling, a part that not every pass has; "
        "then the learning rate, then the precision"
    )
