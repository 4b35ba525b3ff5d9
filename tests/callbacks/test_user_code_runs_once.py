"""The user's code runs exactly as often as without the monitor: weights, generators and files are equal to the bit."""

import queue
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_scaling.callbacks import ScalingLawMonitor

BATCHES, ROWS, WIDTH = 8, 4, 6


class State:
    """What lies outside of the module: made anew for each training."""

    def __init__(self, folder):
        self.folder = folder
        self.python, self.numpy = random.Random(1), np.random.default_rng(1)
        self.torch = torch.Generator().manual_seed(1)
        self.stream = iter(torch.randn(100, ROWS, WIDTH, generator=torch.Generator().manual_seed(2)))
        self.replay, self.averages, self.waiting = deque(maxlen=3), {}, queue.Queue()
        self.hidden, self.history = None, []
        self.draw = lambda: next(self.stream)

    class Shared:
        negatives = None

    def fingerprint(self):
        files = sorted((path.name, path.read_bytes()) for path in self.folder.iterdir())
        numbers = [self.python.random(), self.numpy.random(), *self.history]
        drawn = [torch.rand(2, generator=self.torch), next(self.stream), *self.replay, *self.averages.values()]
        while not self.waiting.empty():
            drawn.append(self.waiting.get())
        drawn += [one for one in (self.hidden, self.Shared.negatives) if one is not None]
        return files, numbers, drawn


def generators(state, module, x):
    mixed = state.python.random() * x + float(state.numpy.random())
    return module.net(mixed + torch.randn(x.shape, generator=state.torch) + random.random() + np.random.rand())


def global_iterator(state, module, x):
    return module.net(torch.cat([x, next(state.stream)]))


def global_deque(state, module, x):
    state.replay.append(x.detach() + len(state.replay))
    return module.net(torch.cat(list(state.replay)))


def dict_of_averages(state, module, x):
    out = module.net(x)
    state.averages["mean"] = 0.9 * state.averages.get("mean", torch.zeros(())) + 0.1 * out.detach().mean()
    return out - state.averages["mean"]


def waiting_queue(state, module, x):
    state.waiting.put(x.detach())
    return module.net(x + (state.waiting.get() if state.waiting.qsize() > 2 else 0))


def class_attribute(state, module, x):
    out = module.net(x)
    past, state.Shared.negatives = state.Shared.negatives, out.detach()
    return out if past is None else out - past


def mutable_default(state, module, x, seen=[]):  # noqa: B006
    if len(seen) >= BATCHES:
        seen.clear()
    seen.append(1.0)
    return module.net(x) * len(seen)


def file_at_first_batch(state, module, x):
    if module.batch_idx == 0:
        assert not (state.folder / "first.pt").exists()
        (state.folder / "first.pt").write_bytes(module.net[0].weight.detach().numpy().tobytes())
        module.net(x.repeat(5, 1))
    return module.net(x)


def hidden_state(state, module, x):
    before = torch.zeros(ROWS, WIDTH) if state.hidden is None else state.hidden
    hidden = torch.tanh(module.cell(x + before))
    state.hidden = hidden.detach()
    return module.net(hidden)


def history_of_items(state, module, x):
    out = module.net(x)
    state.history.append(out.mean().item())
    return out * (1 + state.history[-1])


def lambda_over_iterator(state, module, x):
    return module.net(x + state.draw())


def counter_on_module(state, module, x):
    module.calls.append(next(module.numbers))
    return module.net(x) * (1 + module.calls[-1])


STEPS = [
    generators,
    global_iterator,
    global_deque,
    dict_of_averages,
    waiting_queue,
    class_attribute,
    mutable_default,
    file_at_first_batch,
    hidden_state,
    history_of_items,
    lambda_over_iterator,
    counter_on_module,
]


def make_module(pl, step, state, *, optimizer=None, **settings):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
            self.cell = nn.Linear(WIDTH, WIDTH)
            self.numbers, self.calls, self.steps = iter(range(100)), [], 0

        def training_step(self, batch, batch_idx):
            self.steps += 1
            self.batch_idx = batch_idx
            return step(state, self, batch[0]).square().mean()

        def configure_optimizers(self):
            if optimizer is not None:
                return optimizer(self.parameters())
            return torch.optim.Adam(self.parameters(), 1e-2)

    torch.manual_seed(0)
    return Module()


def fit(pl, module, callbacks, *, rows=BATCHES * ROWS, **settings):
    random.seed(0)
    np.random.seed(0)
    data = TensorDataset(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(3)))
    trainer = pl.Trainer(
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **settings},
    )
    trainer.fit(module, DataLoader(data, batch_size=ROWS))
    return trainer


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_training_is_equal_to_the_bit(step, pl, tmp_path):
    seen = []
    for name in ("without", "with"):
        (folder := tmp_path / name).mkdir()
        State.Shared.negatives = None
        state = State(folder)
        module = make_module(pl, step, state)
        monitor = ScalingLawMonitor(journal=False, history=False)
        fit(pl, module, [monitor] if name == "with" else [])
        assert module.steps == BATCHES
        states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()]
        seen.append([*module.state_dict().values(), states, state.fingerprint(), list(module.calls)])
    assert monitor.counters["flops"] > 0
    assert monitor.run.meta["flops"] == "counter"
    assert equal(*seen)


