"""A check that FLOPs are counted rightly on this machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_scaling.compute.flops import FlopMeter
from lightning_scaling.compute.transformer_flops import gpt_flops

_TOLERANCE = 0.02


class _Block(nn.Module):
    """Embedding, one causal attention layer with its feed-forward part, and a head."""

    def __init__(self, vocab: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocab, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        split = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).movedim(1, 3)
        mixed = nn.functional.scaled_dot_product_attention(split[:, 0], split[:, 1], split[:, 2], is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(-2))
        logits: Tensor = self.head(hidden + self.wide(hidden))
        return logits


def selfcheck() -> tuple[bool, str]:
    """Count a small causal attention block on a real step, and compare with the count by hand.

    Returns:
        Whether they agree within 2 %, and a sentence with the numbers.
    """
    batch, context, vocab, width = 2, 64, 96, 32
    by_hand = gpt_flops(batch, context, layers=1, width=width, vocab=vocab)
    try:
        with torch.random.fork_rng(devices=[]):
            module = _Block(vocab, width, 4)
        ids, meter = torch.zeros(batch, context, dtype=torch.long), FlopMeter()
        with meter.watch(module, ids):
            module(ids).sum().backward()
        counted = meter.per_batch(ids) or 0
    except Exception as error:
        return False, f"FLOP counting failed on a causal attention block: {error}"
    ok = meter.provenance == "counter" and abs(counted / by_hand - 1) <= _TOLERANCE
    verb = "agrees with" if ok else "disagrees with"
    figures = f"{counted} on a real step, {by_hand} by hand"
    return ok, f"FLOP counting {verb} the hand count of a causal attention block: {figures}."
