"""Inputs and cost of a law as functions of model size and tokens."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.form import UNITS, FunctionalForm

Array = NDArray[np.float64]
PerToken = Callable[..., Any]
Extra = float | Callable[..., Any]

TRAINING_FLOPS = 6.0
"""FLOPs per active parameter and training token, two forward and four backward (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1)."""

INFERENCE_SHARE = 1.0 / 3.0
"""Cost of a token at inference over that of one in training: the forward pass alone, 2 of 6."""

_RATIO = "tokens_per_param"
_DERIVED = frozenset({"params", "active_params", "tokens", "unique_tokens", "flops", "steps", _RATIO})
_AUXILIARY = frozenset({"sparsity", "batch_tokens"})


def dense_flops_per_token(active_params: Array) -> Array:
    """``6 * active_params``: FLOPs of one training token."""
    return TRAINING_FLOPS * np.asarray(active_params, dtype=np.float64)


def size_input(law: FunctionalForm) -> str:
    """The input that counts the size of the model: the one that computing costs where a law knows several."""
    return "active_params" if "active_params" in law.inputs else "params"


def check_law(law: FunctionalForm, functions: bool = False) -> None:
    """Whether the law can say how a budget is best split.

    Args:
        law: The law.
        functions: Whether some of its inputs are given as functions of size and tokens.

    Raises:
        ValueError: It predicts something other than a loss or an error, or does not weigh size against data.
    """
    if "loss" not in law.output and "error" not in law.output:
        raise ValueError(f"The law {law.name} predicts {law.output}, not a loss, so it cannot split a budget.")
    inputs = set(law.inputs)
    kinds = [inputs & {"params", "active_params"}, inputs & {"tokens", "steps"}, inputs & {_RATIO}, inputs & {"flops"}]
    if sum(map(bool, kinds)) < 2 and not functions:
        raise ValueError(
            f"The law {law.name} takes {', '.join(law.inputs)}; to split a budget a law must know both the size of the "
            "model and the data, such as chinchilla (params, tokens). Inputs that follow from these can be given as "
            "functions of (params, tokens)."
        )


@dataclass(frozen=True)
class Task:
    """A law with everything fixed but the size of the model and the tokens.

    Attributes:
        law: The law.
        size: Name of the input that is the size of the model.
        extras: Values of the other inputs, or functions of ``(params, tokens)``.
        unique_tokens: Distinct tokens there are, or None.
        inference_tokens: Tokens the model will process after training.
        flops_per_token: Training FLOPs per token as a function of the size, or None for 6 per active parameter.
    """

    law: FunctionalForm
    size: str
    extras: Mapping[str, Extra] = field(default_factory=dict)
    unique_tokens: float | None = None
    inference_tokens: float = 0.0
    flops_per_token: PerToken | None = None

    def __post_init__(self) -> None:
        for name in self.law.inputs:
            if name == "unique_tokens" and self.unique_tokens is None and name not in self.extras:
                raise ValueError(
                    f"The law {self.law.name} counts repeats: say how many distinct tokens there are with "
                    "`unique_tokens`."
                )
            if name == "steps" and not {"steps", "batch_tokens"} & set(self.extras):
                raise ValueError(
                    f"The law {self.law.name} counts steps: give the batch, given={{'batch_tokens': ...}}."
                )
            if name == "params" and self.size != "params" and not {"params", "sparsity"} & set(self.extras):
                raise ValueError(
                    f"The law {self.law.name} takes params and active_params: give given={{'sparsity': ...}}, or "
                    "given={'params': a function of (active_params, tokens)}."
                )
            if name not in _DERIVED and name not in self.extras:
                raise ValueError(
                    f"The law {self.law.name} also takes `{name}` ({self.law.unit(name)}): give it a value, "
                    f"given={{'{name}': ...}}."
                )
        known = set(self.law.inputs) | _AUXILIARY | self._cost_names()
        for name in self.extras:
            if name not in known:
                raise ValueError(
                    f"`given` names {name!r}, which is no input of {self.law.name} (it takes "
                    f"{', '.join(self.law.inputs)})."
                )
            if name == self.size or name in {"tokens", "unique_tokens", "flops"}:
                raise ValueError(f"{name!r} is an argument of its own; leave it out of `given`.")
        self._probe_cost()

    def _cost_names(self) -> set[str]:
        if self.flops_per_token is None:
            return set()
        try:
            parameters = inspect.signature(self.flops_per_token).parameters.values()
        except (TypeError, ValueError):
            return set()
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    def _probe_cost(self) -> None:
        if self.flops_per_token is None:
            return
        sizes = np.geomspace(1e6, 1e10, 5)
        try:
            cost = np.asarray(self.per_token(sizes[:, None]), dtype=np.float64)
        except Exception as error:
            raise ValueError(
                f"`flops_per_token` must take an array of sizes and give the FLOPs per token of each; it raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if (
            cost.shape != (5, 1)
            or not np.all(np.isfinite(cost))
            or not np.all(cost > 0)
            or np.any(np.diff(cost[:, 0]) <= 0)
        ):
            raise ValueError(
                "`flops_per_token` must give a positive number for every size, growing with it; for sizes 1e6 to 1e10 "
                f"it gave {np.array2string(cost.ravel(), precision=3)}."
            )

    def active(self, size: Array) -> Array:
        """Parameters that one token passes through."""
        sparsity = self.extras.get("sparsity")
        total = self.size == "params" and "sparsity" in self.law.inputs and self.law.unit("params") == UNITS["params"]
        return size * (1.0 - sparsity) if total and isinstance(sparsity, int | float) else size

    def per_token(self, size: Array) -> Array:
        """FLOPs of one training token."""
        if self.flops_per_token is None:
            return dense_flops_per_token(self.active(size))
        named = {name: self.extras[name] for name in self._cost_names() if name in self.extras}
        return np.asarray(self.flops_per_token(size, **named), dtype=np.float64)

    def training_flops(self, size: Array, tokens: Array) -> Array:
        """FLOPs of training."""
        return self.per_token(size) * tokens

    def inference_flops(self, size: Array) -> Array:
        """FLOPs of the tokens processed after training: a third of the training cost each."""
        return self.per_token(size) * (INFERENCE_SHARE * self.inference_tokens)

    def flops(self, size: Array, tokens: Array) -> Array:
        """Training and inference together."""
        return self.training_flops(size, tokens) + self.inference_flops(size)

    def tokens_for(self, size: Array, flops: Array) -> Array:
        """Training tokens that the budget leaves; not positive where inference alone uses it up."""
        return np.asarray(flops / self.per_token(size) - INFERENCE_SHARE * self.inference_tokens, dtype=np.float64)

    def inputs(self, size: Array, tokens: Array) -> dict[str, Any]:
        """The inputs of the law."""
        result: dict[str, Any] = {}
        for name in self.law.inputs:
            if name in self.extras:
                value = self.extras[name]
                result[name] = value(size, tokens) if callable(value) else value
            elif name == self.size:
                result[name] = size
            elif name == "tokens":
                result[name] = tokens
            elif name == "unique_tokens":
                result[name] = self.unique_tokens
            elif name == "flops":
                result[name] = self.training_flops(size, tokens)
            elif name == "steps":
                result[name] = tokens / self._extra("batch_tokens", size, tokens)
            elif name == _RATIO:
                result[name] = tokens / size
            else:
                result[name] = size / (1.0 - self._extra("sparsity", size, tokens))
        return result

    def _extra(self, name: str, size: Array, tokens: Array) -> Any:
        value = self.extras[name]
        return value(size, tokens) if callable(value) else value

    def loss(self, values: Mapping[str, Any], size: Array, tokens: Array) -> Array:
        """The loss; infinite where there are no tokens.

        Args:
            values: Parameters of the law, numbers or of shape ``(b, 1)``.
            size: Sizes, broadcastable to ``(b, n)``.
            tokens: Tokens, likewise.
        """
        possible = tokens > 0
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            loss = self.law.evaluate(values, **self.inputs(size, np.where(possible, tokens, 1.0)))
        return np.where(possible & ~np.isnan(loss), loss, math.inf)

    def on_budget(self, values: Mapping[str, Any], flops: Array) -> Callable[[Array], Array]:
        """The loss along a budget as a function of the logarithm of the size.

        Args:
            values: Parameters, each of shape ``(b, 1)``.
            flops: Budget, a number or of shape ``(b, 1)``.
        """

        def along(log_size: Array) -> Array:
            size = np.exp(log_size)
            return self.loss(values, size, self.tokens_for(size, flops))

        return along
