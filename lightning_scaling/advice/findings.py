"""Findings about a run, the gravest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lightning_scaling.advice.causes import Cause, check, overfits, state_lost
from lightning_scaling.advice.config import DEFAULT, FindingsConfig
from lightning_scaling.advice.hints import amount, steps_by_noise, times
from lightning_scaling.advice.result import Action, Advice, FindingCode
from lightning_scaling.advice.state import RunState


@dataclass(frozen=True)
class Finding:
    """What was found, for advice and for stopping rules.

    Attributes:
        code: What it is.
        reason: The finding as a sentence; of :func:`weights_lost`, :func:`diverged` and :func:`misses` its beginning.
        evidence: The numbers behind it.
        confidence: Probability that it holds.
        cause: The cause, where there is one.
        action: What to do.
        cost: Loss given up by that; ``None`` where it cannot be known.
    """

    code: FindingCode
    reason: str
    evidence: dict[str, Any]
    confidence: float = 0.0
    cause: Cause | None = None
    action: Action = "investigate"
    cost: float | None = 0.0


def findings(s: RunState, cause: Cause, config: FindingsConfig = DEFAULT.findings) -> Advice:
    """The gravest finding.

    Args:
        s: The state of the run.
        cause: The likely cause, as far as the losses show.
        config: Tuned numbers.
    """
    found = next(one for kind in _FINDINGS for one in kind(s, cause, config))
    evidence = found.evidence if found.cause is None else {**found.evidence, "cause": found.cause.value}
    saving = s.saving if found.action == "stop" else 0.0
    return Advice(found.action, found.reason, evidence, saving, found.cost, found.confidence, s.step, found.code)


def weights_lost(s: RunState, config: FindingsConfig = DEFAULT.findings) -> Finding | None:
    """Whether so many losses in a row were not finite that the weights are lost."""
    if s.nonfinite_tail < config.nonfinite_losses:
        return None
    first = s.step - s.nonfinite_tail + 1
    reason = (
        f"The last {s.nonfinite_tail:,} {s.nouns}, since about step {first:,}, are not finite: the weights are very "
        "likely lost"
    )
    evidence = {"nonfinite_tail": s.nonfinite_tail, "first_step": first}
    return Finding(FindingCode.WEIGHTS_LOST, reason, evidence, config.certain, Cause.PRECISION, "stop")


def diverged(s: RunState, config: FindingsConfig = DEFAULT.findings) -> Finding | None:
    """Whether the run has diverged and does not come back."""
    if s.divergence is None or not s.divergence.lasting:
        return None
    reason = f"{_since(s)} and stays there: {s.divergence.lost:.0%} of what the run had gained is lost"
    return Finding(FindingCode.DIVERGED, reason, _divergence_numbers(s), config.confident, action="stop", cost=None)


def misses(s: RunState, wanted: float, what: str, probability: float) -> Finding | None:
    """Whether the final value misses a wanted one with at least a probability, which is to end the sentence.

    Args:
        s: The state of the run.
        wanted: The value.
        what: Verb and object of the clause.
        probability: The least probability.
    """
    miss = 1 - s.forecast.final_distribution.reaches(wanted)
    if miss < probability:
        return None
    final = _final(s)
    reason = (
        f"The final {s.noun} is forecast at {final['final']:.4g} (90 % between {final['lower']:.4g} and "
        f"{final['upper']:.4g}) and {what} with probability"
    )
    return Finding(FindingCode.TARGET_MISSED, reason, final, miss, action="stop", cost=s.forecast_gain)


def _final(s: RunState) -> dict[str, Any]:
    lower, upper = s.forecast.final_distribution.interval(0.9)
    return {"final": float(s.forecast.final_distribution), "lower": lower, "upper": upper}


def _since(s: RunState) -> str:
    """The divergence, as the beginning of a sentence."""
    d, back = s.divergence, "up" if s.mode == "min" else "down"
    assert d is not None
    return f"{s.subject} has gone from {d.best:.4g} back {back} to {s.loss:.4g} since step {d.since_step:,}"


def _divergence_numbers(s: RunState) -> dict[str, Any]:
    d = s.divergence
    assert d is not None
    return {"since_step": d.since_step, "lost": d.lost, "best": d.best, "loss": s.loss, "kind": "divergence"}


def _saves(s: RunState) -> str:
    return "" if s.fraction is None else f" Stopping now saves {s.saving:.0%} of the planned compute."


def _go_back(s: RunState, cause: Cause, lost: Finding | None) -> Iterator[Finding]:
    if lost is not None:
        cause = lost.cause or cause
        reason = f"{lost.reason}. Go back to a checkpoint from before that step; {check(cause, s)}.{_saves(s)}"
        yield replace(lost, reason=reason, cause=cause)


def _lost(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    yield from _go_back(s, cause, weights_lost(s, config))
    if s.nonfinite:
        word = "loss" if s.nonfinite == 1 and s.metric == "loss" else s.nouns
        total = max(s.nonfinite_total, s.nonfinite)
        reason = (
            f"{s.nonfinite:,} {word} before step {s.step:,} came out not finite ({total:,} in the whole run): one may "
            f"be a bad batch; if more follow, {check(Cause.PRECISION, s)}."
        )
        evidence = {"nonfinite": s.nonfinite, "nonfinite_total": total}
        yield Finding(FindingCode.NONFINITE_LOSSES, reason, evidence, config.certain, Cause.PRECISION)
    yield from _go_back(s, cause, diverged(s, config))
    if s.divergence is not None:
        reason = (
            f"{_since(s)}, {s.divergence.lost:.0%} of what the run had gained{_manner(s)}; {check(cause, s)}. If it "
            "does not come back, the run has diverged."
        )
        yield Finding(FindingCode.DIVERGENCE, reason, _divergence_numbers(s), config.likely, cause)


def _manner(s: RunState) -> str:
    return {None: "", True: ", all at once", False: ", bit by bit"}[s.abrupt]


def _mechanism(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    """Learning rate, optimizer and gradients as they were seen."""
    if math.isfinite(s.rate_ratio) and abs(s.rate_ratio - 1) > config.learning_rate_tolerance:
        reason = (
            f"At step {s.step:,} the learning rate used is {s.rate_ratio:.3g} times the planned one, so the forecast "
            "no longer applies; if the change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise "
            "mend the schedule."
        )
        evidence: dict[str, Any] = {"rate_ratio": s.rate_ratio}
        yield Finding(FindingCode.LEARNING_RATE_OFF_PLAN, reason, evidence, config.certain, Cause.LEARNING_RATE)
    if state_lost(s):
        lost = int(s.facts["state_lost"])
        reason = (
            f"Training went on at step {lost:,} with an optimizer that had lost its state (momentum and averages), so "
            "its first steps may be far off. Check first whether the checkpoint holds the optimizer and was loaded "
            "with `ckpt_path`; if the state was dropped on purpose, let the learning rate warm up again."
        )
        evidence = {"state_lost": lost}
        yield Finding(FindingCode.OPTIMIZER_STATE_LOST, reason, evidence, config.confident, Cause.OPTIMIZER_STATE)
    if idle := s.facts.get("idle"):
        tensors, share, names = s.facts["tensors"], s.facts["idle_share"], s.facts["idle_names"]
        reason = (
            f"{idle:,} of {tensors:,} parameter tensors, {share:.0%} of the parameters ({names}), have had no gradient "
            f"since about step {s.facts['idle_since']:,}, though they had one before: they no longer learn. If they "
            "were frozen on purpose, announce it with `mark(reason)`; otherwise look for what froze them or cut them "
            "off from the loss."
        )
        evidence = {"idle": idle, "tensors": tensors, "idle_share": share}
        yield Finding(FindingCode.GRADIENTS_MISSING, reason, evidence, config.confident, Cause.FROZEN_LAYERS)


def _deviates(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    d = s.deviation
    if not d.alarm:
        return
    evidence = {
        **{name: getattr(d, name) for name in ("e_value", "since_step", "excess", "expected", "direction")},
        "loss": s.loss,
        "kind": None if d.kind is None else str(d.kind),
        "basis": str(d.basis),
        **({} if s.repeated is None else s.repeated.evidence),
    }
    odds = "over a million to 1" if d.e_value > config.max_odds else f"{d.e_value:,.0f} to 1"
    confidence = 1 - 1 / max(d.e_value, 1.0)
    if d.kind == "variance_increase":
        reason = (
            f"The noise of the {'loss' if s.metric == 'loss' else 'metric'} is {d.noise_ratio:.2g} times what is usual "
            f"in this run at step {s.step:,} (odds {odds} against chance); {check(cause, s)}."
        )
        yield Finding(FindingCode.VARIANCE_INCREASE, reason, evidence, confidence, cause)
        return
    share = abs(d.excess / d.expected) if d.expected else math.nan
    expected = f"was forecast at step {d.since_step:,}"
    if d.basis == "past_runs":
        expected = f"was to be expected at step {d.since_step:,} from how past runs under this schedule went on"
    reason = (
        f"{s.subject} is {s.loss:.4g} at step {s.step:,} where {d.expected:.4g} {expected}: "
        f"{share:.1%} {'above' if d.direction != 'below' else 'below'} its path (odds {odds} against chance)"
        f"{_shape(s)}; {check(cause, s)}."
    )
    if s.worse:
        still = "" if s.fraction is None else f", and {s.saving:.0%} of the planned compute is still to be spent"
        end = "higher" if d.excess > 0 else "lower"
        reason += f" If nothing changes, the run ends about {abs(d.excess):.2g} {end}{still}."
    yield Finding(FindingCode.DEVIATION, reason, evidence, confidence, cause)


def _shape(s: RunState) -> str:
    """How the run left its path, as the end of a clause."""
    kind = s.deviation.kind
    if not s.worse or kind is None:
        return ""
    if kind == "plateau":
        return ", and it has stopped improving"
    if kind == "slow_divergence" and (s.abrupt is None or overfits(s)):
        return ", and it moves further and further away"
    return _manner(s)


def _lags(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    lag = s.lag
    if lag is None:
        return
    cause = Cause.DATA
    clause = (
        "Their learning rate was the same: check first the data and how the inputs are scaled, then the "
        "initialization, then the precision"
    )
    if lag.usual_warmup >= config.warmup_min_steps and lag.warmup < config.warmup_min_ratio * lag.usual_warmup:
        cause, had = Cause.WARMUP, f"{lag.warmup:,} steps" if lag.warmup else "none"
        clause = f"They warmed up over {lag.usual_warmup:,} steps, this run over {had}; {check(cause, s)}"
    elif math.isfinite(lag.batch_ratio) and not 1 / config.batch_max_ratio <= lag.batch_ratio <= config.batch_max_ratio:
        cause, slower = Cause.BATCH, ""
        if noise := steps_by_noise(s.facts, lag.batch_ratio):
            slower = (
                f", which by the gradient-noise scale of {amount(noise[1])} {s.facts.get('unit', 'samples')} takes "
                f"{noise[0]:.2g} times their steps to the same loss"
            )
        clause = f"Its batch is {lag.batch_ratio:.3g} times theirs{slower}; check that first, then the data"
    reason = (
        f"{s.subject} is {s.loss:.4g} at step {s.step:,} where {lag.count:,} earlier runs of this size and plan had "
        f"{lag.low:.4g} to {lag.high:.4g}: {lag.share:.1%} {_in_words(s)} than their mean. {clause}. Starting anew now "
        f"costs {s.fraction or 0:.0%} of the planned compute."
    )
    evidence = {"low": lag.low, "high": lag.high, "matched_runs": lag.count, "share": lag.share, "kind": "lag"}
    yield Finding(FindingCode.BEHIND_MATCHED_RUNS, reason, evidence, config.confident, cause)


def _in_words(s: RunState) -> str:
    return "higher" if s.mode == "min" else "lower"


def _plan_misses(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    """A peak rate off the optimum of past runs, and a target out of reach."""
    r = s.learning_rate_optimum
    if r is not None and s.fraction is not None and s.fraction <= config.optimum_until_fraction:
        reason = (
            f"The peak learning rate of {r.rate:.2g} is {times(r.rate / r.best)} the best one of the family, "
            f"{r.best:.2g} (95 % between {r.lower:.2g} and {r.upper:.2g}, from {r.count:,} runs of this size): by "
            f"those runs, this one ends about {r.cost:.2g} {_in_words(s)} for it. Correct it before changing the size; "
            f"starting anew now costs {s.fraction:.0%} of the planned compute."
        )
        code = FindingCode.LEARNING_RATE_OFF_OPTIMUM
        yield Finding(code, reason, asdict(r), config.confident, Cause.LEARNING_RATE)
    if s.target is not None and s.forecast.trust == "ok":
        miss = misses(s, s.target, f"misses the target {s.target:.4g}", config.target_miss_probability)
        if miss is not None:
            reason = f"{miss.reason} {miss.confidence:.1%}.{_saves(s)}"
            evidence = {"target": s.target, "miss": miss.confidence, **miss.evidence}
            yield replace(miss, reason=reason, evidence=evidence)


def _on_track(s: RunState, cause: Cause, config: FindingsConfig) -> Iterator[Finding]:
    f, hint = s.forecast, "".join(f" {text}" for text in (s.hint, s.batch_hint) if text)
    if f.trust == "none":
        reason = f"At step {s.step:,} it is too early for a forecast: {f.why}.{hint}"
        yield Finding(FindingCode.NO_FORECAST, reason, {}, action="continue")
        return
    final, trusted = _final(s), f.trust == "ok"
    what = "the loss" if s.metric == "loss" else s.noun
    caution = "" if trusted else f", with low trust: {f.why}"
    track = "on track" if s.deviation.verdict == "on track" else "nothing wrong seen"
    reason = (
        f"At step {s.step:,}: {track}; {what} at step {f.horizon:,} is forecast at {final['final']:.4g} (90 % between "
        f"{final['lower']:.4g} and {final['upper']:.4g}){caution}.{hint}"
    )
    confidence = config.likely if trusted else config.undecided
    yield Finding(FindingCode.ON_TRACK, reason, {**final, "trust": f.trust}, confidence, action="continue")


_FINDINGS = (_lost, _mechanism, _deviates, _lags, _plan_misses, _on_track)
