import functools

import pytest
import torch
from torch import nn

from lightning_scaling.compute import FlopMeter, dense_flops, flops, gpt_flops, opcount, selfcheck

SIZES = {"layers": 2, "width": 32, "vocab": 96}


def ids(batch=4, length=32):
    return torch.zeros(batch, length, dtype=torch.long)


def measure(meter, module, batch):
    """Watch a real step."""
    with meter.watch(module, batch):
        out = (
            module(**batch)
            if isinstance(batch, dict)
            else module(batch[0] if isinstance(batch, tuple | list) else batch)
        )
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    if meter.per_batch(batch) is None:
        meter.prospect(module, batch)
    return meter.per_batch(batch)


def watched(module, batch):
    meter = FlopMeter()
    measure(meter, module, batch)
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
    assert measure(meter, module, ids()) == pytest.approx(by_hand, rel=0.02)
    assert meter.provenance == "counter"
    assert meter.per_batch(ids()) == measure(meter, module, ids())
    assert meter.describe().startswith(f"FLOPs: {by_hand:.4g} for a micro-batch of 128 tokens, forward and backward")
    assert "Cross-check: 1.0" in meter.note or "Cross-check: 1.1" in meter.note
    assert watched(module, ids()).per_batch(ids()) == meter.per_batch(ids())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_counted(kind):
    module, steps = kind(16, 32, 2, batch_first=True), torch.zeros(4, 10, 16)
    weights = sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)
    meter = FlopMeter()
    assert measure(meter, module, steps) == pytest.approx(6 * weights * 40, rel=0.25)
    assert meter.provenance == "counter"
    assert meter.note == ""


def test_convolutions_raise_no_alarm():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    meter = FlopMeter()
    first, second = 2 * 27 * 8 * 30 * 30 * 4, 2 * 72 * 4 * 28 * 28 * 4
    assert measure(meter, module, torch.zeros(4, 3, 32, 32)) == 2 * first + 3 * second
    assert meter.note == ""


def test_frozen_layers_cost_less():
    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    batch, meter = torch.zeros(10, 8), FlopMeter()
    assert measure(meter, module, batch) == 10 * (4 * 128 + 6 * 64)
    assert not meter.refresh(module)
    module[0].requires_grad_(False)
    assert meter.refresh(module)
    assert meter.per_batch(batch) is None
    assert measure(meter, module, batch) == 10 * (2 * 128 + 4 * 64)
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
    assert measure(meter, module, {"rows": torch.zeros(32, 5, dtype=torch.long)}) == 6 * 64 * 8 * 32
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
    counted = measure(meter, Experts(), torch.zeros(256, 16))
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
def test_work_that_no_counter_sees_is_refused(head):
    module, batch = Hidden(head), torch.ones(16, 64)
    meter = watched(module, batch)
    weights = sum(weight.numel() for weight in module.parameters())
    assert meter.per_batch(batch) == dense_flops(weights, 16)
    assert meter.provenance == "6ND"
    assert "was refused" in meter.note
    assert "6 N D" in meter.describe()


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="this torch has no `torch.library.custom_op`")
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
    assert measure(meter, Custom(), torch.ones(16, 64)) == dense_flops(64 * 64 + 65, 16)
    assert "scaling_tests::product cannot be counted" in meter.note


def test_a_model_of_tables_only_has_no_flops():
    meter, batch = FlopMeter(), ids()
    assert measure(meter, nn.Embedding(10, 4), batch) is None
    assert meter.per_batch(batch) is None
    assert not meter.wanting
    assert "give `flops=`" in meter.describe()


@pytest.mark.parametrize(("reentrant", "again"), [(False, 15), (True, 31)])  # the former stops before the last layer
def test_recomputed_activations_do_not_count(reentrant, again):
    from torch.utils.checkpoint import checkpoint

    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.body = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))

        def forward(self, x):
            return checkpoint(self.body, self.first(x), use_reentrant=reentrant)

    meter = FlopMeter()
    assert measure(meter, Again(), torch.zeros(8, 16)) == 8 * (4 * 256 + 6 * 2048)
    assert f"activations again: {again}% on top, not counted" in meter.note


