import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_scaling.compute import FlopMeter, dense_flops, gpt_flops, selfcheck

SIZES = {"layers": 2, "width": 32, "vocab": 96}


def ids(batch=4, length=32):
    return torch.zeros(batch, length, dtype=torch.long)


def watched(module, batch):
    meter = FlopMeter()
    with meter.watch(module, batch):
        module(batch).sum().backward()
    return meter


def test_the_self_check_passes():
    ok, sentence = selfcheck()
    assert ok, sentence
    assert "agrees with the hand count" in sentence


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("tied", [False, True])
def test_causal_attention_agrees_with_the_hand_count(make_gpt, dropout, tied):
    module, meter = make_gpt(dropout, tied), FlopMeter()
    by_hand = gpt_flops(4, 32, **SIZES)
    assert meter.measure(module, ids()) == pytest.approx(by_hand, rel=0.02)
    assert meter.provenance == "counter"
    assert meter.per_batch(ids()) == meter.measure(module, ids())
    assert meter.describe().startswith(f"FLOPs: {by_hand:.4g} for a micro-batch of 128 tokens, forward and backward")
    assert "Cross-check: 1.0" in meter.note or "Cross-check: 1.1" in meter.note
    assert watched(module, ids()).per_batch(ids()) == meter.per_batch(ids())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_counted(kind):
    module, steps = kind(16, 32, 2, batch_first=True), torch.zeros(4, 10, 16)
    weights = sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)
    meter = FlopMeter()
    assert meter.measure(module, steps) == pytest.approx(6 * weights * 40, rel=0.25)
    assert meter.provenance == "counter"
    assert meter.note == ""


def test_convolutions_raise_no_alarm():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    meter = FlopMeter()
    first, second = 2 * 27 * 8 * 30 * 30 * 4, 2 * 72 * 4 * 28 * 28 * 4
    assert meter.measure(module, torch.zeros(4, 3, 32, 32)) == 2 * first + 3 * second
    assert meter.note == ""


def test_frozen_layers_cost_less():
    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    batch, meter = torch.zeros(10, 8), FlopMeter()
    assert meter.measure(module, batch) == 10 * (4 * 128 + 6 * 64)
    assert not meter.refresh(module)
    module[0].requires_grad_(False)
    assert meter.refresh(module)
    assert meter.per_batch(batch) is None
    assert meter.measure(module, batch) == 10 * (2 * 128 + 4 * 64)
    assert meter.note == ""


class Tables(nn.Module):
    """Mostly tables, as recommenders are; one of them is a bare parameter."""

    def __init__(self):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(500, 16) for _ in range(3))
        self.raw = nn.Parameter(torch.zeros(5000, 16))
        self.top = nn.Linear(64, 8)

    def forward(self, batch):
        rows = batch["rows"]
        return self.top(torch.cat([*(bag(rows) for bag in self.bags), self.raw[rows[:, 0]]], 1))


def test_big_tables_raise_no_alarm():
    meter = FlopMeter()
    module = Tables()
    module.forward = functools.partial(lambda m, rows: Tables.forward(m, {"rows": rows}), module)
    assert meter.measure(module, {"rows": torch.zeros(32, 5, dtype=torch.long)}) == 6 * 64 * 8 * 32
    assert meter.provenance == "counter"
    assert meter.note == ""


def test_experts_that_do_not_run_raise_no_refusal():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(16, 16)
            self.experts = nn.Parameter(torch.zeros(16, 16, 64))

        def forward(self, x):
            # One slot for each expert, far fewer than the rows.
            return torch.bmm(self.gate(x)[:16].unsqueeze(1), self.experts)

    meter = FlopMeter()
    counted = meter.measure(Experts(), torch.zeros(256, 16))
    assert meter.provenance == "counter"
    assert counted == 256 * 4 * 256 + 6 * 16 * 16 * 64
    assert "give the active parameters" in meter.note


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return torch.from_numpy(x.detach().numpy() @ w.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        x, w = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
        return torch.from_numpy(grad.numpy() @ w.T), torch.from_numpy(x.T @ grad.numpy())


class Hidden(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 64))
        self.head = nn.Linear(64, 1) if head else nn.Identity()

    def forward(self, x):
        return self.head(InNumpy.apply(x, self.weight))


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("how", ["copy", "step"])
def test_work_that_no_counter_sees_is_refused(head, how):
    module, batch, meter = Hidden(head), torch.ones(16, 64), FlopMeter()
    if how == "copy":
        meter.measure(module, batch)
    else:
        meter = watched(module, batch)
    weights = sum(weight.numel() for weight in module.parameters())
    assert meter.per_batch(batch) == dense_flops(weights, 16)
    assert meter.provenance == "6ND"
    assert "was refused" in meter.note
    assert "6 N D" in meter.describe()


