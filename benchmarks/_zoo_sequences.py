"""Tasks of the zoo on text, graphs, ratings, environments and equations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _zoo_training import Task
from _zoo_vision import Batches, mlp, split, tensor
from torch import nn
from torch.nn import functional

Make = Callable[[int], Task]


def text() -> torch.Tensor:
    """Bytes of some modules of the standard library."""
    folder = Path(inspect.__file__).parent
    names = ("argparse.py", "ast.py", "calendar.py", "cmd.py", "csv.py", "inspect.py", "json/decoder.py", "textwrap.py")
    joined = b"".join((folder / name).read_bytes() for name in names)
    return torch.tensor(list(joined), dtype=torch.long).clamp(max=127)


class _Transformer(nn.Module):
    def __init__(self, width: int = 48, layers: int = 2, experts: int = 0, causal: bool = True) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(129, width), nn.Parameter(torch.randn(64, width) * 0.02)
        self.attend = nn.ModuleList([nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * layers)])
        self.feed = nn.ModuleList(
            [nn.ModuleList([mlp(width, 3 * width, width) for _ in range(max(experts, 1))]) for _ in range(layers)]
        )
        self.route = nn.ModuleList([nn.Linear(width, max(experts, 1)) for _ in range(layers)])
        self.out, self.causal = nn.Linear(width, 128), causal

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        size = tokens.shape[1]
        x = self.embed(tokens) + self.place[:size]
        mask = torch.triu(torch.ones(size, size, dtype=torch.bool), 1) if self.causal else None
        for i, attend in enumerate(self.attend):
            normed = self.norms[2 * i](x)
            x = x + attend(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
            normed = self.norms[2 * i + 1](x)
            gates = torch.softmax(self.route[i](normed), -1)
            x = x + sum(gates[..., e : e + 1] * feed(normed) for e, feed in enumerate(self.feed[i]))
        return self.out(x)


class _Recurrent(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.cell, self.out = (
            nn.Embedding(129, 24),
            nn.LSTM(24, width, batch_first=True),
            nn.Linear(width, 128),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(self.embed(tokens))[0])


def language(kind: str = "transformer", length: int = 32, batch: int = 8, bytes_: int = 0) -> Make:
    """Next bytes of source text; with few bytes over many epochs it is learned by heart."""

    def make(seed: int) -> Task:
        data = text()
        held, train = data[-20000:], data[: bytes_ or -20000]
        model: nn.Module = _Recurrent() if kind == "lstm" else _Transformer(experts=3 if kind == "experts" else 0)

        def windows(source: torch.Tensor, generator: torch.Generator, count: int) -> torch.Tensor:
            at = torch.randint(len(source) - length - 1, (count, 1), generator=generator)
            return source[at + torch.arange(length + 1)]

        def of(tokens: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

        seen = windows(held, torch.Generator().manual_seed(0), 64)
        epoch = len(train) // (length * batch)
        return Task(model, lambda g: of(windows(train, g, batch)), lambda: {"val_loss": float(of(seen))}, epoch)

    return make


def masked(length: int = 32, batch: int = 16) -> Make:
    """Bytes left out of source text."""

    def make(seed: int) -> Task:
        data, model = text(), _Transformer(causal=False)

        def of(generator: torch.Generator, count: int) -> torch.Tensor:
            at = torch.randint(len(data) - length, (count, 1), generator=generator)
            tokens = data[at + torch.arange(length)]
            hidden = torch.rand(tokens.shape, generator=generator) < 0.2
            return functional.cross_entropy(model(tokens.masked_fill(hidden, 128))[hidden], tokens[hidden])

        return Task(
            model, lambda g: of(g, batch), lambda: {"val_loss": float(of(torch.Generator().manual_seed(0), 64))}
        )

    return make


def translation(batch: int = 32, size: int = 8, curriculum: int = 0) -> Make:
    """Sequences sorted by a transformer that sees them and then writes; they may begin short."""

    def make(seed: int) -> Task:
        model, count = _Transformer(), iter(range(10**9))

        def draw(generator: torch.Generator, count: int, length: int) -> torch.Tensor:
            given = torch.randint(1, 30, (count, length), generator=generator)
            return torch.cat([given, torch.zeros(count, 1, dtype=torch.long), given.sort(1).values], 1)

        def of(tokens: torch.Tensor) -> torch.Tensor:
            length = tokens.shape[1] // 2
            return functional.cross_entropy(
                model(tokens[:, :-1])[:, length:].flatten(0, 1), tokens[:, length + 1 :].flatten()
            )

        def loss(generator: torch.Generator) -> torch.Tensor:
            step = next(count)
            return of(draw(generator, batch, min(size, 3 + step // curriculum) if curriculum else size))

        fixed = draw(torch.Generator().manual_seed(0), 128, size)

        def evaluate() -> dict[str, float]:
            out = model(fixed[:, :-1])[:, size:].argmax(-1)
            return {"val_loss": float(of(fixed)), "val_acc": float((out == fixed[:, size + 1 :]).float().mean())}

        return Task(model, loss, evaluate)

    return make


def recommendation(batch: int = 256, implicit: bool = False) -> Make:
    """Ratings by factors of users and items."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(10)
        user, item = rng.integers(0, 300, 12000), rng.integers(0, 200, 12000)
        truth = np.sum(rng.normal(0, 0.6, (300, 5))[user] * rng.normal(0, 0.6, (200, 5))[item], 1)
        rating = truth + rng.normal(0, 0.4, 12000)
        rating = (rating > 0.3).astype(float) if implicit else rating
        train, held = split(seed, torch.tensor(user), torch.tensor(item), tensor(rating))
        model = nn.ModuleList([nn.Embedding(300, 12), nn.Embedding(200, 12)])
        for part in model:
            nn.init.normal_(part.weight, std=0.1)
        criterion = functional.binary_cross_entropy_with_logits if implicit else functional.mse_loss

        def of(user: torch.Tensor, item: torch.Tensor, rating: torch.Tensor) -> torch.Tensor:
            return criterion((model[0](user) * model[1](item)).sum(1), rating)

        batches = Batches(train, batch)
        return Task(model, lambda g: of(*batches(g)), lambda: {"val_loss": float(of(*held))}, batches.epoch)

    return make