def test_more_products_than_torch_counts():
    class Others(nn.Module):
        def __init__(self):
            super().__init__()
            self.two, self.one = nn.Bilinear(4, 6, 5, bias=False), nn.Parameter(torch.zeros(8))

        def forward(self, x):
            return self.two(x[:, :4], x[:, 2:]).sum() + torch.mv(x, self.one).sum() + torch.cdist(x, x).sum()

    with_grad = FlopMeter()
    measure(with_grad, Others(), torch.ones(10, 8))
    bilinear, vector, distance = 2 * 2 * 10 * 4 * 6 * 5, 2 * 2 * 10 * 8, 2 * 10 * 10 * 8
    assert with_grad.per_batch(torch.ones(10, 8)) == bilinear + vector + distance


def test_values_may_decide():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.extra = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.extra(self.body(x)) if (x > 0).any() else self.body(x)

    module, batch, meter = Decides(), torch.ones(4, 8), FlopMeter()
    assert measure(meter, module, batch) == 4 * 64 * (4 + 6)
    assert "counted on real steps" in meter.describe()


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


# there one compiled function ends the counting for the whole process
@pytest.mark.skipif(flops._PLAIN_CODE_ONLY, reason="with this torch no compiled code is counted")
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_modules_are_counted_as_they_run(whole):
    def train(watching):
        torch._dynamo.reset()
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph

        torch.manual_seed(0)
        part = torch.compile(nn.Linear(8, 8), backend=backend)
        module, meter = part if whole else nn.Sequential(part), FlopMeter()
        for _ in range(3):
            watch = meter.watch(module, torch.ones(2, 8))
            assert watch.begin() if watching else True
            module(torch.ones(2, 8)).square().sum().backward()
            watch.end()
        return len(graphs), [weight.grad for weight in module.parameters()], meter

    plain, watched = train(False), train(True)
    assert plain[0] == watched[0] == 1
    assert all(map(torch.equal, plain[1], watched[1]))
    assert watched[2].per_batch(torch.ones(2, 8)) == 2 * 4 * 64
    assert "real steps of compiled code" in watched[2].describe()


def test_second_derivatives_count():
    module, batch = nn.Linear(8, 8, bias=False), torch.ones(4, 8, requires_grad=True)
    meter = FlopMeter()
    with meter.watch(module, batch):
        (slope,) = torch.autograd.grad(module(batch).square().sum(), batch, create_graph=True)
        slope.square().sum().backward()
    assert meter.per_batch(batch) > 4 * 4 * 64
    assert "again" not in meter.note


def test_steps_that_vary_have_their_mean():
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large, self.turn = nn.Linear(8, 8), nn.Linear(8, 24), 0

        def forward(self, x):
            self.turn += 1
            return self.small(x) if self.turn % 2 else self.large(x)

    module, batch, meter = Turns(), torch.ones(2, 8), FlopMeter()
    looks = 0
    for _ in range(400):
        wanted = meter.wants(module, batch)
        looks += wanted
        if wanted:
            measure(meter, module, batch)
        else:
            module(batch)
    small = 2 * 4 * 64
    assert meter.per_batch(batch) == pytest.approx(2 * small, rel=0.3)
    assert looks <= 20
    assert "different work" in meter.note


def test_another_mode_entered_later_stays_active():
    from torch.utils._python_dispatch import _get_current_dispatch_mode
    from torch.utils.flop_counter import FlopCounterMode

    module, batch, meter = nn.Linear(8, 8), torch.ones(2, 8), FlopMeter()
    watch, other = meter.watch(module, batch), FlopCounterMode(display=False)
    assert watch.begin()
    with other:
        module(batch).sum().backward()
        assert watch.end() == 2 * 4 * 64
        assert _get_current_dispatch_mode() is not None
    assert _get_current_dispatch_mode() is None


def test_formulas_of_shapes_as_in_torch_before_2_2(monkeypatch):
    def product(a_shape, b_shape, *args, out_shape=None, **kwargs):
        assert (a_shape, b_shape, out_shape) == ((2, 3), (3, 4), (2, 4))
        return 2 * 2 * 3 * 4

    monkeypatch.delattr(opcount.flop_counter, "flop_registry", raising=False)
    monkeypatch.setattr(opcount.flop_counter, "flop_mapping", {torch.ops.aten.mm: product}, raising=False)
    formula = opcount._formulas_of_torch()[torch.ops.aten.mm]
    assert formula(torch.ones(2, 3), torch.ones(3, 4), out_val=torch.ones(2, 4)) == 48
