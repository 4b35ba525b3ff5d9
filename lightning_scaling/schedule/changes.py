"""Changes of a plan by name, as a person would ask for them: stop, decay, longer, wsd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_scaling.schedule import variants
from lightning_scaling.schedule.plan import Plan


def _stop(plan: Plan, step: int, at: int | None = None) -> Plan:
    if at is None and step < 1:
        raise ValueError("A run that has not made a step yet cannot stop here; say at which step, as `at`.")
    if at is not None and at < step:
        raise ValueError(f"A run at step {step:,} can no longer stop at step {at!r}; give a step still to come.")
    return variants.stop_at(plan, step if at is None else at)


def _carry_on(plan: Plan, step: int) -> Plan:
    return plan


def _shaped(words: str, options: Mapping[str, Any]) -> str:
    shape = options.get("shape", "linear")
    return words if shape == "linear" else f"{words} ({shape})"


_CHANGES: dict[str, tuple[Callable[..., Plan], Callable[[Mapping[str, Any]], str], tuple[str, ...]]] = {
    "carry on": (_carry_on, lambda o: "carry on", ()),
    "stop": (_stop, lambda o: "stop now" if o.get("at") is None else f"stop at step {o['at']:,}", ("at",)),
    "decay": (
        variants.decay_now,
        lambda o: _shaped(f"decay now over {o.get('over', 0.2):.0%}", o),
        ("over", "shape", "to"),
    ),
    "longer": (variants.lengthen, lambda o: f"train {o.get('factor', 2.0):g} times as long", ("factor",)),
    "wsd": (
        variants.wsd,
        lambda o: _shaped(f"hold, then decay over the last {o.get('decay', 0.2):.0%}", o),
        ("decay", "shape", "to"),
    ),
}
USUAL: tuple[str, ...] = ("stop", "decay", "longer", "wsd")
"""The changes that are told of when none is asked for."""


def _known() -> str:
    return ", ".join(kind for kind in _CHANGES if kind != "carry on")


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
        return variants.replaced(plan, step, change.steps, change.lr, change.total_steps), "own plan"
    if change not in _CHANGES:
        raise ValueError(f"`change` must be one of {_known()}, or a Plan, but got {change!r}.")
    make, words, allowed = _CHANGES[change]
    for option in options:
        if option not in allowed:
            takes = " and ".join(f"`{name}`" for name in allowed) or "none"
            raise TypeError(f"`{change}` has no option `{option}`; it takes {takes}.")
    if change == "carry on" and not plan.known:
        return plan, words(options)
    return make(plan, step, **options), words(options)


def parse_change(text: str) -> tuple[str, dict[str, Any]]:
    """A change as written on a command line: ``stop``, ``stop:9000``, ``decay:0.2:cosine``, ``longer:2``, ``wsd:0.2``.

    Raises:
        ValueError: If it is none.
    """
    kind, *rest = (part.strip() for part in text.split(":"))
    if kind not in _CHANGES or kind == "carry on":
        raise ValueError(
            f"`{text}` is no change of a plan; known are {_known()}, as in `stop`, `decay:0.2`, `longer:2`."
        )
    _, _, names = _CHANGES[kind]
    if len(rest) > len(names):
        raise ValueError(f"`{text}` says too much; `{kind}` takes {' and '.join(names) or 'nothing more'}.")
    options: dict[str, Any] = {}
    for option, value in zip(names, rest, strict=False):
        if option == "shape":
            options[option] = value
            continue
        try:
            options[option] = int(value) if option == "at" else float(value)
        except ValueError:
            number = "a whole number of steps" if option == "at" else "a number"
            raise ValueError(f"`{text}` must have {number} for `{option}`, but has {value!r}.") from None
    return kind, options
