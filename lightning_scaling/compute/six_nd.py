"""The ``6 N D`` estimate, and what it says about a count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_scaling.compute.batch_counter import BatchCounter
from lightning_scaling.compute.opcount import OpCounter
from lightning_scaling.compute.params import ParamCounts
from lightning_scaling.compute.transformer_flops import dense_flops

_LOW, _NOTHING, _HIGH, _LOW_COMPILED = 0.3, 0.01, 5.0, 0.5
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "nhead")


def judge(
    seen: OpCounter, params: ParamCounts, positions: int | None, unit: str, *, compiled: bool = False
) -> tuple[bool, str]:
    """Whether the count of a step can be taken, and a sentence on how it compares with ``6 N D``.

    The comparison is made with the weights that the step was seen to use outside of table lookups, two FLOPs for frozen
    ones, so that embeddings, unused parts and frozen backbones raise no alarm. A count of zero is refused; so is one
    below 1 % of the estimate, or below 30 % when something ran that could not be counted, or when most weights were
    seen to go into no matrix product. Compiled code may do products in kernels of its own, which are not seen: there
    all weights are taken for used, and a count below half of the estimate is refused. More than ``6 N D`` is normal
    where weights are used more than once per sample (convolutions, recurrent layers), so a high count is named only
    where tokens are counted.

    Args:
        seen: What counted the step.
        params: The parameters of the model.
        positions: Tokens or samples of the batch, if known.
        unit: ``"tokens"`` or ``"samples"``.
        compiled: Whether the step ran code made by ``torch.compile``.

    Returns:
        Whether to take it, and the sentence; empty if there is nothing to say.
    """
    hidden = ", ".join(sorted(seen.uncounted)[:4])
    if seen.flops == 0:
        blame = f": {hidden} cannot be counted" if hidden else ""
        return False, f"Counting gave 0 FLOPs and was refused{blame}."
    matrices = [weight for weight in seen.used() if weight.ndim >= 2]
    multiplied = {id(weight) for weight in seen.multiplied()}
    trainable = sum(weight.numel() for weight in matrices if weight.requires_grad)
    used = sum(weight.numel() for weight in matrices)
    unseen = sum(weight.numel() for weight in matrices if id(weight) not in multiplied)
    weights = 6 * max(params.trainable - params.embedding, 0) if compiled else 2 * used + 4 * trainable
    parts = []
    reference = weights * (positions or 0) * params.active / max(params.total, 1)
    if reference:
        ratio = seen.flops / reference
        if compiled and ratio < _LOW_COMPILED:
            return (False, f"Compiled code showed {ratio:.2g} times 6 N D; its own kernels may do the rest.")
        if ratio < _NOTHING or (ratio < _LOW and (hidden or 2 * unseen > used)):
            blame = f": {hidden} cannot be counted" if hidden else ": most weights go into nothing that can be counted"
            return False, f"Counting gave {ratio:.2g} times 6 N D and was refused{blame}."
        parts.append(_compared(ratio, unit))
    if hidden:
        parts.append(f"Not counted, if they do work: {hidden}.")
    if seen.recomputed:
        again = seen.recomputed / seen.flops
        parts.append(f"Checkpointing computes activations again: {again:.0%} on top, not counted.")
    return True, " ".join(part for part in parts if part)


def _compared(ratio: float, unit: str) -> str:
    if ratio < _LOW:
        return (
            f"That is {ratio:.2g} times 6 N D: some weights are used for few of the {unit}; for a mixture of experts "
            "give the active parameters."
        )
    if unit == "tokens" and ratio > _HIGH:
        return (
            f"That is {ratio:.2g} times 6 N D: attention over a long context, or weights used several times per token."
        )
    return f"Cross-check: {ratio:.2f} times 6 N D." if unit == "tokens" else ""


def six_n_d(
    module: nn.Module,
    params: ParamCounts,
    counter: BatchCounter,
    batch: Any,
    sizes: tuple[int | None, int | None, int | None],
) -> tuple[int | float | None, str]:
    """``6 N D`` of a batch, with the attention term where its sizes are given or can be seen.

    ``N`` is every parameter but the embeddings that are only looked up, scaled by the active share; ``D`` the tokens,
    padding included, or the samples.

    Args:
        module: The model, looked at for its attention layers.
        params: Its parameters.
        counter: Counts the batch.
        batch: The batch.
        sizes: Attention layers, width and context, where given.

    Returns:
        The estimate, ``None`` if there is nothing to estimate from, and a sentence on how it was made.
    """
    positions = counter.positions(batch)
    if positions is None:
        return None, "FLOPs cannot be told: the samples of a batch are unknown; give `count=` or `flops=`."
    share = params.active / max(params.total, 1)
    weights = params.matmul if share == 1 else round(params.matmul * share)
    if weights == 0:
        return None, "FLOPs cannot be told: the model has no parameters but embeddings; give `flops=`."
    if counter.unit != "tokens":
        return dense_flops(weights, positions), (
            f"6 N D with N = {weights} and D = samples, a lower bound where weights are used more than once per sample."
        )
    layers, width, context = sizes
    if layers is None or width is None:
        layers, width = seen if (seen := attention_sizes(module)) is not None else (None, None)
    samples, _ = counter.samples_and_tokens(batch)
    if context is None and samples is not None and int(samples) > 0:
        context = positions // int(samples)
    if layers is None or width is None or context is None:
        return dense_flops(weights, positions), f"6 N D with N = {weights}, D = tokens, without attention scores."
    return dense_flops(weights, positions, layers=layers, width=width, context=context), (
        f"6 N D with N = {weights}, D = tokens, and attention: {layers} layers of width {width} over {context} tokens."
    )


def attention_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Attention layers and width, from a configuration that names heads or from ``nn.MultiheadAttention`` modules."""
    for child in module.modules():
        config = vars(child).get("config")
        if config is None:
            continue
        layers, width, heads = (_named(config, names) for names in (_LAYERS, _WIDTHS, _HEADS))
        if layers and width and heads:
            return layers, width
    attentions = [child for child in module.modules() if isinstance(child, nn.MultiheadAttention)]
    return (len(attentions), int(attentions[0].embed_dim)) if attentions else None


def _named(config: Any, names: tuple[str, ...]) -> int | None:
    values = (config.get(name) if isinstance(config, Mapping) else getattr(config, name, None) for name in names)
    return next((value for value in values if type(value) is int), None)
