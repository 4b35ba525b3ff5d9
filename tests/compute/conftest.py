import pytest
import torch
from torch import nn
from torch.nn import functional as F

WIDTH, VOCAB = 32, 96


class GPT(nn.Module):
    def __init__(self, dropout=0.0, tied=False, layers=2):
        super().__init__()
        width, vocab = WIDTH, VOCAB
        self.embed, self.place = nn.Embedding(vocab, width), nn.Embedding(128, width)
        self.heads, self.dropout = 4, dropout
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "wide": nn.Linear(width, 4 * width),
                    "narrow": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        batch, length = ids.shape
        hidden = self.embed(ids) + self.place(torch.arange(length))
        for layer in self.layers:
            parts = layer["qkv"](layer["norm"](hidden)).chunk(3, -1)
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
            rate = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
            hidden = hidden + F.dropout(layer["out"](mixed.transpose(1, 2).flatten(2)), rate)
            hidden = hidden + layer["narrow"](F.gelu(layer["wide"](hidden)))
        return self.head(hidden)


@pytest.fixture
def make_gpt():
    return GPT
