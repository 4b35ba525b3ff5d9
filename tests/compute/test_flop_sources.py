import json

import pytest
import torch
from torch import nn

from lightning_scaling.compute import BatchCounter, FlopMeter, gpt_flops

SIZES = {"layers": 2, "width": 32, "vocab": 96}


def ids(batch=4, length=32):
    return torch.zeros(batch, length, dtype=torch.long)


def measure(meter, module, batch):
    """Watch a real step, or take what is known without."""
    with meter.watch(module, batch):
        out = (
            module(**batch)
            if isinstance(batch, dict)
            else module(batch[0] if isinstance(batch, tuple | list) else batch)
        )
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    meter.prospect(module, batch)
    return meter.per_batch(batch)


def test_each_shape_has_its_own_figure():
    meter, module = FlopMeter(), nn.Linear(4, 4)
    assert meter.per_batch(torch.ones(2, 4)) is None
    for rows in (2, 3, 7):
        batch = torch.ones(rows, 4)
        assert measure(meter, module, batch) == 4 * 16 * rows


def test_many_shapes_are_interpolated():
    meter, module = FlopMeter(), nn.Linear(4, 4)
    for rows in (2, 4, 10):
        measure(meter, module, torch.ones(rows, 4))
    assert [meter.per_batch(torch.ones(rows, 4)) for rows in (1, 3, 7, 20)] == [64, 192, 448, 1280]
    assert "Only 3 of 7 batch shapes were measured" in meter.note


def test_lengths_are_interpolated_quadratically(make_gpt):
    meter, module = FlopMeter(), make_gpt()
    looks = 0
    for length in range(20, 120):
        if meter.wants(module, ids(4, length)):
            looks += 1
            measure(meter, module, ids(4, length))
    assert looks <= 14
    for length in (20, 40, 77, 119):
        assert meter.per_batch(ids(2, length)) == pytest.approx(gpt_flops(2, length, **SIZES), rel=1e-6)


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(2, 4), None, "name", 3),
        {"x": torch.ones(2, 4), "names": ["a"] * 40},
        [[torch.ones(2, 4)], {"y": (torch.ones(2, 4),)}],
    ],
)
def test_batches_of_any_structure_have_a_shape(batch):
    def grown(value):
        if isinstance(value, torch.Tensor):
            return torch.ones(3, 4)
        if isinstance(value, dict):
            return {key: grown(item) for key, item in value.items()}
        return type(value)(map(grown, value)) if isinstance(value, (tuple, list)) else value

    class Any(nn.Linear):
        def forward(self, *args, **kwargs):
            found = args[0] if args else kwargs["x"]
            return super().forward(found[0] if isinstance(found, list) else found)

    meter, module = FlopMeter(), Any(4, 4)
    assert measure(meter, module, batch) == 128
    assert meter.per_batch(batch) == 128
    assert meter.per_batch(grown(batch)) == 192


def test_a_number_and_a_callable_are_taken_as_given():
    assert FlopMeter(1e15).per_batch(None) == 10**15
    assert FlopMeter(2**70).per_batch(None) == 2**70
    meter = FlopMeter(lambda batch: 10 * len(batch))
    assert (meter.per_batch([1, 2]), meter.provenance, meter.wanting) == (20, "user", False)
    assert meter.prospect(nn.Linear(1, 1), [1]) == 10
    assert "as given" in FlopMeter(5).describe()


@pytest.mark.parametrize(
    ("answer", "error"), [("many", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError), (0, ValueError)]
)
def test_a_callable_that_returns_nonsense(answer, error):
    with pytest.raises(error, match="callable `flops`"):
        FlopMeter(lambda batch: answer).per_batch(None)


@pytest.mark.parametrize("flops", ["many", -1, 0.0, float("nan"), True, [1]])
def test_bad_flops(flops):
    with pytest.raises((TypeError, ValueError), match="`flops`"):
        FlopMeter(flops)


@pytest.mark.parametrize("off", [None, False])
def test_flops_can_be_off(off):
    meter = FlopMeter(off)
    assert measure(meter, nn.Linear(2, 2), torch.ones(1, 2)) is None
    assert meter.per_batch(torch.ones(1, 2)) is None
    assert (meter.wanting, meter.provenance, meter.describe()) == (False, None, "FLOPs: not counted")


def test_the_modules_own_figure_comes_before_counting():
    module = nn.Linear(4, 4)
    module.flops_per_batch = 123.0
    meter = FlopMeter()
    assert measure(meter, module, torch.ones(2, 4)) == 123
    assert meter.provenance == "module"
    assert meter.per_batch(torch.ones(9, 4)) == 123
    module.flops_per_batch = "many"
    meter = FlopMeter()
    assert measure(meter, module, torch.ones(2, 4)) == 128
    assert "`flops_per_batch` must be a number" in meter.describe()


def test_six_n_d_can_be_asked_for(make_gpt):
    module, batch = make_gpt(), ids()
    weights = sum(weight.numel() for weight in module.parameters()) - 96 * 32 - 128 * 32
    meter = FlopMeter("6ND")
    assert measure(meter, module, batch) == 6 * weights * 128
    assert meter.provenance == "6ND"
    assert "without attention scores" in meter.note
    meter = FlopMeter("6ND", layers=2, width=32)
    assert measure(meter, module, batch) == 6 * weights * 128 + 12 * 2 * 32 * 32 * 128
    tied = FlopMeter("6ND")
    assert measure(tied, make_gpt(tied=True), batch) == 6 * weights * 128


def test_six_n_d_finds_attention_layers():
    encoder = nn.TransformerEncoderLayer(16, 2, batch_first=True)
    module = nn.Sequential(nn.Embedding(20, 16), encoder)
    weights = sum(weight.numel() for weight in encoder.parameters())
    assert measure(FlopMeter("6ND"), module, ids(2, 8)) == 6 * weights * 16 + 12 * 16 * 8 * 16


def test_active_parameters_scale_six_n_d():
    module = nn.Linear(16, 16, bias=False)
    assert measure(FlopMeter("6ND", active=64), module, torch.ones(2, 16)) == 6 * 64 * 2


def test_tokens_of_the_counter_are_used():
    meter = FlopMeter("6ND", counter=BatchCounter(50))
    assert measure(meter, nn.Linear(16, 16, bias=False), torch.ones(2, 16)) == 6 * 256 * 100


def test_unknown_samples_end_in_a_sentence():
    class Own(nn.Linear):
        def forward(self, batch):
            raise RuntimeError("cannot")

    meter = FlopMeter()
    assert meter.prospect(Own(2, 2), "text").figure() is None
    assert "samples of a batch are unknown" in meter.describe()


def test_state_goes_through_json_and_comes_back(make_gpt):
    module, batch = make_gpt(), ids()
    meter = FlopMeter()
    flops = measure(meter, module, (batch, batch))
    state = json.loads(json.dumps(meter.state_dict()))
    again = FlopMeter()
    again.load_state_dict(state)
    assert json.loads(json.dumps(again.state_dict())) == state
    assert measure(again, module, (batch, batch)) == flops
    assert again.describe() == meter.describe()
    other = FlopMeter()
    other.load_state_dict(state)
    assert measure(other, make_gpt(layers=1), (batch, batch)) == gpt_flops(4, 32, **SIZES | {"layers": 1})
