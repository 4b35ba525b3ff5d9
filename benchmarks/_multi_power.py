"""The Multi-Power part of the benchmark of laws: three schedules of one size predict six unseen ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from _data import curves
from _rows import Row, most

from lightning_scaling import Run, laws

TRAINED_ON = ("cosine_24000", "constant_24000", "wsdcon_9")
WARMUP = 2160
CUTS = (10_000, 12_000, 15_000)
PREDICTED = {"25M": 0.0011, "100M": 0.0014}


@dataclass(frozen=True)
class Recipe:
    """How a Multi-Power law is fitted: objective, and the part of each run that is left out as burn-in."""

    objective: str
    burn_in: float

    def __str__(self) -> str:
        name = "Huber .001" if self.objective == "huber" else "least squares"
        return f"{name}, {f'first {self.burn_in:.0%}' if self.burn_in else 'warm-up'} left out"


RECIPES = tuple(Recipe(objective, burn_in) for objective in ("huber", "least_squares") for burn_in in (0.0, 0.1))


class Schedules:
    """The recorded runs of one size of the Multi-Power release."""

    def __init__(self, size: str, runs: dict[str, Run]) -> None:
        self.size = size
        self.runs = {name.split("-", 2)[2]: run for name, run in runs.items() if name.split("-")[1] == size}
        self.rates = {name: self._rates(run) for name, run in self.runs.items()}
        self.law = laws.get("multi_power", rates={name: self.rates[name] for name in TRAINED_ON})
        self.unseen = [name for name in self.runs if name not in TRAINED_ON]

    @staticmethod
    def _rates(run: Run) -> np.ndarray:
        known = np.isfinite(run.lr)
        return np.interp(np.arange(1, run.step[-1] + 1), run.step[known], run.lr[known])

    def points(self, keep: Callable[[np.ndarray, int], np.ndarray]) -> dict[str, np.ndarray]:
        """Points of the training runs; `keep` says which steps of a run, given its length."""
        parts = []
        for number, name in enumerate(TRAINED_ON):
            run = self.runs[name]
            used = np.isfinite(run.loss) & keep(run.step, run.total_steps)
            parts.append(np.stack([run.step[used], np.full(used.sum(), number), run.loss[used]]))
        return dict(zip(("steps", "schedule", "loss"), np.concatenate(parts, axis=1), strict=True))

    def fitted(self, recipe: Recipe, until: float = np.inf) -> dict[str, float]:
        """Parameters from the training runs, or from their first steps only."""
        seen = self.points(lambda s, total: (s >= max(WARMUP, recipe.burn_in * total)) & (s <= until))
        return dict(self.law.fit(seen, objective=recipe.objective).params)

    def forward(self, recipe: Recipe, cut: int) -> float:
        """Mean relative error after a step of the training runs, fitted up to it."""
        later = self.points(lambda s, total: s > cut)
        loss = later.pop("loss")
        return float(np.mean(np.abs(self.law.evaluate(self.fitted(recipe, cut), **later) / loss - 1)))

    def errors(self, params: dict[str, float]) -> tuple[float, float]:
        """Mean and worst relative error on the unseen schedules, averaged over them as Luo et al. do."""
        means, worst = [], []
        for name in self.unseen:
            run = self.runs[name]
            used = np.isfinite(run.loss)
            predicted = laws.get("multi_power", rates=self.rates[name]).evaluate(params, steps=run.step[used])
            error = np.abs(predicted / run.loss[used] - 1)
            means.append(error.mean())
            worst.append(error.max())
        return float(np.mean(means)), float(np.mean(worst))


def multi_power(quick: bool) -> list[Row]:
    """Three training schedules predict six unseen ones (Luo et al. 2025); the recipe is chosen on the three alone."""
    part = "multi-power"
    runs = {item.id: item.run for item in curves("multipowerlaw")}
    sizes = {size: Schedules(size, runs) for size in PREDICTED}
    rows = []
    if quick:
        chosen = Recipe("least_squares", 0.1)
    else:
        scores = {r: float(np.mean([s.forward(r, c) for s in sizes.values() for c in CUTS])) for r in RECIPES}
        chosen = min(scores, key=scores.get)
        for recipe, score in scores.items():
            mark = ", chosen" if recipe == chosen else ""
            rows.append(Row(part, f"forward error within the training runs: {recipe}{mark}", score))
    for size, schedules in sizes.items():
        law = laws.get("multi_power")
        mean, worst = schedules.errors(dict(law.published[size].values))
        rows.append(Row(part, f"{size} PredE of the published constants (worst {worst:.4f})", mean))
        for recipe in [chosen] if quick else dict.fromkeys([RECIPES[0], chosen]):
            mean, worst = schedules.errors(schedules.fitted(recipe))
            what = f"{size} PredE: {recipe} (worst {worst:.4f})"
            rows.append(most(part, what, mean, PREDICTED[size]) if recipe == chosen else Row(part, what, mean))
    return rows
