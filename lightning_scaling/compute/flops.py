"""FLOPs of a micro-batch, with where the number comes from."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from torch import nn

from lightning_scaling.compute.batch_counter import BatchCounter
from lightning_scaling.compute.batch_shapes import elements, plain, signature
from lightning_scaling.compute.opcount import OpCounter
from lightning_scaling.compute.params import ParamCounts, count_params
from lightning_scaling.compute.rehearsal import Tally, rehearse, tally
from lightning_scaling.compute.six_nd import judge, six_n_d

Provenance = Literal["user", "module", "counter", "6ND"]
_MAX_GUESSES = 4096


@dataclass(frozen=True)
class _Measured:
    flops: int | float
    elements: int
    provenance: Provenance


class FlopMeter:
    """FLOPs of the forward and backward pass of one micro-batch on one rank, known for each batch shape.

    One multiply-add is two FLOPs; only matrix products, convolutions, recurrent layers, attention and their like count;
    a causal mask is not subtracted; the optimizer and metrics are left out. The number comes from the first of:

    1. ``"user"``: ``flops=`` a number, or a callable of the batch.
    2. ``"module"``: an attribute ``flops_per_batch`` of the LightningModule, as Lightning's throughput monitor wants.
    3. ``"counter"``: the operations of one step, counted with torch's formulas: of a real step looked at
       (:meth:`watch`), or of a step run on a throw-away copy (:meth:`measure`). Not taken when it is (nearly) zero.
    4. ``"6ND"``: six times the parameters used in matrix products times the tokens (samples, where there are no tokens:
       a lower bound), plus the attention term where layers, width and context are given or can be seen.

    Activation checkpointing is counted as run, so the recomputed part is in; the note then says how much that is.
    A step that does different work on equal shapes (every second batch, say) is counted as the one that was measured.

    Args:
        flops: ``"auto"``; ``"6ND"`` to count nothing; a number, the FLOPs of one micro-batch on one rank; a callable of
            the batch that returns it; ``None`` or ``False`` for none.
        counter: Tells the tokens of a batch; a plain :class:`BatchCounter` unless given.
        active: Parameters used for one token, for a mixture of experts.
        layers: Attention layers, for ``"6ND"``.
        width: Heads times head size, for ``"6ND"``.
        context: Tokens each token attends over, for ``"6ND"``.
        max_shapes: Batch shapes to measure; later ones are interpolated linearly in the numbers a batch holds.

    Raises:
        TypeError: If ``flops`` is none of these.
        ValueError: If ``flops`` is an unknown word or not a finite positive number.

    Example:
        >>> import torch
        >>> meter = FlopMeter()
        >>> model, batch = torch.nn.Linear(64, 8), torch.ones(32, 64)
        >>> meter.per_batch(batch) is None
        True
        >>> meter.measure(model, batch)
        65536
        >>> meter.per_batch(batch), meter.provenance
        (65536, 'counter')
    """

    def __init__(
        self,
        flops: str | float | Callable[[Any], Any] | None = "auto",
        *,
        counter: BatchCounter | None = None,
        active: int | None = None,
        layers: int | None = None,
        width: int | None = None,
        context: int | None = None,
        max_shapes: int = 64,
    ) -> None:
        self._constant: int | float | None = None
        self._function: Callable[[Any], Any] | None = None
        self._source: Provenance | None = None
        self._off = flops is None or flops is False
        self._counting = flops == "auto"
        if isinstance(flops, str):
            if flops not in ("auto", "6ND"):
                raise ValueError(
                    f'`flops` must be "auto", "6ND", a number, a callable of the batch or None, but got {flops!r}.'
                )
        elif callable(flops):
            self._function, self._source = flops, "user"
        elif not self._off:
            self._constant, self._source = _checked(flops, "`flops`"), "user"
        if max_shapes < 1:
            raise ValueError(f"`max_shapes` must be at least 1, but got {max_shapes}.")
        self._counter = counter if counter is not None else BatchCounter()
        self._active = active
        self._sizes = (layers, width, context)
        self._max_shapes = max_shapes
        self._stored: Mapping[str, Any] | None = None
        self._params: ParamCounts | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every measured shape, as when the model has changed."""
        self._known: dict[Any, int | float] = {}
        self._measured: dict[Any, _Measured] = {}
        self._guesses: dict[Any, int | float] = {}
        self._failure = ""
        self._copy_failure = ""
        self._hopeless = False
        self._notes: list[str] = []
        self._first = ""

    def per_batch(self, batch: Any, *, guess: bool = False) -> int | float | None:
        """FLOPs of this micro-batch, from what is known; ``None`` when its shape is not measured yet.

        Costs about a microsecond and looks at nothing but shapes. With ``guess``, a shape that is not measured is
        interpolated from those that are, as all are once ``max_shapes`` is reached.

        Raises:
            TypeError: If the callable ``flops`` returns something that is not a number.
            ValueError: If it returns a number that is not finite and positive.
        """
        if self._constant is not None:
            return self._constant
        if self._function is not None:
            return _checked(self._function(batch), "The callable `flops` must return a number: its result")
        key = signature(batch)
        found = self._known.get(key)
        if found is not None or (len(self._known) < self._max_shapes and not (guess and self._known)):
            return found
        return self._interpolated(key, batch)

    @property
    def wanting(self) -> bool:
        """Whether measuring can still help where :meth:`per_batch` gives ``None``."""
        return not (self._off or self._hopeless or self._constant is not None or self._function is not None)

    def measure(self, module: nn.Module, batch: Any, batch_idx: int = 0) -> int | float | None:
        """Measure the shape of this batch by a step on a copy of the module, which touches nothing of the run.

        Takes about as long as a few steps' Python, and no memory for the tensors. Call once for each new shape. Never
        raises: what goes wrong ends in ``"6ND"`` and the note.

        Args:
            module: A LightningModule (its ``training_step`` is run) or any module (its ``forward``).
            batch: A batch on the device, as the training step gets it.
            batch_idx: Its index.

        Returns:
            FLOPs, or ``None`` when they are off or cannot be told.
        """
        if not self.wanting:
            return None if self._off or self._hopeless else self.per_batch(batch)
        try:
            if self._known_before(module) and (found := self.per_batch(batch)) is not None:
                return found
        except Exception as error:
            self._give_up(error)
            return None
        seen = None
        if self._counting and not self._failure and not self._copy_failure:
            try:
                seen = rehearse(module, batch, batch_idx)
            except Exception as error:
                self._copy_failure = str(error) or type(error).__name__
        return self._settle(module, batch, signature(batch), seen)

    def can_watch(self, module: nn.Module) -> bool:
        """Whether a real step of this module can be looked at: not when parts of it are compiled."""
        if not self.wanting or not self._counting or self._failure:
            return False
        for child in module.modules():
            own = vars(child)
            if "_orig_mod" in child._modules or own.get("_compiled_call_impl") or own.get("_compiler_ctx"):
                return False
        dynamo = sys.modules.get("torch._dynamo.utils")
        return not (dynamo is not None and dynamo.counters.get("frames"))

    def watch(self, module: nn.Module, batch: Any) -> Watch:
        """Look at a real step: its FLOPs become those of this batch's shape when the context ends without error.

        Nothing is run twice and nothing is copied, so this counts steps that :meth:`measure` cannot run, such as those
        that decide by values. The step takes about as long again, and matrix products of the optimizer are counted if
        it steps inside.

        Args:
            module: The module that trains.
            batch: The batch of the step.
        """
        return Watch(self, module, batch)

    def refresh(self, module: nn.Module) -> bool:
        """Forget what was measured if parameters were added, frozen or unfrozen since; cheap enough for every epoch."""
        changed = self._params is not None and self._params != count_params(module, active=self._active)
        if changed:
            self.reset()
            self._params = None
            if self._source == "module":
                self._constant = self._source = None
        return changed

    @property
    def provenance(self) -> Provenance | None:
        """Where the FLOPs come from; ``"6ND"`` if any shape needed it; ``None`` when off or nothing is known yet."""
        if self._source is not None:
            return self._source
        sources = {item.provenance for item in self._measured.values()}
        return "6ND" if "6ND" in sources else "counter" if sources else None

    @property
    def note(self) -> str:
        """What to know about the number: the cross-check with ``6 N D``, and why counting was not trusted."""
        return " ".join(self._notes)

    def describe(self) -> str:
        """One line on the FLOPs and where they come from."""
        if self._off:
            return "FLOPs: not counted"
        if self._function is not None:
            return "FLOPs: as returned by `flops` for each micro-batch"
        if self._constant is not None:
            where = "as given by `flops`" if self._source == "user" else "the module's `flops_per_batch`"
            return f"FLOPs: {self._constant:.4g} per micro-batch, {where}"
        line = self._first or ("FLOPs: cannot be told" if self._hopeless else "FLOPs: no batch measured yet")
        return f"{line}. {self.note}" if self.note else line

    def state_dict(self) -> dict[str, Any]:
        """The measured shapes, in builtins."""
        if self._stored is not None:
            return dict(self._stored)
        return {
            "params": self._params.to_dict() if self._params is not None else None,
            "shapes": [
                [plain(key), item.flops, item.elements, item.provenance] for key, item in self._measured.items()
            ],
            "notes": list(self._notes),
            "first": self._first,
            "failure": self._failure,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back measured shapes; used from the next :meth:`measure` on, if the parameters are the same."""
        self._stored = state if state.get("shapes") else None

    def _known_before(self, module: nn.Module) -> bool:
        """Look at the module once: its own figure, its parameters, whether a checkpoint's shapes are still right."""
        if self._params is None:
            self._params = count_params(module, active=self._active)
            own = getattr(module, "flops_per_batch", None)
            if own is not None and self._counting:
                try:
                    self._constant, self._source = _checked(own, "The module's `flops_per_batch`"), "module"
                    return True
                except (TypeError, ValueError) as error:
                    self._say(str(error))
        stored, self._stored = self._stored, None
        if stored is None or stored.get("params") != self._params.to_dict():
            return False
        for key, flops, size, provenance in stored["shapes"]:
            self._keep(plain(key), _Measured(flops, int(size), provenance))
        self._notes, self._first, self._failure = list(stored["notes"]), stored["first"], stored["failure"]
        return True

    def _settle(self, module: nn.Module, batch: Any, key: Any, seen: Tally | None) -> int | float | None:
        try:
            return self._settled(module, batch, key, seen)
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self._hopeless = True
        self._say(f"FLOPs cannot be told: {error}")

    def _settled(self, module: nn.Module, batch: Any, key: Any, seen: Tally | None) -> int | float | None:
        assert self._params is not None
        size = elements(batch)
        positions = self._counter.positions(batch)
        if seen is not None and not self._failure:
            taken, sentence = judge(seen, self._params, positions, self._counter.unit)
            if taken:
                if not self._measured:
                    self._first = self._line(seen.flops, positions, f"counted {seen.how}")
                    self._notes = [*self._notes, sentence] if sentence else self._notes
                return self._keep(key, _Measured(seen.flops, size, "counter"))
            self._failure = sentence
        counted = [item for item in self._measured.values() if item.provenance == "counter"]
        if counted and not self._failure:
            self._say(f"Some shapes could not be counted ({self._copy_failure}) and are interpolated.")
            return self._keep(key, _Measured(_between(counted, size), size, "counter"))
        estimate, sentence = six_n_d(module, self._params, self._counter, batch, self._sizes)
        why = self._failure or (f"Not counted: {self._copy_failure.rstrip(chr(46))}." if self._copy_failure else "")
        self._notes = [part for part in (why, sentence) if part]
        if estimate is None:
            self._hopeless = True
            return None
        self._first = self._line(estimate, positions, "by 6 N D")
        return self._keep(key, _Measured(estimate, size, "6ND"))

    def _keep(self, key: Any, item: _Measured) -> int | float:
        self._measured[key] = item
        self._known[key] = item.flops
        self._guesses.clear()
        return item.flops

    def _interpolated(self, key: Any, batch: Any) -> int | float:
        found = self._guesses.get(key)
        if found is None:
            if len(self._guesses) >= _MAX_GUESSES:
                self._guesses.clear()
            found = self._guesses[key] = _between(list(self._measured.values()), elements(batch))
            self._say(f"Only {len(self._known)} batch shapes were measured; others are interpolated in their size.")
        return found

    def _line(self, flops: float, positions: int | None, how: str) -> str:
        size = f"a micro-batch of {positions} {self._counter.unit}" if positions is not None else "a micro-batch"
        return f"FLOPs: {flops:.4g} for {size}, forward and backward, {how}"

    def _say(self, sentence: str) -> None:
        if sentence and sentence not in self._notes and len(self._notes) < 5:
            self._notes.append(sentence)


class Watch:
    """Looks at one real training step; see :meth:`FlopMeter.watch`.

    A context manager that may also be used as ``begin()`` and ``end()`` from two hooks. It never raises.
    """

    def __init__(self, meter: FlopMeter, module: nn.Module, batch: Any) -> None:
        self._meter, self._module, self._batch = meter, module, batch
        self._key = signature(batch)
        self._mode: OpCounter | None = None

    def begin(self) -> bool:
        """Start to count; ``False`` if this step cannot be looked at or need not be."""
        meter = self._meter
        try:
            known = meter._known_before(self._module) and meter.per_batch(self._batch) is not None
            if self._mode is not None or known or not meter.can_watch(self._module):
                return False
            mode = OpCounter(self._module.parameters())
            mode.__enter__()  # type: ignore[no-untyped-call]
        except Exception:
            return False
        self._mode = mode
        return True

    def end(self, *, failed: bool = False) -> int | float | None:
        """Stop counting and keep the result, unless the step failed. Call it in every case, once or more often."""
        mode, self._mode = self._mode, None
        if mode is None:
            return None
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        batch, self._batch = self._batch, None
        return None if failed else self._meter._settle(self._module, batch, self._key, tally(mode, "on a real step"))

    def __enter__(self) -> Watch:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self.end(failed=kind is not None)


def _between(items: list[_Measured], size: int) -> int | float:
    """Linear in the size between the two nearest measured shapes, proportional to it outside of them."""
    points = sorted({item.elements: item.flops for item in items}.items())
    at = bisect_left(points, (size,))
    if at < len(points) and points[at][0] == size:
        return points[at][1]
    if at in (0, len(points)):
        near, flops = points[0] if at == 0 else points[-1]
        return round(flops * size / near) if near else flops
    (left, low), (right, high) = points[at - 1], points[at]
    return round(low + (high - low) * (size - left) / (right - left))


def _checked(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number of FLOPs per micro-batch, but it is {value!r}.")
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{what} must be a finite positive number of FLOPs per micro-batch, but it is {value!r}.")
    if isinstance(value, int):
        return value  # exact beyond 2**53
    return int(number) if number.is_integer() else number
