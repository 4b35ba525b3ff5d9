"""Other plans with the same past, by function and by name: stop, decay now, train longer, hold and then decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.validation import is_number, one_of
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]
Shape = Literal["linear", "cosine", "sqrt"]
"""How a rate falls from 1 to 0: ``1 - x``, ``(1 + cos(pi x)) / 2``, or ``1 - sqrt(x)`` (Haegele et al. 2024)."""

SHAPES: tuple[Shape, ...] = ("linear", "cosine", "sqrt")
_KNOTS = 64
_SAME = 1e-9


def stop_at(plan: Plan, step: int) -> Plan:
    """The plan cut off: the rate is as planned up to ``step``, where training ends.

    Args:
        plan: What the run intends to do.
        step: The last step, at least 1.

    Raises:
        ValueError: If the plan is not known, or ``step`` is not a step of it.
    """
    step = _checked(plan, step, least=1)
    if plan.total_steps is not None and step > plan.total_steps:
        raise ValueError(
            f"A run cannot stop at step {step:,} of a plan that ends at step {plan.total_steps:,}; to go on after its "
            "end, make it longer."
        )
    return _varied(plan, *_past(plan, step), step)


def decay_now(plan: Plan, step: int, over: float = 0.2, shape: Shape = "linear", to: float = 0.0) -> Plan:
    """Begin the decay now: from the present rate down, and the end of training where the decay ends.

    Args:
        plan: What the run intends to do.
        step: The present step.
        over: Length of the decay as a fraction of the planned total steps, or of the steps done where the plan has no
            end; above 0.
        shape: How the rate falls.
        to: Rate at the end over the plan's peak, in ``[0, 1]``; a present rate below that is held.

    Raises:
        ValueError: If the plan is not known, or an argument is out of its range.
    """
    step = _checked(plan, step)
    if not (is_number(over) and over > 0):
        raise ValueError(f"`over` must be a fraction of the planned steps above 0, such as 0.2, but got {over!r}.")
    length = max(round(over * (plan.total_steps or max(step, 1))), 1)
    return _varied(plan, *_decayed(plan, _past(plan, step), step, step + length, shape, to), step + length)


def lengthen(plan: Plan, step: int, factor: float = 2.0) -> Plan:
    """Train ``factor`` times as long: the part of the schedule still to come is stretched, the past is what it was.

    A cosine over twice the steps would have begun otherwise; this is what can still be done about a run under way.

    Args:
        plan: What the run intends to do.
        step: The present step.
        factor: New total steps over the planned ones; below 1 the future is squeezed.

    Raises:
        ValueError: If the plan is not known or has no end ahead, or the new end would not lie ahead of ``step``.
    """
    step = _checked(plan, step)
    total = _end_ahead(plan, step, "be made longer")
    if not (is_number(factor) and round(factor * total) > step):
        raise ValueError(
            f"`factor` must put the end of training after the present step {step:,}, so be a number above "
            f"{step / total:.3g}, but got {factor!r}."
        )
    end = round(factor * total)
    steps, lr = _past(plan, step)
    ahead = (plan.steps > step) & (plan.steps < total)
    stretched = step + (np.append(plan.steps[ahead], total) - step) * ((end - step) / (total - step))
    rates = np.append(plan.lr[ahead], plan.at(total))
    return _varied(plan, np.concatenate([steps, stretched]), np.concatenate([lr, rates]), end)


def wsd(plan: Plan, step: int, decay: float = 0.2, shape: Shape = "linear", to: float = 0.0) -> Plan:
    """Hold the present rate, then decay over the last part of the planned steps (warm-up, stable, decay).

    A warm-up under way is finished first. A rate that has fallen already is held where it is. Where the last part has
    begun, the decay begins at once and takes what is left of the plan.

    Args:
        plan: What the run intends to do.
        step: The present step.
        decay: Length of the decay as a fraction of the planned total steps, in ``(0, 1]``.
        shape: How the rate falls.
        to: Rate at the end over the plan's peak, in ``[0, 1]``; a present rate below that is held.

    Raises:
        ValueError: If the plan is not known or has no end ahead, or an argument is out of its range.
    """
    step = _checked(plan, step)
    total = _end_ahead(plan, step, "be held and then decay")
    if not (is_number(decay) and 0 < decay <= 1):
        raise ValueError(f"`decay` must be a fraction of the planned steps above 0 and up to 1, but got {decay!r}.")
    # a warm-up counts as over at 99 % of the peak; what is held is the peak itself
    held = step if step >= plan.warmup_end else min(math.ceil(plan.steps[plan.lr.argmax()]), total - 1)
    steps, lr = _past(plan, held)
    begin = max(held, total - max(round(decay * total), 1))
    if begin > held:
        steps, lr = np.append(steps, begin), np.append(lr, lr[-1])
    return _varied(plan, *_decayed(plan, (steps, lr), begin, total, shape, to), total)


def replaced(plan: Plan, step: int, steps: ArrayLike, lr: ArrayLike, total_steps: int | None = None) -> Plan:
    """Any other future: the rates given hold after ``step``, whatever they say of the steps before.

    Args:
        plan: What the run intends to do.
        step: The present step.
        steps: Optimizer steps of the knots of the other schedule, counted from the start of the run, shape ``(k,)``.
        lr: Learning rates there, in the unit of the plan's, shape ``(k,)``.
        total_steps: Where it ends; left out, at its last knot.

    Raises:
        ValueError: If the plan is not known, the knots are no schedule, or it does not end after ``step``.
    """
    step = _checked(plan, step)
    other = Plan(steps, lr)
    end = math.ceil(other.steps[-1]) if total_steps is None else total_steps
    if not (isinstance(end, int | np.integer) and end > step):
        raise ValueError(f"The other schedule must end after the present step {step:,}, but it ends at step {end!r}.")
    past, rates = _past(plan, step)
    ahead = (other.steps > step + 1) & (other.steps < end)
    knots = np.unique(np.concatenate([[step + 1.0], other.steps[ahead], [float(end)]]))
    return _varied(plan, np.concatenate([past, knots]), np.concatenate([rates, other.at(knots)]), int(end))


def first_difference(plan: Plan, other: Plan) -> float:
    """The last step up to which two plans have the same rates; ``inf`` if they have the same ones for ever."""
    knots = np.unique(np.concatenate([plan.steps, other.steps]))
    apart = np.abs(plan.at(knots) - other.at(knots)) > _SAME * max(plan.peak, other.peak)
    return float(np.append(0.0, knots)[apart.argmax()]) if apart.any() else math.inf


def _past(plan: Plan, step: int) -> tuple[Array, Array]:
    """The knots up to a step, with one there."""
    kept = plan.steps < step
    return np.append(plan.steps[kept], float(step)), np.append(plan.lr[kept], plan.at(step))


def _decayed(
    plan: Plan, past: tuple[Array, Array], begin: int, end: int, shape: Shape, to: float
) -> tuple[Array, Array]:
    one_of("shape", shape, SHAPES)
    if not (is_number(to) and 0 <= to <= 1):
        raise ValueError(f"`to` is a fraction of the peak rate and must lie between 0 and 1, but got {to!r}.")
    steps, lr = past
    now = float(lr[-1])
    least = min(to * plan.peak, now)
    x = np.linspace(0, 1, _KNOTS + 1)[1:]
    left = (1 + np.cos(np.pi * x)) / 2
    if shape == "linear":
        x, left = x[-1:], left[-1:]
    elif shape == "sqrt":
        x, left = x**2, 1 - x  # the knots lie densest where the root is steep
    left[-1] = 0.0
    return np.append(steps, begin + x * (end - begin)), np.append(lr, least + left * (now - least))


def _varied(plan: Plan, steps: Array, lr: Array, total_steps: int) -> Plan:
    return Plan(steps, lr, total_steps=total_steps, source="varied")


def _checked(plan: Plan, step: int, least: int = 0) -> int:
    if not plan.known:
        reason = plan.why or "the learning rates ahead are not known"
        raise ValueError(f"Other plans are answered only for a run whose learning rates are known, but {reason}.")
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < least:
        raise ValueError(f"`step` must be a whole number of at least {least}, but got {step!r}.")
    return int(step)


def _end_ahead(plan: Plan, step: int, what: str) -> int:
    if plan.total_steps is None:
        raise ValueError(f"A plan without an end cannot {what}; give it one, such as `max_steps` of the Trainer.")
    if step >= plan.total_steps:
        raise ValueError(
            f"A plan that ended at step {plan.total_steps:,} cannot {what} at step {step:,}; nothing of it is ahead."
        )
    return plan.total_steps


def _stop(plan: Plan, step: int, at: int | None = None) -> Plan:
    if at is None and step < 1:
        raise ValueError("A run that has not made a step yet cannot stop here; say at which step, as `at`.")
    if at is not None and at < step:
        raise ValueError(f"A run at step {step:,} can no longer stop at step {at!r}; give a step still to come.")
    return stop_at(plan, step if at is None else at)


def _shaped(words: str, options: Mapping[str, Any]) -> str:
    shape = options.get("shape", "linear")
    return words if shape == "linear" else f"{words} ({shape})"


_DECAY_OPTIONS = ("decay", "shape", "to")

# By name: the function, a few words for it, and its options in the order of the command line.
_CHANGES: dict[str, tuple[Callable[..., Plan], Callable[[Mapping[str, Any]], str], tuple[str, ...]]] = {
    "stop": (_stop, lambda o: "stop now" if o.get("at") is None else f"stop at step {o['at']:,}", ("at",)),
    "decay": (decay_now, lambda o: _shaped(f"decay now over {o.get('over', 0.2):.0%}", o), ("over", "shape", "to")),
    "longer": (lengthen, lambda o: f"train {o.get('factor', 2.0):g} times as long", ("factor",)),
    "wsd": (wsd, lambda o: _shaped(f"hold, then decay over the last {o.get('decay', 0.2):.0%}", o), _DECAY_OPTIONS),
}
CARRY_ON = "carry on"
USUAL: tuple[str, ...] = tuple(_CHANGES)
"""The changes that are made when none is asked for."""


def changed(plan: Plan, step: int, change: str | Plan, options: Mapping[str, Any]) -> tuple[Plan, str]:
    """The plan with a change, and a few words for it.

    Args:
        plan: What the run intends to do.
        step: The present step.
        change: Name of the change, or another plan, of which the part after ``step`` counts.
        options: Options of the change, by name.

    Raises:
        ValueError: If the change is none that can be made, or an option is out of its range.
        TypeError: If the change has no such option.
    """
    if isinstance(change, Plan):
        if options:
            raise TypeError(f"A plan of one's own takes no options, but got {', '.join(sorted(options))}.")
        if not change.known:
            raise ValueError("The other plan must have known learning rates, but says that it has not.")
        return replaced(plan, step, change.steps, change.lr, change.total_steps), "own plan"
    if change == CARRY_ON and not options:
        return plan, CARRY_ON
    if change not in _CHANGES:
        raise ValueError(f"`change` must be one of {', '.join(USUAL)}, or a Plan, but got {change!r}.")
    make, words, allowed = _CHANGES[change]
    for option in options:
        if option not in allowed:
            takes = " and ".join(f"`{name}`" for name in allowed) or "none"
            raise TypeError(f"`{change}` has no option `{option}`; it takes {takes}.")
    return make(plan, step, **options), words(options)


def parse_change(text: str) -> tuple[str, dict[str, Any]]:
    """A change as written on a command line: ``stop``, ``stop:9000``, ``decay:0.2:cosine``, ``longer:2``, ``wsd:0.2``.

    Raises:
        ValueError: If it is none.
    """
    kind, *rest = (part.strip() for part in text.split(":"))
    if kind not in _CHANGES:
        known = ", ".join(USUAL)
        raise ValueError(f"`{text}` is no change of a plan; known are {known}, as in `stop`, `decay:0.2`, `longer:2`.")
    names = _CHANGES[kind][-1]
    if len(rest) > len(names):
        raise ValueError(f"`{text}` says too much; `{kind}` takes {' and '.join(names) or 'nothing more'}.")
    options: dict[str, Any] = {}
    for option, value in zip(names, rest, strict=False):
        read = {"shape": str, "at": int}.get(option, float)
        try:
            options[option] = read(value)
        except ValueError:
            number = "a whole number of steps" if option == "at" else "a number"
            raise ValueError(f"`{text}` must have {number} for `{option}`, but has {value!r}.") from None
    return kind, options
