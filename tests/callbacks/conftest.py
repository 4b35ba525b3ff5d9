import importlib
import importlib.util
import random
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

NAMESPACES = [one for one in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(one.split(".")[0])]
_LIGHTNING_WARNS = (
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.* is deprecated:FutureWarning",
    "ignore:.*training_step. returned .None",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for text in _LIGHTNING_WARNS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(params=NAMESPACES)
def both(request):
    """Each of Lightning's two names that is installed, in turn."""
    return importlib.import_module(request.param)


@pytest.fixture
def pl():
    """``lightning.pytorch``, or ``pytorch_lightning`` where that alone is installed."""
    return importlib.import_module(NAMESPACES[0])


def _listed(callbacks):
    return callbacks if isinstance(callbacks, list) else [callbacks]


class Steps:
    """Ways to train, as ``training_step`` and ``configure_optimizers`` of a module; ``true`` keeps each raw loss."""

    def loss_of(self, batch):
        loss = self.net(batch["x"] if isinstance(batch, dict | UserDict) else batch).square().mean()
        self.true.append(loss.detach().clone())
        return loss

    def automatic(self, batch, batch_idx):
        return self.loss_of(batch)

    def as_dict(self, batch, batch_idx):
        loss = self.loss_of(batch)
        return {"loss": loss, "aux": loss * 2, "text": "kept by nobody"}

    def skipping(self, batch, batch_idx):
        loss = self.loss_of(batch)
        return None if batch_idx % 3 == 1 else loss

    def manual(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss_of(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def manual_two(self, batch, batch_idx):
        total = 0
        for optimizer in self.optimizers():
            loss = self.loss_of(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            total = total + loss.detach() / 2
        self.true[-2:] = [total.clone()]
        return {"loss": total}

    def manual_grouped(self, batch, batch_idx):
        loss = self.loss_of(batch)
        self.manual_backward(loss)
        if batch_idx % 4 == 3 or self.trainer.is_last_batch:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return loss

    def manual_silent(self, batch, batch_idx):
        self.manual(batch, batch_idx)


@pytest.fixture
def module():
    """Make a module of a namespace: ``module(pl, step="automatic", schedule=None, log=None)``."""

    def make(pl, step="automatic", *, schedule=None, optimizers=1, lr=0.01, log=None):
        class Model(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = not step.startswith("manual")
                self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))
                self.true = []

            def training_step(self, batch, batch_idx):
                output = getattr(Steps, step)(self, batch, batch_idx)
                if log is not None:
                    log(self, batch, batch_idx)
                return output

            def configure_optimizers(self):
                made = [torch.optim.SGD(self.net.parameters(), lr=lr * 0.5**i) for i in range(optimizers)]
                if schedule is None:
                    return made
                return made, [{"scheduler": schedule(made[0]), "interval": "step"}]

        for name, function in vars(Steps).items():
            if callable(function) and not name.startswith("__"):
                setattr(Model, name, function)
        torch.manual_seed(1)
        return Model()

    return make


@pytest.fixture
def loader():
    """A loader of ``n`` samples of 4 numbers in batches of ``size``, the last one short."""

    def make(n=22, size=4, wrap=None):
        data = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
        collate = None if wrap is None else lambda items: wrap(torch.stack(items))
        return DataLoader(data, batch_size=size, collate_fn=collate)

    return make


@pytest.fixture
def trainer(tmp_path):
    """A quiet Trainer of a namespace."""

    def make(pl, callbacks, **settings):
        settings = {
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": any("Checkpoint" in type(one).__name__ for one in _listed(callbacks)),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            **settings,
        }
        return pl.Trainer(callbacks=callbacks, **settings)

    return make


@pytest.fixture
def fit(trainer, loader):
    """Train a module on a loader, or on so many samples in batches of 4; gives the Trainer back."""

    def run(pl, callbacks, model, *, batches=22, ckpt_path=None, **settings):
        made = trainer(pl, callbacks, **settings)
        made.fit(model, loader(batches) if isinstance(batches, int) else batches, ckpt_path=ckpt_path)
        return made

    return run


@pytest.fixture
def true_steps():
    """Mean of each group of raw losses: groups of ``k`` micro-batches that end with the epoch of ``per_epoch``."""

    def group(true, k, per_epoch):
        losses = [float(loss) for loss in true]
        epochs = [losses[start : start + per_epoch] for start in range(0, len(losses), per_epoch)]
        return [float(np.mean(epoch[i : i + k])) for epoch in epochs for i in range(0, len(epoch), k)]

    return group


@pytest.fixture
def random_state():
    def read():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    return read
