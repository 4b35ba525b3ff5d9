"""The run that is asked about, and what it is compared with: a table of past runs, or published laws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.validation import is_count, positive
from lightning_scaling.advice.config import DEFAULT, ResizeConfig
from lightning_scaling.allocation.frontier import with_spread
from lightning_scaling.allocation.task import TRAINING_FLOPS
from lightning_scaling.allocation.tradeoff import NoTradeoffError, Tradeoff, fit_tradeoff
from lightning_scaling.forecast.priors.final_loss import FinalLossPrior
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.laws import get
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_GRID_REACH = 100.0
"""Factor of size times data, on either side of the run, over which the published surface is tabulated."""
_WIDTH = ("n_embd", "hidden_size", "d_model", "embed_dim", "n_embed", "dim", "width", "hidden_dim")
_LAYERS = ("n_layer", "num_hidden_layers", "n_layers", "num_layers", "depth", "layers")
_HEADS = ("n_head", "num_attention_heads", "n_heads", "num_heads", "nhead", "heads")


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a model of equal blocks.

    Attributes:
        width: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads of a block; ``None`` for none, or not known.
    """

    width: int
    layers: int
    heads: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (is_count(value) or (name == "heads" and value is None)):
                raise ValueError(f"`{name}` of a shape must be a whole number of at least 1, but got {value!r}.")

    @classmethod
    def of(cls, config: Any) -> Shape | None:
        """The shape that a configuration holds under the usual names; ``None`` where width or depth is not among them.

        Args:
            config: A mapping, or an object with attributes, such as ``module.config`` or ``module.hparams``.
        """
        read = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
        width, layers, heads = (next(filter(is_count, map(read, names)), None) for names in (_WIDTH, _LAYERS, _HEADS))
        return None if width is None or layers is None else cls(width, layers, heads)


@dataclass(frozen=True)
class ModelState:
    """Size, data and schedule of the run that is asked about.

    Attributes:
        params: Its parameters.
        tokens: Tokens (or samples, by `unit`) that its plan sees in all, repeats included.
        flops: Training FLOPs of the whole plan; left out, ``6 * active_params * tokens``.
        plan: Its schedule.
        loss: Its forecast final loss; ``None`` where that is not known.
        tokens_per_step: Tokens (or samples) of an optimizer step.
        active_params: Parameters that one token passes through, for a mixture of experts; left out, all.
        embedding: Parameters that grow with the width alone.
        shape: Its width, depth and heads; ``None`` where not known.
        shaped: Whether the model is of equal blocks, so that a shape can be proposed.
        unit: What is counted: ``"tokens"`` or ``"samples"``.
        metric: Name of the metric followed.
        mode: Whether it is to be low or high.
        step: The present step.

    Raises:
        ValueError: If a number is not positive.
    """

    params: float
    tokens: float
    flops: float | None = None
    plan: Plan | None = None
    loss: float | None = None
    tokens_per_step: float | None = None
    active_params: float | None = None
    embedding: float = 0.0
    shape: Shape | None = None
    shaped: bool = True
    unit: Literal["tokens", "samples"] = "tokens"
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    step: int = 0

    def __post_init__(self) -> None:
        for name in ("params", "tokens", "flops", "tokens_per_step", "active_params"):
            if name in ("params", "tokens") or getattr(self, name) is not None:
                positive(name, getattr(self, name))

    @property
    def size(self) -> float:
        """Parameters that cost compute: the active ones."""
        return self.active_params or self.params

    @property
    def compute(self) -> float:
        """Training FLOPs of the whole plan."""
        return self.flops or TRAINING_FLOPS * self.size * self.tokens

    @property
    def rate(self) -> float | None:
        """Peak learning rate of the plan."""
        return self.plan.peak if self.plan is not None and self.plan.peak > 0 else None


@dataclass(frozen=True)
class LadderTable:
    """Past runs, one row each.

    Attributes:
        params: Sizes: the active ones where a run holds them, in ``meta["active_params"]``.
        total: All parameters.
        tokens: Training tokens (or samples) of the whole plan.
        loss: Final loss of each, or its forecast, under the schedule asked for.
        error: Relative error of that.
        flops: Training FLOPs where all runs hold them, else worked out.
        rate: Peak learning rate, nan where not known.
        batch: Tokens (or samples) a step.
        unfinished: How many are forecasts.
        moved: How many ended under another schedule.
        left_out: How many could not be used.
    """

    params: Array
    total: Array
    tokens: Array
    loss: Array
    error: Array
    flops: Array
    rate: Array
    batch: Array
    unfinished: int
    moved: int
    left_out: int

    def __len__(self) -> int:
        return len(self.loss)

    def tradeoff(self) -> Tradeoff:
        """Size against data; see :func:`~lightning_scaling.allocation.fit_tradeoff`."""
        return fit_tradeoff(self.params, self.tokens, self.loss, flops=self.flops, error=self.error)

    def take(self, rows: NDArray[np.bool_]) -> LadderTable:
        """The rows selected."""
        kept: dict[str, Any] = {name: v[rows] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **kept)

    @property
    def source(self) -> str:
        """The runs within a sentence."""
        others = f" ({self.unfinished} of them forecast)" if self.unfinished else ""
        return f"{len(self)} runs of the family{others}"


