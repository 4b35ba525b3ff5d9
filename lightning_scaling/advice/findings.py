"""What there is to say about a run: one function for each finding, the gravest first."""

from __future__ import annotations

import math
from dataclasses import asdict

from lightning_scaling.advice.batch_size import amount, steps_by_noise
from lightning_scaling.advice.causes import Cause, check, overfits, state_lost
from lightning_scaling.advice.result import Advice
from lightning_scaling.advice.state import Situation

_NONFINITE_STOP = 20
_RATE_OFF = 0.05
_BATCH_OFF = 1.25
_MISS = 0.95
_EARLY = 0.1


def findings(s: Situation, suspect: Cause) -> Advice:
    """The gravest finding.

    Args:
        s: The situation.
        suspect: Whom to suspect first where the losses alone must tell.
    """
    for finding in (_not_finite, _diverged, _rate, _state_lost, _frozen, _deviates, _behind, _off_rate, _misses_target):
        advice = finding(s, suspect)
        if advice is not None:
            return advice
    return _on_track(s)


def saving(s: Situation) -> str:
    """What stopping now saves, as a sentence of its own."""
    return "" if s.fraction is None else f" Stopping now saves {s.left:.0%} of the planned compute."


def _at_stake(s: Situation, excess: float) -> str:
    """What it costs to go on like this, as a sentence of its own."""
    still = "" if s.fraction is None else f", and {s.left:.0%} of the planned compute is still to be spent"
    return f" If nothing changes, the run ends about {abs(excess):.2g} {'higher' if excess > 0 else 'lower'}{still}."


def _not_finite(s: Situation, suspect: Cause) -> Advice | None:
    if s.nonfinite_tail >= _NONFINITE_STOP:
        first = s.step - s.nonfinite_tail + 1
        return Advice(
            "stop",
            f"The last {s.nonfinite_tail:,} {s.values}, since about step {first:,}, are not finite: the weights are "
            f"very likely lost. Go back to a checkpoint from before that step; {check('precision', s)}.{saving(s)}",
            {"nonfinite_tail": s.nonfinite_tail, "first_step": first, "suspect": "precision"},
            saving=s.left,
            cost=0.0,
            confidence=0.99,
            step=s.step,
        )
    if s.nonfinite:
        word = "loss" if s.nonfinite == 1 and s.metric == "loss" else s.values
        before = max(s.nonfinite_before, s.nonfinite)
        return Advice(
            "investigate",
            f"{s.nonfinite:,} {word} before step {s.step:,} came out not finite ({before:,} in the whole run): one "
            f"may be a bad batch; if more follow, {check('precision', s)}.",
            {"nonfinite": s.nonfinite, "nonfinite_before": before, "suspect": "precision"},
            confidence=0.99,
            step=s.step,
        )
    return None


def _diverged(s: Situation, suspect: Cause) -> Advice | None:
    d = s.divergence
    if d is None:
        return None
    evidence = {"since_step": d.since_step, "lost": d.lost, "best": d.best, "loss": s.loss, "kind": "divergence"}
    evidence["suspect"] = suspect
    back = "back up" if s.mode == "min" else "back down"
    since = f"{s.the} has gone from {d.best:.4g} {back} to {s.loss:.4g} since step {d.since_step:,}"
    if d.lasting:
        return Advice(
            "stop",
            f"{since} and stays there: {d.lost:.0%} of what the run had gained is lost. Go back to a checkpoint from "
            f"before that step; {check(suspect, s)}.{saving(s)}",
            evidence,
            saving=s.left,
            cost=None,
            confidence=0.95,
            step=s.step,
        )
    return Advice(
        "investigate",
        f"{since}, {d.lost:.0%} of what the run had gained{_manner(s)}; {check(suspect, s)}. If it does not come back, "
        "the run has diverged.",
        evidence,
        confidence=0.9,
        step=s.step,
    )


def _manner(s: Situation) -> str:
    if s.sudden is None:
        return ""
    return ", all at once" if s.sudden else ", bit by bit"


