"""FLOPs of batches of many shapes from the few that were measured."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np

from lightning_scaling.compute.batch_shapes import plain, rows_and_size

# Steps looked at before a figure is trusted: one unusual among three is outvoted.
_FIRST = 3
# After that a step is looked at whenever this many times more have passed: about 12 looks in 100,000 steps, 29 where
# steps of one shape do not all cost the same. No whole numbers, so that no period of a training loop is met in step.
_RARELY, _OFTEN = 2.3, 1.5
# A new shape is measured as well if it lies this far outside of what was measured, as a ratio, or this far from all of
# it while there are fewer than `_SHAPES` shapes: a quadratic needs three.
_OUTSIDE, _APART, _SHAPES = 1.4, 1.15, 4
_AGREE = 1e-3
_MOST_VALUES = 32
_AXES: tuple[Callable[[Any], float], ...] = (attrgetter("rows"), attrgetter("per_row"))


class ShapeFlops:
    """FLOPs of one shape of batch: measured, or read off others of its family.

    Args:
        family: The shapes it belongs to.
        key: Its signature.

    Attributes:
        values: What its measured steps cost.
        estimate: What is taken where its family has nothing measured.
    """

    def __init__(self, family: ShapeFamily, key: Any) -> None:
        self.family = family
        self.key = key
        self.rows, self.size = rows_and_size(key)
        self.values: list[int] = []
        self.estimate: float | None = None

    @property
    def per_row(self) -> float:
        """Numbers in one sample, the variable of the interpolation."""
        return self.size / self.rows

    @property
    def steady(self) -> bool:
        """Whether all of its measured steps cost the same, the first of a run left out."""
        return _agree(self._usual())

    def _usual(self) -> list[int]:
        first = len(self.values) >= _FIRST and self is self.family.first
        return self.values[1:] if first and _agree(self.values[1:]) else self.values

    def typical(self) -> float | None:
        """What a step costs: the median where the measured ones agree, else their mean; ``None`` if none was."""
        values = self._usual()
        if not values:
            return None
        return median(values) if _agree(values) else sum(values) / len(values)

    def figure(self) -> int | None:
        """The best that is known by now."""
        found = self.typical() if self.values else self.family.at(self.rows, self.per_row)
        found = self.estimate if found is None else found
        return None if found is None else round(found)


class ShapeFamily:
    """Batches of one structure, whose FLOPs per sample are a smooth function of the numbers in a sample.

    Attributes:
        shapes: Its shapes, by signature.
        first: The shape of the very first step.
        steady: Whether steps of equal shapes cost the same.

    Args:
        most: Shapes to remember.
    """

    def __init__(self, most: int) -> None:
        self.shapes: dict[Any, ShapeFlops] = {}
        self.first: ShapeFlops | None = None
        self._most = most
        self.steady = True
        self._seen = 0
        self._looked = 0
        self._measured: list[ShapeFlops] = []
        self._curve: np.poly1d | None = None

    def shape(self, key: Any) -> ShapeFlops:
        """The shape of a signature; remembered, unless there are too many."""
        found = self.shapes.get(key) or ShapeFlops(self, key)
        if len(self.shapes) < self._most:
            self.shapes[key] = found
        return found

    def wants(self, shape: ShapeFlops) -> bool:
        """Whether the step that begins now is to be measured; call once for each."""
        self._seen += 1
        due = self._looked * (_RARELY if self.steady else _OFTEN)
        wanted = self._seen <= _FIRST or self._seen > due or not self._measured or self._tells(shape)
        if wanted:
            self._looked = self._seen
        return wanted

    def pass_over(self, shape: ShapeFlops) -> int:
        """How many further steps of a shape need no look whatever happens; :meth:`wants` is not to be called for them.

        Where another shape ends them early, :meth:`recall` gives back the rest.
        """
        if len(shape.values) < _FIRST:
            return 0
        steps = max(int(self._looked * (_RARELY if self.steady else _OFTEN)) - self._seen, 0)
        self._seen += steps
        return steps

    def recall(self, steps: int) -> None:
        """Take back steps that were to be passed over."""
        self._seen -= steps

    def _tells(self, shape: ShapeFlops) -> bool:
        """Whether more than the passing of time speaks for a look at this shape."""
        shapes = len(self._measured)
        if shape.values:
            return len(shape.values) < _FIRST and shapes <= _SHAPES
        for axis in _AXES:
            value, known = axis(shape), [axis(one) for one in self._measured]
            if value > _OUTSIDE * max(known) or value * _OUTSIDE < min(known):
                return True
            if shapes < _SHAPES and all(max(value, one) > _APART * min(value, one) for one in known):
                return True
        return False

    def learn(self, shape: ShapeFlops, flops: int) -> None:
        """Take what a step of this shape cost."""
        if not self._measured:
            self.first = shape
        if not shape.values:
            self._measured.append(shape)
            self.shapes.setdefault(shape.key, shape)
        if len(shape.values) < _MOST_VALUES:
            shape.values.append(flops)
        self.steady = all(one.steady for one in self._measured)
        self._curve = None

    def at(self, rows: int, per_row: float) -> float | None:
        """FLOPs of a shape that was not measured: quadratic in the numbers per sample, as attention is."""
        if not self._measured:
            return None
        if self._curve is None:
            costs: dict[float, list[float]] = {}
            for shape in self._measured:
                costs.setdefault(shape.per_row, []).append((shape.typical() or 0) / shape.rows)
            x, y = np.array(list(costs)), np.array([float(np.mean(some)) for some in costs.values()])
            if x.size == 1:  # FLOPs that grow in proportion, unless there is no size to grow with
                self._curve = np.poly1d([y[0] / x[0], 0.0] if x[0] else [y[0]])
            else:
                self._curve = np.poly1d(np.polyfit(x, y, min(x.size - 1, 2)))
        return max(float(self._curve(per_row)), 0.0) * rows

    def state_dict(self) -> dict[str, Any]:
        """What was measured, in builtins."""
        shapes = [[plain(one.key), one.rows, one.size, list(one.values)] for one in self._measured]
        return {"seen": self._seen, "looked": self._looked, "shapes": shapes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what was measured."""
        self._seen, self._looked = int(state["seen"]), int(state["looked"])
        for key, rows, size, values in state["shapes"]:
            shape = ShapeFlops(self, plain(key))
            shape.rows, shape.size, shape.values = int(rows), int(size), list(values)
            self.shapes[shape.key] = shape
            self._measured.append(shape)
        self.steady = all(one.steady for one in self._measured)


def _agree(values: list[int]) -> bool:
    return not values or max(values) - min(values) <= _AGREE * max(values)
