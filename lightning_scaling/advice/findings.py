"""Findings about a run: one function for each, the gravest first."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lightning_scaling.advice.batch_size import amount, steps_by_noise
from lightning_scaling.advice.causes import Cause, check, overfits, state_lost
from lightning_scaling.advice.config import DEFAULT, FindingsConfig
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.advice.state import RunState


def findings(s: RunState, cause: Cause, config: FindingsConfig = DEFAULT.findings) -> Advice:
    """The gravest finding.

    Args:
        s: The state of the run.
        cause: The likely cause, as far as the losses show.
        config: Tuned numbers.
    """
    for find in _FINDINGS:
        advice = find(s, cause, config)
        if advice is not None:
            return advice
    return _on_track(s, config)


@dataclass(frozen=True)
class Lost:
    """A run that is lost, with the clause and the numbers that advice and stopping share.

    Attributes:
        code: What was found.
        clause: The finding, as a sentence without its full stop.
        evidence: The numbers behind it.
        cost: Loss given up by stopping; ``None`` where it cannot be known.
        confidence: Probability that it holds.
        cause: The cause, where it is evident.
    """

    code: FindingCode
    clause: str
    evidence: dict[str, Any]
    cost: float | None
    confidence: float
    cause: Cause | None = None


def weights_lost(s: RunState, config: FindingsConfig = DEFAULT.findings) -> Lost | None:
    """Whether so many losses in a row were not finite that the weights are lost."""
    if s.nonfinite_tail < config.nonfinite_losses:
        return None
    first = s.step - s.nonfinite_tail + 1
    return Lost(
        FindingCode.WEIGHTS_LOST,
        f"The last {s.nonfinite_tail:,} {s.nouns}, since about step {first:,}, are not finite: the weights are very "
        "likely lost",
        {"nonfinite_tail": s.nonfinite_tail, "first_step": first},
        0.0,
        config.certain,
        Cause.PRECISION,
    )


def diverged(s: RunState, config: FindingsConfig = DEFAULT.findings) -> Lost | None:
    """Whether the run has diverged and does not come back."""
    d = s.divergence
    if d is None or not d.lasting:
        return None
    return Lost(
        FindingCode.DIVERGED,
        f"{_since(s)} and stays there: {d.lost:.0%} of what the run had gained is lost",
        _divergence_evidence(s),
        None,
        config.confident,
    )


@dataclass(frozen=True)
class Miss:
    """A final value that will very likely miss a wanted one.

    Attributes:
        clause: The finding up to the probability, which follows it.
        probability: Probability of missing it.
        evidence: ``"final"`` and its 90 % interval, ``"lower"`` and ``"upper"``.
    """

    clause: str
    probability: float
    evidence: dict[str, float]


def misses(s: RunState, wanted: float, what: str, probability: float) -> Miss | None:
    """Whether the final value misses a wanted one with at least a probability.

    Args:
        s: The state of the run.
        wanted: The value.
        what: Verb and object of the clause.
        probability: The least probability.
    """
    prediction = s.forecast.final_distribution
    miss = 1 - prediction.reaches(wanted)
    if miss < probability:
        return None
    evidence = _final(s)
    return Miss(
        f"The final {s.noun} is forecast at {prediction:.4g} (90 % between {evidence['lower']:.4g} and "
        f"{evidence['upper']:.4g}) and {what} with probability",
        miss,
        evidence,
    )


def _final(s: RunState) -> dict[str, float]:
    lower, upper = s.forecast.final_distribution.interval(0.9)
    return {"final": float(s.forecast.final_distribution), "lower": lower, "upper": upper}


def _saves(s: RunState) -> str:
    """What stopping now saves, as a sentence of its own."""
    return "" if s.fraction is None else f" Stopping now saves {s.saving:.0%} of the planned compute."


def _lost(s: RunState, cause: Cause, lost: Lost | None) -> Advice | None:
    if lost is None:
        return None
    cause = lost.cause or cause
    return Advice(
        "stop",
        f"{lost.clause}. Go back to a checkpoint from before that step; {check(cause, s)}.{_saves(s)}",
        {**lost.evidence, "cause": cause.value},
        saving=s.saving,
        cost=lost.cost,
        confidence=lost.confidence,
        step=s.step,
        code=lost.code,
    )


def _weights_lost(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    return _lost(s, cause, weights_lost(s, config))


def _diverged(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    return _lost(s, cause, diverged(s, config))


def _investigate(
    s: RunState, code: FindingCode, reason: str, evidence: dict[str, Any], cause: Cause, confidence: float
) -> Advice:
    evidence = {**evidence, "cause": cause.value}
    return Advice("investigate", reason, evidence, confidence=confidence, step=s.step, code=code)


def _nonfinite(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    if not s.nonfinite:
        return None
    word = "loss" if s.nonfinite == 1 and s.metric == "loss" else s.nouns
    total = max(s.nonfinite_total, s.nonfinite)
    return _investigate(
        s,
        FindingCode.NONFINITE_LOSSES,
        f"{s.nonfinite:,} {word} before step {s.step:,} came out not finite ({total:,} in the whole run): one may be a "
        f"bad batch; if more follow, {check(Cause.PRECISION, s)}.",
        {"nonfinite": s.nonfinite, "nonfinite_total": total},
        Cause.PRECISION,
        config.certain,
    )


def _since(s: RunState) -> str:
    """The divergence, as the beginning of a sentence."""
    assert s.divergence is not None
    back = "back up" if s.mode == "min" else "back down"
    d = s.divergence
    return f"{s.subject} has gone from {d.best:.4g} {back} to {s.loss:.4g} since step {d.since_step:,}"


def _divergence_evidence(s: RunState) -> dict[str, Any]:
    d = s.divergence
    assert d is not None
    return {"since_step": d.since_step, "lost": d.lost, "best": d.best, "loss": s.loss, "kind": "divergence"}


def _divergence(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    if s.divergence is None:
        return None
    return _investigate(
        s,
        FindingCode.DIVERGENCE,
        f"{_since(s)}, {s.divergence.lost:.0%} of what the run had gained{_manner(s)}; {check(cause, s)}. If it does "
        "not come back, the run has diverged.",
        _divergence_evidence(s),
        cause,
        config.likely,
    )


def _manner(s: RunState) -> str:
    if s.abrupt is None:
        return ""
    return ", all at once" if s.abrupt else ", bit by bit"


def _rate_off_plan(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    if not math.isfinite(s.rate_ratio) or abs(s.rate_ratio - 1) <= config.learning_rate_tolerance:
        return None
    return _investigate(
        s,
        FindingCode.LEARNING_RATE_OFF_PLAN,
        f"At step {s.step:,} the learning rate used is {s.rate_ratio:.3g} times the planned one, so the forecast no "
        "longer applies; if the change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise mend "
        "the schedule.",
        {"rate_ratio": s.rate_ratio},
        Cause.LEARNING_RATE,
        config.certain,
    )


def _state_lost(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    if not state_lost(s):
        return None
    lost = int(s.facts["state_lost"])
    return _investigate(
        s,
        FindingCode.OPTIMIZER_STATE_LOST,
        f"Training went on at step {lost:,} with an optimizer that had lost its state (momentum and averages), so its "
        "first steps may be far off. Check first whether the checkpoint holds the optimizer and was loaded with "
        "`ckpt_path`; if the state was dropped on purpose, let the learning rate warm up again.",
        {"state_lost": lost},
        Cause.OPTIMIZER_STATE,
        config.confident,
    )


def _gradients_missing(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    idle = s.facts.get("idle")
    if not idle:
        return None
    tensors, share, names = s.facts["tensors"], s.facts["idle_share"], s.facts["idle_names"]
    return _investigate(
        s,
        FindingCode.GRADIENTS_MISSING,
        f"{idle:,} of {tensors:,} parameter tensors, {share:.0%} of the parameters ({names}), have had no gradient "
        f"since about step {s.facts['idle_since']:,}, though they had one before: they no longer learn. If they were "
        "frozen on purpose, announce it with `mark(reason)`; otherwise look for what froze them or cut them off from "
        "the loss.",
        {"idle": idle, "tensors": tensors, "idle_share": share},
        Cause.FROZEN_LAYERS,
        config.confident,
    )


def _deviates(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    d = s.deviation
    if not d.alarm:
        return None
    evidence = {
        **{name: getattr(d, name) for name in ("e_value", "since_step", "excess", "expected", "direction")},
        "loss": s.loss,
        "kind": None if d.kind is None else str(d.kind),
        "basis": str(d.basis),
        **({} if s.repeated is None else s.repeated.evidence),
    }
    odds = "over a million to 1" if d.e_value > config.max_odds else f"{d.e_value:,.0f} to 1"
    code = FindingCode.DEVIATION
    if d.kind == "variance_increase":
        code = FindingCode.VARIANCE_INCREASE
        what = "loss" if s.metric == "loss" else "metric"
        sentence = (
            f"The noise of the {what} is {d.noise_ratio:.2g} times what is usual in this run at step {s.step:,} "
            f"(odds {odds} against chance); {check(cause, s)}."
        )
    else:
        share = abs(d.excess / d.expected) if d.expected else math.nan
        expected = f"was forecast at step {d.since_step:,}"
        if d.basis == "past_runs":
            expected = f"was to be expected at step {d.since_step:,} from how past runs under this schedule went on"
        sentence = (
            f"{s.subject} is {s.loss:.4g} at step {s.step:,} where {d.expected:.4g} {expected}: "
            f"{share:.1%} {'above' if d.direction != 'below' else 'below'} its path (odds {odds} against chance)"
            f"{_shape(s)}; {check(cause, s)}."
        )
        if s.worse:
            still = "" if s.fraction is None else f", and {s.saving:.0%} of the planned compute is still to be spent"
            end = "higher" if d.excess > 0 else "lower"
            sentence += f" If nothing changes, the run ends about {abs(d.excess):.2g} {end}{still}."
    return _investigate(s, code, sentence, evidence, cause, 1 - 1 / max(d.e_value, 1.0))


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


def _lags(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    lag = s.lag
    if lag is None:
        return None
    worse = "higher" if s.mode == "min" else "lower"
    if lag.usual_warmup >= config.warmup_min_steps and lag.warmup < config.warmup_min_ratio * lag.usual_warmup:
        cause = Cause.WARMUP
        had = f"{lag.warmup:,} steps" if lag.warmup else "none"
        clause = f"They warmed up over {lag.usual_warmup:,} steps, this run over {had}; {check(cause, s)}"
    elif math.isfinite(lag.batch_ratio) and not 1 / config.batch_max_ratio <= lag.batch_ratio <= config.batch_max_ratio:
        cause = Cause.BATCH
        noise = steps_by_noise(s.facts, lag.batch_ratio)
        slower = ""
        if noise is not None:
            slower = (
                f", which by the gradient-noise scale of {amount(noise[1])} {s.facts.get('unit', 'samples')} takes "
                f"{noise[0]:.2g} times their steps to the same loss"
            )
        clause = f"Its batch is {lag.batch_ratio:.3g} times theirs{slower}; check that first, then the data"
    else:
        cause = Cause.DATA
        clause = (
            "Their learning rate was the same: check first the data and how the inputs are scaled, then the "
            "initialization, then the precision"
        )
    return _investigate(
        s,
        FindingCode.BEHIND_MATCHED_RUNS,
        f"{s.subject} is {s.loss:.4g} at step {s.step:,} where {lag.count:,} earlier runs of this size and plan had "
        f"{lag.low:.4g} to {lag.high:.4g}: {lag.share:.1%} {worse} than their mean. {clause}. Starting anew now costs "
        f"{s.fraction or 0:.0%} of the planned compute.",
        {"low": lag.low, "high": lag.high, "matched_runs": lag.count, "share": lag.share, "kind": "lag"},
        cause,
        config.confident,
    )


def _rate_off_optimum(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    r = s.learning_rate_optimum
    if r is None or s.fraction is None or s.fraction > config.optimum_until_fraction:
        return None
    factor = r.rate / r.best
    times = f"{factor:.2g} times" if factor > 1 else f"1/{1 / factor:.2g} of"
    worse = "higher" if s.mode == "min" else "lower"
    return _investigate(
        s,
        FindingCode.LEARNING_RATE_OFF_OPTIMUM,
        f"The peak learning rate of {r.rate:.2g} is {times} the best one of the family, {r.best:.2g} (95 % between "
        f"{r.lower:.2g} and {r.upper:.2g}, from {r.count:,} runs of this size): by those runs, this one ends about "
        f"{r.cost:.2g} {worse} for it. Correct it before changing the size; starting anew now costs {s.fraction:.0%} "
        "of the planned compute.",
        asdict(r),
        Cause.LEARNING_RATE,
        config.confident,
    )


def _misses_target(s: RunState, cause: Cause, config: FindingsConfig) -> Advice | None:
    if s.target is None or s.forecast.trust != "ok":
        return None
    miss = misses(s, s.target, f"misses the target {s.target:.4g}", config.target_miss_probability)
    if miss is None:
        return None
    return Advice(
        "stop",
        f"{miss.clause} {miss.probability:.1%}.{_saves(s)}",
        {"target": s.target, "miss": miss.probability, **miss.evidence},
        saving=s.saving,
        cost=s.forecast_gain,
        confidence=miss.probability,
        step=s.step,
        code=FindingCode.TARGET_MISSED,
    )


def _on_track(s: RunState, config: FindingsConfig) -> Advice:
    f = s.forecast
    hint = "".join(f" {text}" for text in (s.hint, s.batch_hint) if text)
    if f.trust == "none":
        reason = f"At step {s.step:,} it is too early for a forecast: {f.why}.{hint}"
        return Advice("continue", reason, step=s.step, code=FindingCode.NO_FORECAST)
    final = _final(s)
    what = "the loss" if s.metric == "loss" else s.noun
    caution = "" if f.trust == "ok" else f", with low trust: {f.why}"
    track = "on track" if s.deviation.verdict == "on track" else "nothing wrong seen"
    return Advice(
        "continue",
        f"At step {s.step:,}: {track}; {what} at step {f.horizon:,} is forecast at {f.final_distribution:.4g} (90 % "
        f"between {final['lower']:.4g} and {final['upper']:.4g}){caution}.{hint}",
        {**final, "trust": f.trust},
        confidence=config.likely if f.trust == "ok" else config.undecided,
        step=s.step,
    )


_FINDINGS = (
    _weights_lost,
    _nonfinite,
    _diverged,
    _divergence,
    _rate_off_plan,
    _state_lost,
    _gradients_missing,
    _deviates,
    _lags,
    _rate_off_optimum,
    _misses_target,
)
