"""Hand formulas for the FLOPs of training, for checks and for runs whose operations cannot be counted.

Everywhere one multiply-add is two FLOPs, and only matrix products count: biases, norms, activations, softmax, embedding
lookups and the optimizer are left out. Causal attention is counted in full, as if no score were masked, because that is
what published FLOP figures and torch's counter do.
"""

from __future__ import annotations

import math
from numbers import Real


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"`{name}` must be a finite number that is not negative, but got {value!r}.")
    return value


def attention_flops(tokens: float, *, layers: float, width: float, context: float) -> float:
    r"""FLOPs of the attention scores and their use, forward and backward: ``12 * layers * width * context * tokens``.

    Per token and layer the forward pass does two products of ``2 * width * context`` FLOPs (queries with keys, scores
    with values), and the backward pass twice as many again. Causal masks are not subtracted, and neither is the score
    matrix that fused kernels build a second time in the backward pass added.

    Args:
        tokens: Tokens processed.
        layers: Attention layers.
        width: Heads times head size, usually the model width.
        context: Tokens each token attends over.

    Returns:
        FLOPs, forward and backward.

    Raises:
        ValueError: If an argument is negative or not finite.

    References:
        Kaplan et al. 2020 (2001.08361), table 1; DeepSeek LLM (2401.02954), section 3.2.
    """
    tokens, layers = _positive("tokens", tokens), _positive("layers", layers)
    return 12 * layers * _positive("width", width) * _positive("context", context) * tokens


def dense_flops(
    params: float,
    tokens: float,
    *,
    layers: float | None = None,
    width: float | None = None,
    context: float | None = None,
) -> float:
    r"""FLOPs of training a dense model: ``6 * params * tokens``, plus the attention term if sized.

    Two FLOPs per parameter and token forward, four backward. The result is an ``int`` when all arguments are, so it is
    exact beyond ``2**63``.

    Args:
        params: Parameters used in matrix products (the tied or untied output head is one; tables that are only looked
            up are not). For a mixture of experts, the active ones.
        tokens: Tokens processed, or samples for a model that uses each weight once per sample.
        layers: Attention layers.
        width: Heads times head size, usually the model width.
        context: Tokens each token attends over.

    Returns:
        FLOPs, forward and backward.

    Raises:
        ValueError: If an argument is negative or not finite, or only some of the three sizes are given.

    References:
        Kaplan et al. 2020 (2001.08361), section 2.1.

    Example:
        >>> dense_flops(124_000_000, 1024)
        761856000000
    """
    total = 6 * _positive("params", params) * _positive("tokens", tokens)
    given = [size for size in (layers, width, context) if size is not None]
    if not given:
        return total
    if layers is None or width is None or context is None:
        raise ValueError("The attention term needs `layers`, `width` and `context` together: give all three or none.")
    return total + attention_flops(tokens, layers=layers, width=width, context=context)


def flops_per_token(*, layers: float, width: float, context: float) -> float:
    r"""Model scale of DeepSeek: FLOPs per token, ``M = 72 * layers * width**2 + 12 * layers * width * context``.

    For a transformer whose feed-forward part is four times as wide as the model; forward and backward, attention in
    full, vocabulary left out.

    Args:
        layers: Transformer layers.
        width: Model width.
        context: Sequence length.

    Returns:
        FLOPs per token, forward and backward.

    Raises:
        ValueError: If an argument is negative or not finite.

    References:
        DeepSeek LLM (2401.02954), equation 2.

    Example:
        >>> flops_per_token(layers=12, width=768, context=1024)
        622854144
    """
    layers, width = _positive("layers", layers), _positive("width", width)
    return 72 * layers * width * width + 12 * layers * width * _positive("context", context)


def gpt_flops(
    batch: int,
    context: int,
    *,
    layers: int,
    width: int,
    vocab: int,
    hidden: int | None = None,
    kv_width: int | None = None,
) -> int:
    r"""Exact matrix-product FLOPs of one forward and backward pass of a decoder-only transformer.

    Per layer: queries ``width * width``, keys and values ``2 * width * kv_width``, output ``width * width``, and two
    feed-forward matrices ``2 * width * hidden``; then one head ``width * vocab``; each costs six FLOPs per weight and
    token. Attention adds :func:`attention_flops`. Every matrix product is taken to need both gradients, which holds
    when the embedding below it is trained.

    Args:
        batch: Sequences.
        context: Tokens in a sequence.
        layers: Transformer layers.
        width: Model width.
        vocab: Rows of the output head.
        hidden: Width of the feed-forward part, ``4 * width`` unless given.
        kv_width: Width of keys and of values each (grouped-query attention), ``width`` unless given.

    Returns:
        FLOPs, forward and backward, as an exact ``int``.

    Example:
        >>> gpt_flops(8, 1024, layers=12, width=768, vocab=50257)
        6999559372800
    """
    hidden = 4 * width if hidden is None else hidden
    kv_width = width if kv_width is None else kv_width
    weights = layers * (2 * width * width + 2 * width * kv_width + 2 * width * hidden) + width * vocab
    return 6 * weights * batch * context + 12 * layers * width * context * batch * context
