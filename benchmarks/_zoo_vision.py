"""Tasks of the zoo on images, tables and signals; data are those that scikit-learn ships, or drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from _zoo_training import Task
from sklearn import datasets
from torch import nn
from torch.nn import functional

Make = Callable[[int], Task]


def tensor(values: object) -> torch.Tensor:
    """Values as 32-bit floats."""
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def split(seed: int, *columns: torch.Tensor, held: float = 0.25) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Rows for training and rows held out, the same for all columns."""
    order = torch.randperm(len(columns[0]), generator=torch.Generator().manual_seed(seed))
    cut = int(len(order) * held)
    return [c[order[cut:]] for c in columns], [c[order[:cut]] for c in columns]


class Batches:
    """Batches of a data set in random order, epoch by epoch."""

    def __init__(self, columns: list[torch.Tensor], size: int) -> None:
        self.columns, self.size = columns, min(size, len(columns[0]))
        self._left = torch.empty(0, dtype=torch.long)

    def __call__(self, generator: torch.Generator) -> list[torch.Tensor]:
        """The next batch."""
        if len(self._left) < self.size:
            self._left = torch.randperm(len(self.columns[0]), generator=generator)
        picked, self._left = self._left[: self.size], self._left[self.size :]
        return [column[picked] for column in self.columns]

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.columns[0]) // self.size


def mlp(*sizes: int, dropout: float = 0.0, last: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for one, other in pairwise(sizes):
        layers += [nn.Linear(one, other), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*(layers if last else layers[:-2]))


def supervised(
    model: nn.Module,
    train: list[torch.Tensor],
    held: list[torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    batch: int,
    accuracy: bool = False,
) -> Task:
    """A task of inputs and targets."""
    batches = Batches(train, batch)

    def of_batch(generator: torch.Generator) -> torch.Tensor:
        inputs, targets = batches(generator)
        return loss(model(inputs), targets)

    def evaluate() -> dict[str, float]:
        out = model(held[0])
        found = {"val_loss": float(loss(out, held[1]))}
        if accuracy:
            found["val_acc"] = float((out.argmax(1) == held[1]).float().mean())
        return found

    return Task(model, of_batch, evaluate, batches.epoch)


def classify(
    name: str, widths: tuple[int, ...] = (64,), batch: int = 32, dropout: float = 0.0, noisy: float = 0
) -> Make:
    """Classification of a table that scikit-learn ships; a share of the labels may be drawn anew."""

    def make(seed: int) -> Task:
        data = getattr(datasets, f"load_{name}")()
        inputs = tensor(data.data)
        inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
        labels = torch.tensor(data.target, dtype=torch.long)
        classes = int(labels.max()) + 1
        (x, y), held = split(seed, inputs, labels)
        wrong = torch.rand(len(y)) < noisy
        y = torch.where(wrong, torch.randint(classes, y.shape), y)
        model = mlp(x.shape[1], *widths, classes, dropout=dropout)
        return supervised(model, [x, y], held, functional.cross_entropy, batch, accuracy=True)

    return make


def digits_cnn(batch: int = 32, norm: bool = False, smoothing: float = 0.0) -> Make:
    """Handwritten digits by a convolutional network."""

    def make(seed: int) -> Task:
        data = datasets.load_digits()
        images, labels = tensor(data.images / 16)[:, None], torch.tensor(data.target, dtype=torch.long)
        train, held = split(seed, images, labels)
        layer: Callable[[int], nn.Module] = nn.BatchNorm2d if norm else lambda _: nn.Identity()
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            layer(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            layer(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 10),
        )
        criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
        return supervised(model, train, held, criterion, batch, accuracy=True)

    return make


def regress(name: str, widths: tuple[int, ...] = (32,), batch: int = 32, robust: bool = False) -> Make:
    """Regression of a table, or of a function that scikit-learn draws."""

    def make(seed: int) -> Task:
        if name == "diabetes":
            x, y = datasets.load_diabetes(return_X_y=True)
        elif name == "regression":
            x, y = datasets.make_regression(400, 12, noise=15.0, random_state=3)
        else:
            x, y = getattr(datasets, f"make_{name}")(2000, noise=0.7, random_state=3)
        inputs, targets = tensor(x), tensor(y)
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        targets = ((targets - targets.mean()) / targets.std())[:, None]
        train, held = split(seed, inputs, targets)
        return supervised(
            mlp(inputs.shape[1], *widths, 1),
            train,
            held,
            functional.huber_loss if robust else functional.mse_loss,
            batch,
        )

    return make


def linear(batch: int = 16, condition: float = 100.0) -> Make:
    """Least squares in 30 dimensions, new samples at every step."""

    def make(seed: int) -> Task:
        truth, spread = torch.randn(30), torch.logspace(0, -math.log10(condition) / 2, 30)
        model = nn.Linear(30, 1)

        def loss(generator: torch.Generator) -> torch.Tensor:
            x = torch.randn(batch, 30, generator=generator) * spread
            y = x @ truth + 0.1 * torch.randn(batch, generator=generator)
            return functional.mse_loss(model(x)[:, 0], y)

        return Task(model, loss)

    return make


def series(kind: str, batch: int = 32) -> Make:
    """Forecasting of a drawn series from its last 24 values, by a recurrent or convolutional network."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(5)
        time = np.arange(4000)
        values = (
            np.sin(time / 7) + 0.5 * np.sin(time / 31) + np.cumsum(rng.normal(0, 0.02, 4000)) + rng.normal(0, 0.2, 4000)
        )
        windows = tensor(np.lib.stride_tricks.sliding_window_view((values - values.mean()) / values.std(), 25))
        train, held = ([part[:, :-1], part[:, -1:]] for part in (windows[:3000], windows[3050:]))

        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.out(self.cell(x[..., None])[0][:, -1])

        convolution = nn.Sequential(
            nn.Unflatten(1, (1, 24)),
            nn.Conv1d(1, 16, 5),
            nn.ReLU(),
            nn.Conv1d(16, 16, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 1),
        )
        return supervised(Recurrent() if kind == "gru" else convolution, train, held, functional.mse_loss, batch)

    return make


def tones(batch: int = 32) -> Make:
    """Keyword-like classification of drawn tones in noise by their spectra."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(6)
        label = rng.integers(0, 12, 3000)
        time = np.arange(128)
        pitch = 0.05 + 0.02 * label[:, None] + rng.normal(0, 0.006, (3000, 1))
        sound = np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6, (3000, 1))) + rng.normal(0, 1.5, (3000, 128))
        spectra = tensor(np.log(np.abs(np.fft.rfft(sound)) + 1e-2))
        train, held = split(seed, spectra, torch.tensor(label))
        return supervised(mlp(65, 96, 12, dropout=0.2), train, held, functional.cross_entropy, batch, accuracy=True)

    return make