def graph() -> Make:
    """Nodes of a drawn graph of four communities, full batch."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(11)
        label = rng.integers(0, 4, 400)
        edges = rng.random((400, 400)) < np.where(label[:, None] == label, 0.03, 0.012)
        joined = tensor(edges | edges.T) + torch.eye(400)
        joined = joined / joined.sum(1, keepdim=True)
        x, y = (
            tensor(rng.normal(0, 1, (400, 16)) + 0.5 * np.eye(4)[label] @ rng.normal(0, 1, (4, 16))),
            torch.tensor(label),
        )
        known = torch.rand(400, generator=torch.Generator().manual_seed(seed)) < 0.3
        model = nn.ModuleList([nn.Linear(16, 32), nn.Linear(32, 4)])

        def out() -> torch.Tensor:
            return joined @ model[1](functional.dropout(torch.relu(joined @ model[0](x)), 0.5, model.training))

        def evaluate() -> dict[str, float]:
            found = out()[~known]
            return {
                "val_loss": float(functional.cross_entropy(found, y[~known])),
                "val_acc": float((found.argmax(1) == y[~known]).float().mean()),
            }

        return Task(model, lambda _: functional.cross_entropy(out()[known], y[known]), evaluate)

    return make


def policy(kind: str = "walk", batch: int = 16) -> Make:
    """Policy gradients: a walk to a goal, or a bandit with a context; the reward is logged."""

    def make(seed: int) -> Task:
        model = mlp(4, 32, 2 if kind == "walk" else 5)
        weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
        baseline, recent = [0.0], [0.0]

        def episode(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            if kind == "bandit":
                context = torch.randn(count, 4, generator=generator)
                chances = torch.log_softmax(model(context), 1)
                arm = torch.multinomial(chances.exp(), 1, generator=generator)
                reward = (context @ weights).gather(1, arm)[:, 0] + torch.randn(count, generator=generator)
                return chances.gather(1, arm)[:, 0], reward
            place, speed = torch.rand(count, 1, generator=generator) * 2 - 1, torch.zeros(count, 1)
            logs, reward = torch.zeros(count), torch.zeros(count)
            for time in range(20):
                state = torch.cat([place, speed, place**2, torch.full_like(place, time / 20)], 1)
                chances = torch.log_softmax(model(state), 1)
                move = torch.multinomial(chances.exp().detach(), 1, generator=generator)
                logs = logs + chances.gather(1, move)[:, 0]
                speed = 0.9 * speed + 0.1 * (2 * move - 1) + 0.03 * torch.randn(count, 1, generator=generator)
                place = place + speed
                reward = reward - place[:, 0].abs()
            return logs, reward

        def loss(generator: torch.Generator) -> torch.Tensor:
            logs, reward = episode(generator, batch)
            found = -(logs * (reward - baseline[0]) / (reward.std() + 1e-3)).mean()
            baseline[0] += 0.1 * (float(reward.mean()) - baseline[0])
            recent[0] = float(reward.mean())
            return found

        return Task(model, loss, lambda: {"reward": float(episode(torch.Generator().manual_seed(0), 64)[1].mean())})

    return make


def equation(kind: str = "oscillator") -> Make:
    """A network whose residual in a differential equation is the loss."""

    def make(seed: int) -> Task:
        model = nn.Sequential(
            nn.Linear(1 if kind == "oscillator" else 2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
        )

        def loss(generator: torch.Generator) -> torch.Tensor:
            at = torch.rand(64, 1 if kind == "oscillator" else 2, generator=generator).requires_grad_()
            value = model(at)
            first = torch.autograd.grad(value.sum(), at, create_graph=True)[0]
            second = torch.autograd.grad(first[:, -1].sum(), at, create_graph=True)[0][:, -1:]
            if kind == "oscillator":
                start = torch.zeros(1, 1).requires_grad_()
                begun = model(start)
                speed = torch.autograd.grad(begun.sum(), start, create_graph=True)[0]
                return ((second + 36 * value) ** 2).mean() / 100 + 10 * ((begun - 1) ** 2 + speed**2 / 10).mean()
            edge = torch.rand(64, 1, generator=generator)
            begun = model(torch.cat([torch.zeros_like(edge), edge], 1)) - torch.sin(math.pi * edge)
            ends = torch.cat([model(torch.cat([edge, torch.full_like(edge, side)], 1)) for side in (0.0, 1.0)])
            return ((first[:, :1] - 0.1 * second) ** 2).mean() + 10 * (begun**2).mean() + 10 * (ends**2).mean()

        return Task(model, loss)

    return make
