"""Tasks of the zoo with other objectives: contrastive, taught, fine-tuned, several at once, densities, rankings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from _zoo_sequences import text
from _zoo_training import Task
from _zoo_vision import Batches, mlp, split, tensor
from sklearn import datasets
from torch import nn
from torch.nn import functional

Make = Callable[[int], Task]


def _digits(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    data = datasets.load_digits()
    return split(seed, tensor(data.data / 16), torch.tensor(data.target))


def contrastive(batch: int = 64, triplet: bool = False) -> Make:
    """Two disturbed views of each digit found again among the others, or digits of a kind drawn together."""

    def make(seed: int) -> Task:
        train, held = _digits(seed)
        model, batches = mlp(64, 96, 32), Batches(train, batch)

        def of(x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            if triplet:
                z = functional.normalize(model(x), dim=1)
                apart = torch.cdist(z, z)
                same = y[:, None] == y
                far, near = (apart * same).max(1).values, (apart + 9 * same).min(1).values
                return functional.relu(far - near + 0.5).mean()
            views = [
                functional.normalize(model(x + 0.25 * torch.randn(x.shape, generator=generator)), dim=1)
                for _ in range(2)
            ]
            return functional.cross_entropy(views[0] @ views[1].T / 0.2, torch.arange(len(x)))

        def evaluate() -> dict[str, float]:
            return {"val_loss": float(of(held[0][:batch], held[1][:batch], torch.Generator().manual_seed(0)))}

        return Task(model, lambda g: of(*batches(g), g), evaluate, batches.epoch)

    return make


def distillation(batch: int = 32) -> Make:
    """A small network taught by a larger one."""

    def make(seed: int) -> Task:
        train, held = _digits(seed)
        teacher = mlp(64, 128, 10)
        optimizer, batches = torch.optim.Adam(teacher.parameters(), 2e-3), Batches(train, 64)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(300):
            x, y = batches(generator)
            optimizer.zero_grad()
            functional.cross_entropy(teacher(x), y).backward()
            optimizer.step()
        model, drawn = mlp(64, 12, 10), Batches(train, batch)

        def of(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                target = torch.softmax(teacher(x) / 3, 1)
            return functional.kl_div(torch.log_softmax(model(x) / 3, 1), target, reduction="batchmean") * 9

        def evaluate() -> dict[str, float]:
            right = (model(held[0]).argmax(1) == held[1]).float().mean()
            return {"val_loss": float(of(held[0])), "val_acc": float(right)}

        return Task(model, lambda g: of(drawn(g)[0]), evaluate, drawn.epoch)

    return make


def finetuning(batch: int = 16) -> Make:
    """A network trained on the digits below five goes on with the others."""

    def make(seed: int) -> Task:
        (x, y), (held_x, held_y) = _digits(seed)
        model = mlp(64, 64, 64, 5)
        optimizer, batches = torch.optim.Adam(model.parameters(), 2e-3), Batches([x[y < 5], y[y < 5]], 32)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(400):
            optimizer.zero_grad()
            inputs, labels = batches(generator)
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        new = Batches([x[y >= 5], y[y >= 5] - 5], batch)
        kept = held_y >= 5

        def evaluate() -> dict[str, float]:
            out = model(held_x[kept])
            right = (out.argmax(1) == held_y[kept] - 5).float().mean()
            return {"val_loss": float(functional.cross_entropy(out, held_y[kept] - 5)), "val_acc": float(right)}

        def loss(generator: torch.Generator) -> torch.Tensor:
            inputs, labels = new(generator)
            return functional.cross_entropy(model(inputs), labels)

        return Task(model, loss, evaluate, new.epoch)

    return make


def multitask(batch: int = 64) -> Make:
    """The class, whether it is even, and the mean brightness of digits at once."""

    def make(seed: int) -> Task:
        train, held = _digits(seed)
        model, batches = mlp(64, 64, 13), Batches(train, batch)

        def of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out = model(x)
            even = functional.cross_entropy(out[:, 10:12], y % 2)
            return functional.cross_entropy(out[:, :10], y) + even + 10 * functional.mse_loss(out[:, 12], x.mean(1))

        return Task(model, lambda g: of(*batches(g)), lambda: {"val_loss": float(of(*held))}, batches.epoch)

    return make


def density(kind: str = "mixture", batch: int = 64) -> Make:
    """Negative log likelihoods, which pass through zero: a mixture density, a normal with its scale, survival times."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(12)
        x = rng.uniform(-2, 2, (3000, 2))
        y = np.sin(2 * x[:, :1]) + np.where(rng.random((3000, 1)) < 0.5, 0.6, -0.6) + rng.normal(0, 0.05, (3000, 1))
        if kind == "survival":
            y = rng.exponential(np.exp(x[:, :1] - 0.5 * x[:, 1:]))
        train, held = split(seed, tensor(x), tensor(y))
        model, batches = mlp(2, 48, 48, 9 if kind == "mixture" else 2), Batches(train, batch)

        def of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out = model(x)
            if kind == "survival":
                shape, rate = functional.softplus(out[:, :1]) + 0.1, out[:, 1:]
                logs = torch.log(y + 1e-3) + rate
                return (torch.exp((shape * logs).clamp(max=8)) - torch.log(shape) - shape * logs).mean()
            if kind == "normal":
                return (out[:, 1:] + 0.5 * ((y - out[:, :1]) / out[:, 1:].exp()) ** 2).mean()
            logits, means, scales = out.chunk(3, 1)
            logs = torch.log_softmax(logits, 1) - scales - 0.5 * ((y - means) / scales.exp()) ** 2
            return -torch.logsumexp(logs, 1).mean()

        return Task(model, lambda g: of(*batches(g)), lambda: {"val_loss": float(of(*held))}, batches.epoch)

    return make


def ranking(batch: int = 32) -> Make:
    """The order of items in lists, pair by pair."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(13)
        items = rng.normal(0, 1, (800, 8, 10))
        worth = np.tanh(items[..., :3]).sum(-1) + 0.5 * items[..., 3] * items[..., 4] + rng.normal(0, 0.5, (800, 8))
        train, held = split(seed, tensor(items), tensor(worth))
        model, batches = mlp(10, 32, 1), Batches(train, batch)

        def of(items: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
            score = model(items)[..., 0]
            better = (worth[:, :, None] > worth[:, None]).float()
            return (functional.softplus(score[:, None] - score[:, :, None]) * better).sum() / better.sum()

        return Task(model, lambda g: of(*batches(g)), lambda: {"val_loss": float(of(*held))}, batches.epoch)

    return make


def embeddings(batch: int = 128) -> Make:
    """Neighbours of the words of source text told from drawn ones."""

    def make(seed: int) -> Task:
        words = bytes(text().tolist()).decode("latin-1").split()
        index = {word: i for i, word in enumerate(sorted(set(words)))}
        place = torch.tensor([index[word] for word in words])
        model = nn.ModuleList([nn.Embedding(len(index), 24), nn.Embedding(len(index), 24)])

        def of(generator: torch.Generator, count: int) -> torch.Tensor:
            at = torch.randint(2, len(place) - 2, (count,), generator=generator)
            near = place[at + torch.randint(1, 3, (count,), generator=generator)]
            drawn = place[torch.randint(len(place), (count, 5), generator=generator)]
            center = model[0](place[at]) * 0.2
            good = (center * model[1](near)).sum(1)
            bad = torch.einsum("nd,nkd->nk", center, model[1](drawn))
            return functional.softplus(-good).mean() + functional.softplus(bad).sum(1).mean()

        return Task(model, lambda g: of(g, batch))

    return make