def autoencoder(bottleneck: int = 8, masked: float = 0.0, batch: int = 64) -> Make:
    """Digits through a bottleneck; a share of the pixels may be masked."""

    def make(seed: int) -> Task:
        images = tensor(datasets.load_digits().data / 16)
        (train,), (held,) = split(seed, images)
        model, batches = mlp(64, 64, bottleneck, 64, 64), Batches([train], batch)

        def loss(generator: torch.Generator) -> torch.Tensor:
            (x,) = batches(generator)
            return functional.mse_loss(model(x * (torch.rand(x.shape, generator=generator) >= masked)), x)

        return Task(model, loss, lambda: {"val_loss": float(functional.mse_loss(model(held), held))}, batches.epoch)

    return make


class _Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 64, 12), mlp(6, 64, 64)

    def forward(self, x: torch.Tensor, generator: torch.Generator, weight: float) -> torch.Tensor:
        mean, log_variance = self.encode(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator)
        out = self.decode(mean + torch.exp(log_variance / 2) * noise)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return functional.mse_loss(out, x, reduction="none").sum(1).mean() + weight * divergence


def vae(batch: int = 64, warmup: int = 0) -> Make:
    """A variational autoencoder of digits; the divergence may be weighed in over some steps."""

    def make(seed: int) -> Task:
        (train,), (held,) = split(seed, tensor(datasets.load_digits().data / 16))
        model, batches, count = _Vae(), Batches([train], batch), iter(range(10**9))

        def loss(generator: torch.Generator) -> torch.Tensor:
            weight = min(1.0, next(count) / warmup) if warmup else 1.0
            return model(batches(generator)[0], generator, 0.2 * weight)

        def evaluate() -> dict[str, float]:
            return {"val_loss": float(model(held, torch.Generator().manual_seed(0), 0.2))}

        return Task(model, loss, evaluate, batches.epoch)

    return make