def _rate(s: Situation, suspect: Cause) -> Advice | None:
    if not math.isfinite(s.rate_ratio) or abs(s.rate_ratio - 1) <= _RATE_OFF:
        return None
    return Advice(
        "investigate",
        f"At step {s.step:,} the learning rate used is {s.rate_ratio:.3g} times the planned one, so the forecast no "
        "longer applies; if the change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise mend "
        "the schedule.",
        {"rate_ratio": s.rate_ratio, "suspect": "learning rate"},
        confidence=0.99,
        step=s.step,
    )


def _state_lost(s: Situation, suspect: Cause) -> Advice | None:
    if not state_lost(s):
        return None
    lost = int(s.facts["state_lost"])
    return Advice(
        "investigate",
        f"Training went on at step {lost:,} with an optimizer that had lost its state (momentum and averages), so its "
        "first steps may be far off. Check first whether the checkpoint holds the optimizer and was loaded with "
        "`ckpt_path`; if the state was dropped on purpose, let the learning rate warm up again.",
        {"state_lost": lost, "suspect": "optimizer state"},
        confidence=0.95,
        step=s.step,
    )


def _frozen(s: Situation, suspect: Cause) -> Advice | None:
    idle = s.facts.get("idle")
    if not idle:
        return None
    tensors, share, names = s.facts["tensors"], s.facts["idle_share"], s.facts["idle_names"]
    return Advice(
        "investigate",
        f"{idle:,} of {tensors:,} parameter tensors, {share:.0%} of the parameters ({names}), have had no gradient "
        f"since about step {s.facts['idle_since']:,}, though they had one before: they no longer learn. If they were "
        "frozen on purpose, announce it with `mark(reason)`; otherwise look for what froze them or cut them off from "
        "the loss.",
        {"idle": idle, "tensors": tensors, "idle_share": share, "suspect": "frozen layers"},
        confidence=0.95,
        step=s.step,
    )


def _deviates(s: Situation, suspect: Cause) -> Advice | None:
    d = s.deviation
    if not d.alarm:
        return None
    evidence = {
        "e_value": d.e_value,
        "since_step": d.since_step,
        "excess": d.excess,
        "expected": d.expected,
        "loss": s.loss,
        "direction": d.direction,
        "kind": None if d.kind is None else str(d.kind),
        "basis": str(d.basis),
        "suspect": suspect,
        **({} if s.again is None else s.again.evidence),
    }
    odds = f"odds {_odds(d.e_value)} against chance"
    if d.kind == "variance_increase":
        what = "loss" if s.metric == "loss" else "metric"
        sentence = (
            f"The noise of the {what} is {d.noise_ratio:.2g} times what is usual in this run at step {s.step:,} "
            f"({odds}); {check(suspect, s)}."
        )
    else:
        share = abs(d.excess / d.expected) if d.expected else math.nan
        told = f"was forecast at step {d.since_step:,}"
        if d.basis == "past_runs":
            told = f"was to be expected at step {d.since_step:,} from how past runs under this schedule went on"
        sentence = (
            f"{s.the} is {s.loss:.4g} at step {s.step:,} where {d.expected:.4g} {told}: "
            f"{share:.1%} {'above' if d.direction != 'below' else 'below'} its path ({odds}){_shape(s)}; "
            f"{check(suspect, s)}."
        )
        if s.worse:
            sentence += _at_stake(s, d.excess)
    return Advice("investigate", sentence, evidence, confidence=1 - 1 / max(d.e_value, 1.0), step=s.step)


def _shape(s: Situation) -> str:
    """How the run left its path, as the end of a clause."""
    kind = s.deviation.kind
    if not s.worse or kind is None:
        return ""
    if kind == "plateau":
        return ", and it has stopped improving"
    if kind == "slow_divergence" and (s.sudden is None or overfits(s)):
        return ", and it moves further and further away"
    return _manner(s)


def _odds(e_value: float) -> str:
    return "over a million to 1" if e_value > 1e6 else f"{e_value:,.0f} to 1"


