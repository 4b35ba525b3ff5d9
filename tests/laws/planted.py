"""Every law with a truth to plant and the points to plant it at, gathered from the files ``planted_*.py``."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from lightning_scaling import laws


@dataclass(frozen=True)
class Case:
    """A truth and the inputs at which it is seen."""

    name: str
    truth: dict
    inputs: dict
    options: dict
    noise: float

    @property
    def law(self):
        return laws.get(self.name, **self.options)

    def seen(self, truth=None, noise=0.0, seed=0):
        """A table of the inputs and what the law gives there, with relative (or, in linear space, plain) noise."""
        y = self.law.evaluate(truth or self.truth, **self.inputs)
        e = noise * np.random.default_rng(seed).standard_normal(y.shape)
        y = y * np.exp(e) if self.law.space == "log" else y + e * np.std(y)
        return {name: np.array(values, dtype=float) for name, values in self.inputs.items()} | {"loss": y}


# What bends only near the change of a rate needs cleaner points to be bounded on both sides.
_NOISE = {"multi_power": 0.0002}


def _gather():
    found = {}
    for file in sorted(Path(__file__).parent.glob("planted_*.py")):
        for name, (truth, inputs, *options) in import_module(file.stem).CASES.items():
            assert name not in found, f"two cases for {name}"
            found[name] = Case(name, truth, inputs, options[0] if options else {}, _NOISE.get(name, 0.003))
    return found


CASES = _gather()
