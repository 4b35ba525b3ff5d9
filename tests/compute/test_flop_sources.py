import json

import pytest
import torch
from torch import nn

from lightning_scaling.compute import BatchCounter, FlopMeter, gpt_flops

SIZES = {"layers": 2, "width": 32, "vocab": 96}


def ids(batch=4, length=32):
    return torch.zeros(batch, length, dtype=torch.long)


def test_each_shape_is_measured_once():
    meter, module = FlopMeter(), nn.Linear(4, 4)
    for rows in (2, 3, 7):
        batch = torch.ones(rows, 4)
        assert meter.per_batch(batch) is None
        assert meter.measure(module, batch) == 4 * 16 * rows
        assert meter.per_batch(batch) == 4 * 16 * rows


def test_many_shapes_are_interpolated():
    meter, module = FlopMeter(max_shapes=3), nn.Linear(4, 4)
    for rows in (2, 4, 10):
        meter.measure(module, torch.ones(rows, 4))
    assert [meter.per_batch(torch.ones(rows, 4)) for rows in (1, 3, 7, 20)] == [64, 192, 448, 1280]
    assert "Only 3 batch shapes were measured" in meter.note


def test_a_guess_can_be_asked_for_early():
    meter = FlopMeter()
    assert meter.per_batch(torch.ones(2, 4), guess=True) is None
    meter.measure(nn.Linear(4, 4), torch.ones(2, 4))
    assert meter.per_batch(torch.ones(3, 4)) is None
    assert meter.per_batch(torch.ones(3, 4), guess=True) == 192


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
    assert meter.measure(module, batch) == 128
    assert meter.per_batch(batch) == 128
    assert meter.per_batch(grown(batch)) is None


def test_a_number_and_a_callable_are_taken_as_given():
    assert FlopMeter(1e15).per_batch(None) == 10**15
    assert FlopMeter(2**70).per_batch(None) == 2**70
    meter = FlopMeter(lambda batch: 10 * len(batch))
    assert (meter.per_batch([1, 2]), meter.provenance, meter.wanting) == (20, "user", False)
    assert meter.measure(nn.Linear(1, 1), [1]) == 10
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
    assert meter.measure(nn.Linear(2, 2), torch.ones(1, 2)) is None
    assert meter.per_batch(torch.ones(1, 2)) is None
    assert (meter.wanting, meter.provenance, meter.describe()) == (False, None, "FLOPs: not counted")


def test_the_modules_own_figure_comes_before_counting():
    module = nn.Linear(4, 4)
    module.flops_per_batch = 123.0
    meter = FlopMeter()
    assert meter.measure(module, torch.ones(2, 4)) == 123
    assert meter.provenance == "module"
    assert meter.per_batch(torch.ones(9, 4)) == 123
    module.flops_per_batch = "many"
    meter = FlopMeter()
    assert meter.measure(module, torch.ones(2, 4)) == 128
    assert "`flops_per_batch` must be a number" in meter.describe()


def test_six_n_d_can_be_asked_for(make_gpt):
    module, batch = make_gpt(), ids()
    weights = sum(weight.numel() for weight in module.parameters()) - 96 * 32 - 128 * 32
    meter = FlopMeter("6ND")
    assert meter.measure(module, batch) == 6 * weights * 128
    assert meter.provenance == "6ND"
    assert "without attention scores" in meter.note
    meter = FlopMeter("6ND", layers=2, width=32)
    assert meter.measure(module, batch) == 6 * weights * 128 + 12 * 2 * 32 * 32 * 128
    tied = FlopMeter("6ND")
    assert tied.measure(make_gpt(tied=True), batch) == 6 * weights * 128


def test_six_n_d_finds_attention_layers():
    encoder = nn.TransformerEncoderLayer(16, 2, batch_first=True)
    module = nn.Sequential(nn.Embedding(20, 16), encoder)
    weights = sum(weight.numel() for weight in encoder.parameters())
    assert FlopMeter("6ND").measure(module, ids(2, 8)) == 6 * weights * 16 + 12 * 16 * 8 * 16


def test_active_parameters_scale_six_n_d():
    module = nn.Linear(16, 16, bias=False)
    assert FlopMeter("6ND", active=64).measure(module, torch.ones(2, 16)) == 6 * 64 * 2


def test_tokens_of_the_counter_are_used():
    meter = FlopMeter("6ND", counter=BatchCounter(50))
    assert meter.measure(nn.Linear(16, 16, bias=False), torch.ones(2, 16)) == 6 * 256 * 100


def test_unknown_samples_end_in_a_sentence():
    class Own(nn.Linear):
        def forward(self, batch):
            raise RuntimeError("cannot")

    meter = FlopMeter()
    assert meter.measure(Own(2, 2), "text") is None
    assert "samples of a batch are unknown" in meter.describe()


def test_state_goes_through_json_and_comes_back(make_gpt):
    module, batch = make_gpt(), ids()
    meter = FlopMeter()
    flops = meter.measure(module, (batch, batch))
    state = json.loads(json.dumps(meter.state_dict()))
    again = FlopMeter()
    again.load_state_dict(state)
    assert json.loads(json.dumps(again.state_dict())) == state
    assert again.measure(module, (batch, batch)) == flops
    assert again.describe() == meter.describe()
    other = FlopMeter()
    other.load_state_dict(state)
    assert other.measure(make_gpt(layers=1), (batch, batch)) == gpt_flops(4, 32, **SIZES | {"layers": 1})
