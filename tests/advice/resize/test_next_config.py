import pytest

from lightning_scaling.advice.resize.next_config import next_configuration, shape_for
from lightning_scaling.advice.resize.state import ModelState, Shape
from lightning_scaling.schedule import Plan


@pytest.mark.parametrize("factor", [0.1, 0.4, 1.0, 2.5, 20.0])
def test_a_shape_keeps_heads_and_proportions(factor):
    now = Shape(768, 12, 12)
    size, embedding = 85e6 + 38.6e6, 38.6e6
    made, params = shape_for(size * factor, now, size, embedding)
    assert params == pytest.approx(size * factor, rel=0.15)
    assert made.width % 64 == 0
    assert made.width == 64 * made.heads
    assert 0.45 < (made.width / made.layers) / (now.width / now.layers) < 2


@pytest.mark.parametrize(("params", "head"), [(5e7, 64), (1e9, 64), (7e9, 128), (7e10, 128)])
def test_without_a_shape_the_usual_proportions_are_taken(params, head):
    made, size = shape_for(params, None, params)
    assert size == pytest.approx(params, rel=0.15)
    assert made.width == head * made.heads
    assert 60 < made.width / made.layers < 160


@pytest.mark.parametrize("shape", [Shape(100, 7, 5), Shape(8, 2, 2), Shape(24, 3), Shape(770, 12, 7)])
@pytest.mark.parametrize("factor", [0.01, 0.7, 3.0])
def test_heads_always_divide_the_width(shape, factor):
    size = 12 * shape.layers * shape.width**2
    made, params = shape_for(size * factor, shape, size)
    assert params > 0
    assert made.layers >= 1
    assert made.heads is None or made.width % made.heads == 0


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"n_embd": 768, "n_layer": 12, "n_head": 12}, Shape(768, 12, 12)),
        ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, Shape(64, 2, 4)),
        ({"d_model": 64, "depth": 2}, Shape(64, 2)),
        ({"lr": 1e-3}, None),
        ({"width": "wide", "layers": True}, None),
    ],
)
def test_the_shape_that_a_configuration_holds(config, found):
    assert Shape.of(config) == found


def test_a_shape_must_be_whole():
    with pytest.raises(ValueError, match="`layers` of a shape must be a whole number"):
        Shape(64, 0)


def carried(rule, **changes):
    known = {"plan": Plan.constant(1e-3), "tokens_per_step": 2.0**19, "shaped": False}
    return next_configuration(ModelState(1e8, 2e9, **(known | changes)), 4e8, 8e9, rule)


def test_rate_and_batch_follow_the_step_law():
    made = carried("step_law")
    assert made.learning_rate == pytest.approx(1e-3 * 4**-0.7129 * 4**0.3075, rel=0.02)
    assert made.batch_tokens == pytest.approx(2**19 * 4**0.5709, rel=0.06)
    assert made.batch_tokens % 2**16 == 0
    assert made.steps == -(-8e9 // made.batch_tokens)


def test_rate_and_batch_follow_deepseek():
    made = carried("deepseek")
    assert made.learning_rate == pytest.approx(1e-3 * 16**-0.125, rel=0.02)
    assert made.batch_tokens == pytest.approx(2**19 * 16**0.3271, rel=0.06)


def test_mup_scales_the_rate_with_the_width():
    made = carried("mup", shaped=True, shape=Shape(768, 14, 12))
    assert made.learning_rate == pytest.approx(1e-3 * 768 / made.shape.width, rel=0.02)
    assert made.batch_tokens == 2**19


def test_what_is_not_known_is_left_out():
    made = carried("step_law", plan=None, tokens_per_step=None)
    assert (made.learning_rate, made.batch_tokens, made.steps, made.shape) == (None, None, None, None)
    assert made.sentence("tokens") == "next, try 400M parameters on 8B tokens"


def test_the_configuration_in_words():
    made = carried("step_law", shaped=True, shape=Shape(768, 14, 12))
    said = made.sentence("tokens")
    assert said == (
        "next, try 394M parameters on 8B tokens: width 1,216, 22 layers, 19 heads, peak learning rate 0.00058, 1.18M "
        "tokens a step, 6,782 steps (rate and batch by Step Law)"
    )
    assert set(made.to_dict()) >= {"params", "tokens", "width", "layers", "heads", "learning_rate", "steps", "rule"}


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`rule` must be one of 'step_law', 'deepseek', 'mup', but got 'sqrt'"):
        carried("sqrt")