def test_custom_operators_without_a_formula_are_named():
    @torch.library.custom_op("scaling_tests::product", mutates_args=())
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w

    product.register_fake(lambda x, w: x.new_empty(x.shape[0], w.shape[1]))
    product.register_autograd(
        lambda ctx, grad: (product(grad, ctx.saved_tensors[1].t()), product(ctx.saved_tensors[0].t(), grad)),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.ones(64, 64)), nn.Linear(64, 1)

        def forward(self, x):
            return self.head(product(x, self.weight))

    meter = FlopMeter()
    assert meter.measure(Custom(), torch.ones(16, 64)) == dense_flops(64 * 64 + 65, 16)
    assert "scaling_tests::product cannot be counted" in meter.note


def test_a_model_of_tables_only_has_no_flops():
    meter, batch = FlopMeter(), ids()
    assert meter.measure(nn.Embedding(10, 4), batch) is None
    assert meter.per_batch(batch) is None
    assert not meter.wanting
    assert "give `flops=`" in meter.describe()


def test_activation_checkpointing_is_said():
    from torch.utils.checkpoint import checkpoint

    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.body = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))

        def forward(self, x):
            return checkpoint(self.body, self.first(x), use_reentrant=True)

    meter = FlopMeter()
    assert meter.measure(Again(), torch.zeros(8, 16)) == 8 * (4 * 256 + (6 + 2) * 2048)
    assert "recomputed activations" in meter.note


def test_more_products_than_torch_counts():
    class Others(nn.Module):
        def __init__(self):
            super().__init__()
            self.two, self.one = nn.Bilinear(4, 6, 5, bias=False), nn.Parameter(torch.zeros(8))

        def forward(self, x):
            return self.two(x[:, :4], x[:, 2:]).sum() + torch.mv(x, self.one).sum() + torch.cdist(x, x).sum()

    with_grad = FlopMeter()
    with_grad.measure(Others(), torch.ones(10, 8))
    bilinear, vector, distance = 2 * 2 * 10 * 4 * 6 * 5, 2 * 2 * 10 * 8, 2 * 10 * 10 * 8
    assert with_grad.per_batch(torch.ones(10, 8)) == bilinear + vector + distance


def test_values_decide_and_a_full_copy_is_run():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.extra = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.extra(self.body(x)) if (x > 0).any() else self.body(x)

    module, batch, meter = Decides(), torch.ones(4, 8), FlopMeter()
    assert meter.measure(module, batch) == 4 * 64 * (4 + 6)
    assert "on a full copy" in meter.describe()
    assert all(weight.grad is None for weight in module.parameters())


CACHE = {}
LAST = None


@functools.lru_cache
def mask(size):
    return torch.tril(torch.ones(size, size))


def test_caches_outside_of_the_module_stay_usable():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 8)

        def forward(self, x):
            global LAST
            if 8 not in CACHE:
                CACHE[8] = (torch.ones(8), torch.zeros(8))
            LAST = torch.ones(8) if LAST is None else LAST
            return self.body(x) @ mask(8) * CACHE[8][0] * LAST

    module, meter = Cached(), FlopMeter()
    assert meter.measure(module, torch.ones(4, 8))
    assert not CACHE
    assert torch.isfinite(module(torch.ones(4, 8))).all()


def test_a_closure_over_the_live_module_is_left_alone():
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
            self.call = lambda x: self.body(x)

        def forward(self, x):
            return self.call(x)

    module, batch, meter = Closed(), torch.ones(4, 8), FlopMeter()
    assert meter.measure(module, batch) == dense_flops(64 + 8 + 16, 4)
    assert "reaches the live module" in meter.note
    assert all(weight.grad is None for weight in module.parameters())
    assert module.body[1].num_batches_tracked == 0


def test_measuring_leaves_no_trace():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
    batch = torch.randn(6, 8)
    module(batch).sum().backward()
    fired = []
    module.register_forward_hook(lambda *args: fired.append(1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    grads = [weight.grad.clone() for weight in module.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert FlopMeter().measure(module, batch)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(module.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert fired == []


def test_watching_changes_no_number(make_gpt):
    results = []
    for watching in (False, True):
        torch.manual_seed(0)
        module, batch, meter = make_gpt(dropout=0.2), ids(), FlopMeter()
        watch = meter.watch(module, batch)
        assert not watching or watch.begin()
        module(batch).square().mean().backward()
        watch.end()
        results.append([weight.grad for weight in module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_step_that_fails_under_watch_is_not_kept():
    meter, module = FlopMeter(), nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), meter.watch(module, torch.ones(2, 4)):
        module(torch.ones(2, 5))
    assert meter.per_batch(torch.ones(2, 4)) is None
    watch = meter.watch(module, torch.ones(2, 4))
    assert watch.begin()
    assert watch.end(failed=True) is None
    assert watch.end() is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_are_counted_as_written():
    part = torch.compile(nn.Linear(8, 8), backend="eager")
    for module in (part, nn.Sequential(part)):
        meter = FlopMeter()
        assert not meter.can_watch(module)
        assert not meter.watch(module, torch.ones(2, 8)).begin()
        assert meter.measure(module, torch.ones(2, 8)) == 2 * 4 * 64
    inside = nn.Linear(8, 8)
    inside.compile(backend="eager")
    assert FlopMeter().measure(inside, torch.ones(2, 8)) == 2 * 4 * 64
