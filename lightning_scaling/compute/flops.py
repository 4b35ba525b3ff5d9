"""FLOPs of a micro-batch, with where the number comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Literal

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_scaling.compute.batch_counter import BatchCounter
from lightning_scaling.compute.batch_shapes import signature, structure
from lightning_scaling.compute.opcount import OpCounter
from lightning_scaling.compute.params import ParamCounts, count_params
from lightning_scaling.compute.shape_flops import ShapeFamily, ShapeFlops
from lightning_scaling.compute.six_nd import judge, six_n_d
from lightning_scaling.compute.watch import Watch, compiled_frames, is_compiled

Provenance = Literal["user", "module", "counter", "6ND"]
# Refused counts in a row after which none is tried any more; a step without a loss alone says nothing.
_REFUSALS = 3
_PLAIN_CODE_ONLY = not hasattr(TorchDispatchMode, "ignore_compile_internals")  # torch before 2.9


class FlopMeter:
    """FLOPs of the forward and backward pass of one micro-batch on one rank, known for each batch shape.

    One multiply-add is two FLOPs; only matrix products, convolutions, recurrent layers, attention and their like count;
    a causal mask is not subtracted; optimizers are left out. The number comes from the first of:

    1. ``"user"``: ``flops=`` a number, or a callable of the batch.
    2. ``"module"``: an attribute ``flops_per_batch`` of the LightningModule, as Lightning's throughput monitor wants.
    3. ``"counter"``: the operations of real steps, counted with torch's formulas while they run (:meth:`watch`):
       nothing runs twice. Not taken when it is (nearly) zero.
    4. ``"6ND"``: six times the parameters used in matrix products times the tokens (samples, where there are no tokens:
       a lower bound), plus the attention term where layers, width and context are given or can be seen.

    The first three steps are watched, then ever fewer; a watched step has the FLOPs that it did, any other those of the
    watched steps of its shape: their median where they agree, their mean where steps of one shape do different work
    (routed experts, skipped layers, networks in turns). Shapes that were not watched are interpolated, quadratically in
    the numbers per sample. Activations that checkpointing computes again do not count.

    Args:
        flops: ``"auto"``; ``"6ND"`` to count nothing; a number, the FLOPs of one micro-batch on one rank; a callable of
            the batch that returns it; ``None`` or ``False`` for none.
        counter: Tells the tokens of a batch; a plain :class:`BatchCounter` unless given.
        active: Parameters used for one token, for a mixture of experts.
        layers: Attention layers, for ``"6ND"``.
        width: Heads times head size, for ``"6ND"``.
        context: Tokens each token attends over, for ``"6ND"``.
        max_shapes: Batch shapes to remember.

    Raises:
        TypeError: If ``flops`` is none of these.
        ValueError: If ``flops`` is an unknown word or not a finite positive number.

    Example:
        >>> import torch
        >>> meter = FlopMeter()
        >>> model, batch = torch.nn.Linear(64, 8), torch.ones(32, 64)
        >>> meter.per_batch(batch) is None
        True
        >>> with meter.watch(model, batch):
        ...     model(batch).sum().backward()
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
        max_shapes: int = 4096,
    ) -> None:
        self._off, self._counting = flops is None or flops is False, flops == "auto"
        if isinstance(flops, str) and flops not in ("auto", "6ND"):
            wanted = '"auto", "6ND", a number, a callable of the batch or None'
            raise ValueError(f"`flops` must be {wanted}, but got {flops!r}.")
        given = not (self._off or isinstance(flops, str))
        self._function: Callable[[Any], Any] | None = flops if callable(flops) else None
        self._constant = _checked(flops, "`flops`") if given and self._function is None else None
        self._source: Provenance | None = "user" if given else None
        if max_shapes < 1:
            raise ValueError(f"`max_shapes` must be at least 1, but got {max_shapes}.")
        self._counter = counter if counter is not None else BatchCounter()
        self._active, self._sizes, self._max_shapes = active, (layers, width, context), max_shapes
        self._compiled, self._frames, self._warning = False, compiled_frames(), ""
        self._stored: Mapping[str, Any] | None = None
        self._params: ParamCounts | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every measured shape, as when the model has changed."""
        self._families: dict[str, ShapeFamily] = {}
        self._notes: list[str] = []
        self._failure = self._first = ""
        self._refusals = 0
        self._counted = self._hopeless = False

    def per_batch(self, batch: Any) -> int | float | None:
        """FLOPs of this micro-batch, as far as they are known by now; ``None`` before anything is.

        Raises:
            TypeError: If the callable ``flops`` returns something that is not a number.
            ValueError: If it returns a number that is not finite and positive.
        """
        if self._constant is not None:
            return self._constant
        if self._function is not None:
            return _checked(self._function(batch), "The callable `flops` must return a number: its result")
        return self._shape(signature(batch)).figure()

    def prospect(self, module: nn.Module, batch: Any) -> int | float | ShapeFlops | None:
        """FLOPs of this micro-batch for later: a number, or the shape, whose figure may get better until it is read.

        Args:
            module: The module that trains.
            batch: A batch that has been trained on.

        Raises:
            TypeError: If the callable ``flops`` returns something that is not a number.
            ValueError: If it returns a number that is not finite and positive.
        """
        if self._off:
            return None
        if self._constant is not None or self._function is not None or self._look_once(module):
            return self.per_batch(batch)
        shape = self._shape(signature(batch))
        if not self._counted and shape.estimate is None:
            self._estimate(module, batch, shape)
        return shape

    @property
    def wanting(self) -> bool:
        """Whether the FLOPs are to be found out here: not when they are given, or off."""
        return not (self._off or self._hopeless or self._constant is not None or self._function is not None)

    def can_watch(self, module: nn.Module) -> bool:
        """Whether real steps of this module can be looked at: with older torch, not when parts of it are compiled."""
        unseen = _PLAIN_CODE_ONLY and (self._compiled or compiled_frames())
        return self.wanting and self._counting and not (self._failure or unseen)

    def wants(self, module: nn.Module, batch: Any) -> bool:
        """Whether the step on this batch, which is about to begin, should be watched. Call it once for each step."""
        if not self._counting or not self.wanting or self._failure:
            return False
        if self._params is None and self._look_once(module):
            return False
        shape = self._shape(signature(batch))
        return shape.family.wants(shape) and self.can_watch(module)

    def watch(self, module: nn.Module, batch: Any) -> Watch:
        """Look at a real step: its FLOPs are kept for its batch's shape when the context ends without error.

        Nothing is run twice and nothing is copied. Matrix products of optimizers are left out where they step as
        ``torch.optim`` does.

        Args:
            module: The module that trains.
            batch: The batch of the step.
        """
        key = signature(batch)

        def prepare() -> Iterable[nn.Parameter] | None:
            if self._look_once(module) or not self.can_watch(module):
                return None
            # Which weights are used is asked only until a count is trusted.
            return () if self._counted else module.parameters()

        return Watch(prepare, lambda seen: self._take(module, batch, key, seen))

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
        """Where the FLOPs come from; ``None`` when off or nothing is known yet."""
        if self._source is not None:
            return self._source
        if self._counted:
            return "counter"
        return "6ND" if self._first else None

    @property
    def note(self) -> str:
        """What to know about the number: the cross-check with ``6 N D``, and why counting was not trusted."""
        families = self._families.values()
        parts = [self._warning, *self._notes] if self._warning else list(self._notes)
        if self._counted and not all(family.steady for family in families):
            parts.append("Steps of one shape do different work; those not looked at have their mean.")
        shapes = sum(len(family.shapes) for family in families)
        measured = sum(bool(one.values) for family in families for one in family.shapes.values())
        if 0 < measured < shapes:
            parts.append(f"Only {measured} of {shapes} batch shapes were measured; the others are interpolated.")
        return " ".join(parts)

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
        return f"{line}. {note}" if (note := self.note) else line

    def state_dict(self) -> dict[str, Any]:
        """The measured shapes, in builtins."""
        if self._stored is not None:
            return dict(self._stored)
        return {
            "params": self._params.to_dict() if self._params is not None else None,
            "families": {name: one.state_dict() for name, one in self._families.items()},
            "notes": list(self._notes),
            "first": self._first,
            "failure": self._failure,
            "counted": self._counted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back measured shapes; used from the next step on, if the parameters are the same."""
        self._stored = state if state.get("params") else None

    def _look_once(self, module: nn.Module) -> bool:
        """See the module's own figure and parameters, and whether a checkpoint's shapes are still right.

        Returns:
            Whether its FLOPs are known for good.
        """
        if self._params is not None:
            return self._constant is not None
        try:
            self._params = count_params(module, active=self._active)
        except Exception as error:
            self._give_up(error)
            return False
        self._compiled = is_compiled(module)
        own = getattr(module, "flops_per_batch", None)
        if own is not None and self._counting:
            try:
                self._constant, self._source = _checked(own, "The module's `flops_per_batch`"), "module"
            except (TypeError, ValueError) as error:
                self._warning = str(error)
        stored, self._stored = self._stored, None
        if stored is not None and stored.get("params") == self._params.to_dict():
            for name, family in stored["families"].items():
                self._families.setdefault(name, ShapeFamily(self._max_shapes)).load_state_dict(family)
            self._notes, self._first, self._failure = list(stored["notes"]), stored["first"], stored["failure"]
            self._counted = bool(stored["counted"])
        return self._constant is not None

    def _shape(self, key: Any) -> ShapeFlops:
        return self._families.setdefault(str(structure(key)), ShapeFamily(self._max_shapes)).shape(key)

    def _take(self, module: nn.Module, batch: Any, key: Any, seen: OpCounter) -> int | None:
        """Keep what a step was seen to do; ``None`` if that is not trusted."""
        if not self._counted:
            assert self._params is not None
            self._compiled = self._compiled or compiled_frames() > self._frames
            positions = self._counter.positions(batch)
            taken, sentence = judge(seen, self._params, positions, self._counter.unit, compiled=self._compiled)
            if not taken:
                self._refusals += 1
                if self._refusals >= _REFUSALS or seen.flops:
                    self._failure = sentence
                self._estimate(module, batch, self._shape(key), sentence)
                return None
            self._counted, self._notes = True, [sentence] if sentence else []
            how = "real steps of compiled code" if self._compiled else "real steps"
            self._first = self._line(seen.flops, positions, f"counted on {how}")
        for one in {id(one): one for one in (self._shape(key), self._shape(signature(batch)))}.values():
            one.family.learn(one, seen.flops)  # a step may take something out of its batch
        return seen.flops

    def _estimate(self, module: nn.Module, batch: Any, shape: ShapeFlops, reason: str = "") -> None:
        """Give a shape the figure of ``6 N D``, for as long as nothing better is known."""
        if self._hopeless:
            return
        assert self._params is not None
        try:
            positions = self._counter.positions(batch)
            shape.estimate, sentence = six_n_d(module, self._params, self._counter, batch, self._sizes)
        except Exception as error:
            self._give_up(error)
            return
        self._hopeless = shape.estimate is None
        if shape.estimate is not None:
            self._first = self._first or self._line(shape.estimate, positions, "by 6 N D")
        if not self._notes or reason:
            self._notes = [part for part in (reason, sentence) if part]

    def _give_up(self, error: Exception) -> None:
        self._hopeless = True
        self._notes.append(f"FLOPs cannot be told: {error}")

    def _line(self, flops: float, positions: int | None, how: str) -> str:
        size = f"a micro-batch of {positions} {self._counter.unit}" if positions is not None else "a micro-batch"
        return f"FLOPs: {flops:.4g} for {size}, forward and backward, {how}"


def _checked(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number of FLOPs per micro-batch, but it is {value!r}.")
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{what} must be a finite positive number of FLOPs per micro-batch, but it is {value!r}.")
    if isinstance(value, int):
        return value  # exact beyond 2**53
    return int(number) if number.is_integer() else number