def diffusion(batch: int = 128) -> Make:
    """A denoising network on points of two moons."""

    def make(seed: int) -> Task:
        points = tensor(datasets.make_moons(4000, noise=0.05, random_state=0)[0])
        model = mlp(3, 64, 64, 2)

        def noised(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            time = torch.rand(len(x), 1, generator=generator)
            noise = torch.randn(x.shape, generator=generator)
            return functional.mse_loss(
                model(torch.cat([torch.sqrt(1 - time) * x + torch.sqrt(time) * noise, time], 1)), noise
            )

        batches = Batches([points[:3000]], batch)
        return Task(
            model,
            lambda generator: noised(batches(generator)[0], generator),
            lambda: {"val_loss": float(noised(points[3000:], torch.Generator().manual_seed(0)))},
            batches.epoch,
        )

    return make


def gan(batch: int = 64) -> Make:
    """A generator against a discriminator on a ring of eight."""

    def make(seed: int) -> Task:
        maker, judge = mlp(4, 48, 48, 2), mlp(2, 48, 48, 1)

        def real(generator: torch.Generator) -> torch.Tensor:
            angle = torch.randint(8, (batch,), generator=generator) * (math.pi / 4)
            return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(batch, 2, generator=generator)

        def step(optimizers: list[torch.optim.Optimizer], generator: torch.Generator) -> float:
            fake = maker(torch.randn(batch, 4, generator=generator))
            loss = (
                functional.softplus(-judge(real(generator))).mean() + functional.softplus(judge(fake.detach())).mean()
            )
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
            fooled = functional.softplus(-judge(fake)).mean()
            optimizers[0].zero_grad()
            fooled.backward()
            optimizers[0].step()
            return float(loss.detach())

        both = nn.ModuleList([maker, judge])
        parts = [list(maker.parameters()), list(judge.parameters())]
        return Task(both, lambda _: torch.zeros(()), step=step, parts=parts)

    return make


def segmentation(batch: int = 16) -> Make:
    """Discs in noise found pixel by pixel."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(8)
        row, column = np.mgrid[:16, :16]
        at, radius = rng.uniform(3, 13, (900, 2, 1, 1)), rng.uniform(2, 5, (900, 1, 1))
        masks = (row - at[:, 0]) ** 2 + (column - at[:, 1]) ** 2 < radius**2
        images = tensor(masks + rng.normal(0, 1.2, masks.shape))[:, None]
        train, held = split(seed, images, tensor(masks)[:, None])
        model = nn.Sequential(
            nn.Conv2d(1, 10, 5, padding=2), nn.ReLU(), nn.Conv2d(10, 10, 5, padding=2), nn.ReLU(), nn.Conv2d(10, 1, 1)
        )
        task = supervised(model, train, held, functional.binary_cross_entropy_with_logits, batch)

        def evaluate() -> dict[str, float]:
            out, truth = model(held[0]), held[1] > 0.5
            both = ((out > 0) & truth).sum() / ((out > 0) | truth).sum()
            return {
                "val_loss": float(functional.binary_cross_entropy_with_logits(out, held[1])),
                "val_iou": float(both),
            }

        return Task(model, task.loss, evaluate, task.epoch_steps)

    return make


def detection(batch: int = 32) -> Make:
    """The box and the class of one shape in noise: two losses added."""

    def make(seed: int) -> Task:
        rng = np.random.default_rng(9)
        size, label = rng.integers(3, 7, 1500), rng.integers(0, 2, 1500)
        corner = rng.integers(0, 9, (1500, 2))
        images = rng.normal(0, 0.4, (1500, 16, 16))
        for i in range(1500):
            (top, left), side = corner[i], size[i]
            shape = np.ones((side, side)) if label[i] else np.tri(side)
            images[i, top : top + side, left : left + side] += shape
        boxes = tensor(np.column_stack([corner, size])) / 16
        train, held = split(seed, tensor(images), boxes, torch.tensor(label))
        model = nn.Sequential(nn.Flatten(), mlp(256, 96, 48, 5))
        batches = Batches(train, batch)

        def loss(x: torch.Tensor, box: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            out = model(x)
            return 5 * functional.smooth_l1_loss(out[:, :3], box) + functional.cross_entropy(out[:, 3:], label)

        def evaluate() -> dict[str, float]:
            right = (model(held[0])[:, 3:].argmax(1) == held[2]).float().mean()
            return {"val_loss": float(loss(*held)), "val_acc": float(right)}

        return Task(model, lambda generator: loss(*batches(generator)), evaluate, batches.epoch)

    return make
