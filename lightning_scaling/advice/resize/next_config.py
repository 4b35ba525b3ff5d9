"""Configuration of a run of another size: shape, learning rate, batch and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling._utils.validation import one_of
from lightning_scaling.advice.resize.state import ModelState, Shape
from lightning_scaling.allocation.root_finding import halve
from lightning_scaling.laws import get

Rule = Literal["step_law", "deepseek", "mup"]

NAMED = {"step_law": "Step Law", "deepseek": "DeepSeek's law", "mup": "muP"}
"""What each rule is called in a sentence."""

# Usual proportions: a head of 64, of 128 from width 2,048 on; widths in steps of 64, finer for narrow models.
_ASPECT, _PER_BLOCK = 100.0, 12.0
_HEAD, _WIDE_HEAD, _WIDE = 64, 128, 2048
_NARROW = ((512, 64), (128, 16), (0, 8))
_LEAST_HEAD = 8
_SHAPE = ("width", "layers", "heads")


def shape_for(params: float, now: Shape | None, params_now: float, embedding: float = 0.0) -> tuple[Shape, float]:
    r"""A shape of about a size, and the size it has.

    ``params = c layers width^2 + e width`` with width over layers kept as it is: the loss depends little on the shape
    (Kaplan et al. 2020, arXiv 2001.08361, section 3.1). Without a present shape, ``c`` is 12 and width over layers 100.

    Args:
        params: The size wanted.
        now: The present shape.
        params_now: Size of the model that has it.
        embedding: Its parameters that grow with the width alone.
    """
    rows, per_block, aspect, head = 0.0, _PER_BLOCK, _ASPECT, None
    if now is not None:
        rows = embedding / now.width
        per_block = max(params_now - embedding, 1.0) / (now.layers * now.width**2)
        aspect = now.width / now.layers
        head = now.width / now.heads if now.heads else None
    low, _ = halve(lambda width: not per_block * width**3 / aspect + rows * width < params, 0.0, 1e7)
    if now is None:
        head = float(_WIDE_HEAD if low >= _WIDE else _HEAD)
    unit = next(step for least, step in _NARROW if low >= least)
    if head is not None and head >= _LEAST_HEAD and head == int(head):
        unit = int(head)
    best_width = max(round(low / unit), 1) * unit
    layers = max(round((params - rows * best_width) / (per_block * best_width**2)), 1)
    heads = None
    if head is not None:
        most = max(round(best_width / head), 1)
        heads = next(number for number in range(most, 0, -1) if best_width % number == 0)
    return Shape(best_width, layers, heads), per_block * layers * best_width**2 + rows * best_width


@dataclass(frozen=True)
class Configuration:
    """The configuration to train next.

    Attributes:
        params: Size of the model, as the shape has it.
        tokens: Training tokens (or samples).
        shape: Width, depth and heads.
        learning_rate: Peak learning rate; ``None`` where the present one is not known.
        batch_tokens: Tokens (or samples) a step; ``None`` where the present ones are not known.
        steps: Optimizer steps; ``None`` without a batch.
        rule: By which rule rate and batch were carried over.
    """

    params: float
    tokens: float
    shape: Shape | None
    learning_rate: float | None
    batch_tokens: float | None
    steps: int | None
    rule: str

    def sentence(self, unit: str) -> str:
        """The configuration as the end of a sentence.

        Args:
            unit: What is counted: ``"tokens"`` or ``"samples"``.
        """
        parts = []
        if self.shape is not None:
            parts += [f"width {self.shape.width:,}", f"{self.shape.layers:,} layers"]
            parts += [f"{self.shape.heads:,} heads"] if self.shape.heads else []
        if self.learning_rate is not None:
            parts.append(f"peak learning rate {self.learning_rate:.2g}")
        if self.batch_tokens is not None:
            parts.append(f"{quantity(self.batch_tokens)} {unit} a step, {self.steps:,} steps")
        carried = self.learning_rate is not None or self.batch_tokens is not None
        how = ", ".join(parts) + (f" (rate and batch by {NAMED[self.rule]})" if carried else "")
        begun = f"next, try {quantity(self.params)} parameters on {quantity(self.tokens)} {unit}"
        return f"{begun}: {how}" if how else begun

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, and ``width``, ``layers`` and ``heads`` for the shape, as builtins."""
        shape = vars(self.shape) if self.shape is not None else dict.fromkeys(_SHAPE)
        return {name: value for name, value in vars(self).items() if name != "shape"} | shape

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Configuration:
        """The configuration that :meth:`to_dict` described."""
        own = {name: value for name, value in data.items() if name not in _SHAPE}
        shape = None if data["width"] is None else Shape(*(data[name] for name in _SHAPE))
        return cls(**own, shape=shape)


def step_law_exponents() -> tuple[float, float, float]:
    """Exponents of the rate in size and in tokens, and of the batch in tokens (Li et al. 2025, arXiv 2503.04715)."""
    rate = get("step_law_rate").published["step-law"].values
    return rate["alpha"], rate["beta"], get("step_law_batch").published["step-law"].values["gamma"]


def next_configuration(now: ModelState, params: float, tokens: float, rule: Rule = "step_law") -> Configuration:
    """A configuration of about a size for so many tokens, its rate and batch carried over from the present ones.

    ============== ======================================================================================
    rule           carries the present rate and batch over as
    ============== ======================================================================================
    ``"step_law"`` rate by ``params^-.713 tokens^.307``, without embeddings; batch by ``tokens^.571`` (Li et al.
                   2025, arXiv 2503.04715, equation 1)
    ``"deepseek"`` rate by ``flops^-.125``, batch by ``flops^.327`` (Bi et al. 2024, arXiv 2401.02954, equation 1)
    ``"mup"``      rate of the hidden matrices under Adam by ``1/width``, batch unchanged (Yang et al. 2022, arXiv
                   2203.03466, table 3)
    ============== ======================================================================================

    Args:
        now: The present run; without equal blocks (``shaped``) no shape is proposed.
        params: Active size wanted; a mixture keeps its share of active parameters.
        tokens: Training tokens.
        rule: See above.

    Raises:
        ValueError: There is no such rule.
    """
    one_of("rule", rule, get_args(Rule))
    shape, rate, batch, steps = now.shape, now.rate, now.tokens_per_step, None
    made, size = shape_for(params, shape, now.size, now.embedding) if now.shaped else (None, params)
    body, body_now, wider = size, now.size, (size / now.size) ** (1 / 3)
    if made is not None and shape is not None:
        body, body_now = size - now.embedding / shape.width * made.width, now.size - now.embedding
        wider = made.width / shape.width
    grown, longer = body / max(body_now, 1.0), tokens / now.tokens
    if rule == "step_law":
        by_params, by_tokens, batch_by_tokens = step_law_exponents()
        of_rate, of_batch = grown**by_params * longer**by_tokens, longer**batch_by_tokens
    elif rule == "deepseek":
        more = size / now.size * longer
        of_rate, of_batch = (
            more ** get(law).published["deepseek"].values["a"] for law in ("deepseek_rate", "deepseek_batch")
        )
    else:
        of_rate, of_batch = 1 / wider, 1.0
    if batch is not None:
        eighth = batch / 8
        batch = max(round(batch * of_batch / eighth), 1) * eighth
        steps = math.ceil(tokens / batch)
    if rate is not None:
        rate = float(f"{rate * of_rate:.2g}")
    return Configuration(size, tokens, made, rate, batch, steps, rule)