def ladder_table(
    history: Iterable[Run],
    plan: Plan | None = None,
    flops_per_token: float = TRAINING_FLOPS,
    config: ResizeConfig = DEFAULT.resize,
) -> LadderTable:
    """The table of past runs.

    An unfinished run enters with its forecast final loss and the error of that; one that was annealed differently is
    moved by the difference that ``FinalLossPrior`` predicts between its own schedule and that of `plan`, stretched to
    its length. Runs without a size or tokens, that ended before a quarter of their plan, or whose forecast has an error
    of more than 10 % are left out; of many the latest 100 count.

    Args:
        history: The runs, of one family.
        plan: The schedule under which losses are compared; left out, each run's own.
        flops_per_token: FLOPs per parameter and token, for runs that do not hold theirs.
        config: Tuned numbers.
    """
    runs = list(history)[-config.max_runs :]
    past = [one for run in runs if run.params and run.tokens_per_step and _usable(one := PastRun(run), config)]
    used = [one.run for one in past]
    finals, error = np.array([one.log_final_loss for one in past], dtype=np.float64).reshape(-1, 2).T
    shifts = np.zeros(len(past))
    if plan is not None and plan.known and (prior := FinalLossPrior.from_history(RunHistory(used))) is not None:
        shifts = np.array([_shift(prior, run, plan) for run in used])
    total = np.array([run.params for run in used], dtype=np.float64)
    active = np.array([run.meta.get("active_params") or run.params for run in used], dtype=np.float64)
    batch = np.array([run.tokens_per_step for run in used], dtype=np.float64)
    steps = np.array([run.total_steps for run in used], dtype=np.float64)
    flops = steps * np.array([run.flops_per_step or math.nan for run in used])
    if not np.all(np.isfinite(flops)):
        flops = flops_per_token * active * (steps * batch)
    return LadderTable(
        params=active,
        total=total,
        tokens=steps * batch,
        loss=np.exp(finals + shifts),
        error=error,
        flops=flops,
        rate=np.array([_peak(run) for run in used]),
        batch=batch,
        unfinished=sum(not one.finished for one in past),
        moved=int(np.sum(np.abs(shifts) > config.min_shift)),
        left_out=len(runs) - len(past),
    )


def _usable(past: PastRun, config: ResizeConfig) -> bool:
    if not past.is_usable or past.reached < config.min_progress * past.total_steps:
        return False
    final, error = past.log_final_loss
    return math.isfinite(final) and error < config.max_final_error


def _shift(prior: FinalLossPrior, run: Run, plan: Plan) -> float:
    own = run.plan
    if not own.known or not own.peak > 0 or not plan.peak > 0 or not plan.total_steps:
        return 0.0
    tokens = run.total_steps * (run.tokens_per_step or 0.0)
    stretched = np.maximum(plan.steps * (run.total_steps / plan.total_steps), 0.0)
    kept = np.concatenate([[True], np.diff(stretched) > 0])
    wanted = Plan(stretched[kept], plan.lr[kept] * (own.peak / plan.peak), total_steps=run.total_steps)
    there, here = (prior.predict(run.params, tokens, one) for one in (wanted, own))
    shift = math.log(there / here) if there > 0 and here > 0 else 0.0
    return shift if math.isfinite(shift) else 0.0


def _peak(run: Run) -> float:
    known = run.planned_lr is not None or run.lr is not None
    return run.plan.peak if known and run.plan.peak > 0 else math.nan


def published_tradeoff(
    params: float, tokens: float, flops: float, loss: float | None, config: ResizeConfig
) -> Tradeoff:
    """The surface of Besiroglu et al. 2024 (arXiv 2404.10102), as wide as published laws differ.

    Args:
        params: Size of the present run.
        tokens: Its training tokens.
        flops: Its training compute.
        loss: Its forecast final loss: all losses of the law are scaled to meet it; ``None`` leaves them.
        config: Tuned numbers.

    Raises:
        NoTradeoffError: The run is smaller than anything that the law was fitted to.
    """
    least, least_tokens = config.published_min_params, config.published_min_tokens
    if params < least or tokens < least_tokens:
        raise NoTradeoffError(
            f"There are no past runs to learn from, and published laws begin at {least:.0e} parameters and "
            f"{least_tokens:.0e} tokens of text."
        )
    known = get("chinchilla").known("besiroglu")
    scale = 1.0 if loss is None else loss / float(known.predict(params=params, tokens=tokens))
    middle = math.sqrt(params * tokens)
    budgets = np.repeat(np.geomspace(middle / _GRID_REACH, middle * _GRID_REACH, 17), 13)
    ratio = np.tile(np.geomspace(1 / 30, 30, 13), 17)
    size, data = np.sqrt(budgets**2 / 20) * ratio, np.sqrt(budgets**2 * 20) / ratio
    each = flops / (params * tokens)
    found = fit_tradeoff(size, data, scale * known.predict(params=size, tokens=data), flops=each * size * data)
    wide = with_spread(found.frontier, math.log(flops), config.published_log_spread, config.published_exponent_spread)
    return replace(found, frontier=wide, minima=None, runs=0)