def _behind(s: Situation, suspect: Cause) -> Advice | None:
    b = s.behind
    if b is None:
        return None
    evidence = {"low": b.low, "high": b.high, "twins": b.count, "share": b.share, "loss": s.loss, "kind": "behind"}
    worse = "higher" if s.mode == "min" else "lower"
    begun = (
        f"{s.the} is {s.loss:.4g} at step {s.step:,} where {b.count:,} earlier runs of this size and plan had "
        f"{b.low:.4g} to {b.high:.4g}: {b.share:.1%} {worse} than their mean"
    )
    if b.usual_warmup >= 2 and b.warmup < 0.5 * b.usual_warmup:
        first: Cause = "warm-up"
        had = f"{b.warmup:,} steps" if b.warmup else "none"
        clause = f"They warmed up over {b.usual_warmup:,} steps, this run over {had}; {check('warm-up', s)}"
    elif math.isfinite(b.batch_ratio) and not 1 / _BATCH_OFF <= b.batch_ratio <= _BATCH_OFF:
        first = "batch"
        noise = steps_by_noise(s.facts, b.batch_ratio)
        slower = (
            ""
            if noise is None
            else (
                f", which by the gradient-noise scale of {amount(noise[1])} {s.facts.get('unit', 'samples')} takes "
                f"{noise[0]:.2g} times their steps to the same loss"
            )
        )
        clause = f"Its batch is {b.batch_ratio:.3g} times theirs{slower}; check that first, then the data"
    else:
        first = "data"
        clause = (
            "Their learning rate was the same: check first the data and how the inputs are scaled, then the "
            "initialization, then the precision"
        )
    return Advice(
        "investigate",
        f"{begun}. {clause}. Starting anew now costs {s.fraction or 0:.0%} of the planned compute.",
        {**evidence, "suspect": first},
        confidence=0.95,
        step=s.step,
    )


def _off_rate(s: Situation, suspect: Cause) -> Advice | None:
    r = s.best_rate
    if r is None or s.fraction is None or s.fraction > _EARLY:
        return None
    factor = r.rate / r.best
    times = f"{factor:.2g} times" if factor > 1 else f"1/{1 / factor:.2g} of"
    worse = "higher" if s.mode == "min" else "lower"
    return Advice(
        "investigate",
        f"The peak learning rate of {r.rate:.2g} is {times} the best one of the family, {r.best:.2g} (95 % between "
        f"{r.lower:.2g} and {r.upper:.2g}, from {r.count:,} runs of this size): by those runs, this one ends about "
        f"{r.cost:.2g} {worse} for it. Correct it before changing the size; starting anew now costs {s.fraction:.0%} "
        "of the planned compute.",
        {**asdict(r), "suspect": "learning rate"},
        confidence=0.95,
        step=s.step,
    )


def _misses_target(s: Situation, suspect: Cause) -> Advice | None:
    if s.target is None or s.forecast.trust != "ok":
        return None
    prediction = s.forecast.final_distribution
    miss = 1 - prediction.reaches(s.target)
    if miss < _MISS:
        return None
    lower, upper = prediction.interval(0.9)
    return Advice(
        "stop",
        f"The final {s.followed} is forecast at {prediction:.4g} (90 % between {lower:.4g} and {upper:.4g}) and misses "
        f"the target {s.target:.4g} with probability {miss:.1%}.{saving(s)}",
        {"target": s.target, "miss": miss, "final": float(prediction), "lower": lower, "upper": upper},
        saving=s.left,
        cost=max((s.loss - float(prediction)) * (1 if s.mode == "min" else -1), 0.0) if math.isfinite(s.loss) else None,
        confidence=miss,
        step=s.step,
    )


def _on_track(s: Situation) -> Advice:
    f = s.forecast
    hint = "".join(f" {text}" for text in (s.hint, s.remark) if text)
    if f.trust == "none":
        return Advice("continue", f"At step {s.step:,} it is too early for a forecast: {f.why}.{hint}", step=s.step)
    prediction = f.final_distribution
    lower, upper = prediction.interval(0.9)
    what = "the loss" if s.metric == "loss" else s.followed
    where = f"{what} at step {f.horizon:,} is forecast at {prediction:.4g} (90 % between {lower:.4g} and {upper:.4g})"
    caution = "" if f.trust == "ok" else f", with low trust: {f.why}"
    track = "on track" if s.deviation.verdict == "on track" else "nothing wrong seen"
    return Advice(
        "continue",
        f"At step {s.step:,}: {track}; {where}{caution}.{hint}",
        {"final": float(prediction), "lower": lower, "upper": upper, "trust": f.trust},
        confidence=0.9 if f.trust == "ok" else 0.5,
        step=s.step,
    )
