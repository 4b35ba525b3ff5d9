"""Between flushes nothing is read from the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_scaling.callbacks import ScalingLawMonitor, gradients
from lightning_scaling.callbacks.capture import Capture

READERS = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__")
SCALAR_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device: reads of scalars and copies to the CPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.inside = self.outside = self.flushes = 0
        self.flushing = False
        for name in READERS:
            monkeypatch.setattr(torch.Tensor, name, self.counting(getattr(torch.Tensor, name)), raising=False)
        flush = Capture.flush

        def counted(capture, **settings):
            self.flushes += 1
            self.flushing = True
            try:
                return flush(capture, **settings)
            finally:
                self.flushing = False

        monkeypatch.setattr(Capture, "flush", counted)

    def counting(self, method):
        def call(tensor, *args, **kwargs):
            self.note()
            return method(tensor, *args, **kwargs)

        return call

    def note(self):
        if self.flushing:
            self.inside += 1
        else:
            self.outside += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in SCALAR_READS:
            self.note()
        return func(*args, **kwargs)


@pytest.mark.parametrize("case", [("automatic", 1), ("automatic", 4), ("as_dict", 1), ("manual", 1)])
def test_reads_happen_in_flushes_only(pl, module, fit, monkeypatch, case):
    kind, accumulate = case

    def train(callbacks):
        with Reads(monkeypatch) as reads:
            fit(pl, callbacks, module(pl, kind), max_epochs=20, accumulate_grad_batches=accumulate)
        monkeypatch.undo()
        return reads

    def tokens(batch):
        return (batch > 0).sum()

    bare = train([])
    monitor = ScalingLawMonitor(journal=False, flops=10**6, count=tokens)
    watched = train(monitor)
    assert monitor.counters["micro_batches"] == 120
    assert watched.outside == bare.outside
    # Losses, tokens and norms of gradients, each moved once and handed to numpy.
    assert 0 < watched.inside <= 6 * watched.flushes
    assert watched.flushes < 60


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_are_seen_without_reading_anything(pl, module, fit, monkeypatch, accumulate):
    def train(callbacks):
        monkeypatch.setattr(gradients, "_EVERY", 2)
        with Reads(monkeypatch) as reads:
            fit(pl, callbacks, module(pl), batches=32, max_epochs=20, accumulate_grad_batches=accumulate)
        monkeypatch.undo()
        return reads

    bare = train([])
    monitor = ScalingLawMonitor(journal=False, flops=10**6, max_overhead=1)
    watched = train(monitor)
    seen = monitor.state_dict()["gradients"]
    assert seen["norm"] is not None
    assert (seen["noise"]["count"] > 10) == (accumulate == 4)
    assert watched.outside == bare.outside


def test_a_metric_that_is_followed_is_not_read_either(pl, module, fit, monkeypatch):
    def log(model, batch, batch_idx):
        model.log("double", model.true[-1] * 2)

    def train(callbacks):
        with Reads(monkeypatch) as reads:
            fit(pl, callbacks, module(pl, log=log), max_epochs=10)
        monkeypatch.undo()
        return reads

    bare = train([])
    monitor = ScalingLawMonitor("double", journal=False, flops=10**6)
    watched = train(monitor)
    assert len(monitor.run) == 60
    assert watched.outside == bare.outside