def test_an_unusual_first_batch_counts_once(pl, tmp_path):
    module = make_module(pl, file_at_first_batch, State(tmp_path))
    monitor = ScalingLawMonitor(journal=False, history=False)
    fit(pl, module, [monitor], rows=20 * ROWS)
    usual = ROWS * (4 * WIDTH * 8 + 6 * 8 * 3)
    extra = 5 * ROWS * 2 * (WIDTH * 8 + 8 * 3)
    assert monitor.counters["flops"] == 20 * usual + extra


def test_every_closure_of_lbfgs_counts(pl, tmp_path):
    calls = []

    def step(state, module, x):
        calls.append(1)
        return module.cell(x)

    def make(parameters):
        return torch.optim.LBFGS(list(parameters)[-2:], lr=0.1, max_iter=5, tolerance_change=0, tolerance_grad=0)

    module = make_module(pl, step, State(tmp_path), optimizer=make)
    monitor = ScalingLawMonitor(journal=False, history=False)
    fit(pl, module, [monitor])
    assert len(calls) == module.steps == 5 * BATCHES
    assert monitor.counters["flops"] == 5 * BATCHES * ROWS * 4 * WIDTH * WIDTH


def test_products_of_the_optimizer_do_not_count(pl, tmp_path):
    torch.optim.SGD(
        [torch.nn.Parameter(torch.ones(1))], lr=0.1
    )  # from then on torch calls hooks in the base class, too

    class Orthogonal(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            loss = super().step(closure)
            for weight in self.param_groups[0]["params"]:
                if weight.ndim == 2:
                    weight -= 1e-3 * weight @ weight.T @ weight
            return loss

    module = make_module(pl, lambda state, module, x: module.cell(x), State(tmp_path), optimizer=Orthogonal)
    monitor = ScalingLawMonitor(journal=False, history=False)
    fit(pl, module, [monitor])
    assert monitor.counters["flops"] == BATCHES * ROWS * 4 * WIDTH * WIDTH


def test_nothing_watches_after_an_error(pl, tmp_path):
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    def step(state, module, x):
        assert _get_current_dispatch_mode() is not None
        raise KeyError("mine")

    monitor = ScalingLawMonitor(journal=False, history=False)
    with pytest.raises(KeyError, match="mine"):
        fit(pl, make_module(pl, step, State(tmp_path)), [monitor])
    assert _get_current_dispatch_mode() is None


def test_a_step_left_out_by_the_module_ends_the_watch(pl, tmp_path):
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    module = make_module(pl, lambda state, module, x: module.cell(x), State(tmp_path))
    type(module).on_train_batch_start = lambda self, batch, batch_idx: -1 if batch_idx == 1 else None
    fit(pl, module, [ScalingLawMonitor(journal=False, history=False)])
    assert module.steps == 1
    assert _get_current_dispatch_mode() is None


def test_flops_that_fail_are_left_out_alone(pl, tmp_path):
    given = iter([10, 10])

    def flops(batch):
        return next(given)

    monitor = ScalingLawMonitor(journal=False, history=False, flops=flops)
    fit(pl, make_module(pl, lambda state, module, x: module.cell(x), State(tmp_path)), [monitor])
    assert monitor.counters["steps"] == BATCHES
    assert monitor.counters["samples"] == BATCHES * ROWS
    assert monitor.counters["flops"] is None
    assert monitor.forecast is not None


@pytest.mark.parametrize("accumulate", [1, 3])
def test_many_lengths_are_interpolated(pl, accumulate):
    class Text(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 16), nn.Linear(16, 11)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def training_step(self, ids, batch_idx):
            return F.cross_entropy(self.head(self.block(self.embed(ids))).flatten(0, 1), ids.flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-2)

    monitor, module = ScalingLawMonitor(journal=False, history=False), Text()
    lengths = [20 + 37 * i % 100 for i in range(60)]
    batches = [torch.zeros(4, length, dtype=torch.long) for length in lengths]
    looks = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, *args):
            looks.append(monitor.session.sizes.watch is not None)

    trainer = pl.Trainer(
        callbacks=[Looks(), monitor],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    weights = 4 * 16 * 16 + 2 * 16 * 32 + 16 * 11
    exact = sum(4 * (6 * weights * length + 12 * 16 * length**2) for length in lengths)
    assert monitor.counters["flops"] == pytest.approx(exact, rel=0.001)
    assert sum(looks) <= 12
