from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_scaling.compute import BatchCounter

IDS = torch.ones(4, 16, dtype=torch.long)
IMAGES = torch.zeros(8, 3, 5, 5)
LABELS = torch.zeros(8, dtype=torch.long)
Pair = namedtuple("Pair", "features target")
Text = namedtuple("Text", "input_ids labels")


@dataclass
class Item:
    note: str
    x: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        IDS,
        (IDS, IDS),
        [IDS, LABELS],
        {"labels": LABELS, "input_ids": IDS},
        UserDict(input_ids=IDS),
        ({"input_ids": IDS}, LABELS),
        ({"tokens": IDS.int()}, 0, 1),
        Text(IDS, LABELS),
        Item("a", IDS),
        {"pixels": IMAGES, "input_ids": IDS},
    ],
)
def test_integer_sequences_are_tokens(batch):
    counter = BatchCounter()
    assert counter.samples_and_tokens(batch) == (4, 64)
    assert counter.unit == "tokens"
    assert counter.positions(batch) == 64


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (IMAGES, 8),
        ((IMAGES, LABELS), 8),
        ([LABELS, IMAGES], 8),
        ({"image": IMAGES, "label": LABELS}, 8),
        ({"categories": torch.ones(6, 26, dtype=torch.long)}, 6),
        (torch.ones(6, 1, dtype=torch.long), 6),
        (torch.ones(256, 2, dtype=torch.long), 256),
        ((torch.ones(256, 2, dtype=torch.long), torch.ones(256)), 256),
        (torch.zeros(8, 784, dtype=torch.uint8), 8),
        ((torch.tensor(3.0), IMAGES), 8),
        (torch.tensor(3.0), 1),
        (Pair(IMAGES, LABELS), 8),
        ((None, "name", IMAGES), 8),
        (["a", "b", "c"], 3),
        ({"text": ["a", "b"], "id": 7}, 2),
        ({"text": ["a", "b"], "x": torch.zeros(2, 5)}, 2),
        ((np.zeros((5, 2)), 1), 5),
        ((tuple(torch.zeros(3, 4 + i, 4) for i in range(5)), ({},) * 5), 5),
        (torch.ones(5, 7, dtype=torch.bool), 5),
    ],
)
def test_everything_else_is_samples(batch, samples):
    counter = BatchCounter()
    assert counter.samples_and_tokens(batch) == (samples, None)
    assert counter.unit == "samples"
    assert counter.positions(batch) == samples


@pytest.mark.parametrize("batch", [None, "text", 3, {}, {"a": None}, object()])
def test_unknown_batches_say_so(batch):
    counter = BatchCounter()
    assert counter.samples_and_tokens(batch) == (None, None)
    assert not counter.known
    assert counter.describe().startswith("counting nothing: no tensor found in a batch of type")
    assert counter.samples_and_tokens((IMAGES,)) == (8, None)
    assert counter.known


def test_batches_may_change_size_and_layout():
    counter = BatchCounter()
    assert counter.samples_and_tokens((IDS, IDS)) == (4, 64)
    assert counter.samples_and_tokens((IDS[:2, :5], IDS)) == (2, 10)
    assert counter.samples_and_tokens((IMAGES, IDS)) == (8, None)
    assert counter.samples_and_tokens((None, IDS)) == (4, 64)
    assert counter.samples_and_tokens({"x": IDS}) == (4, 64)
    assert counter.samples_and_tokens({"y": IMAGES}) == (8, None)
    assert counter.samples_and_tokens(()) == (None, None)


class NoScalarReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a number was read from a tensor"
        return func(*args, **(kwargs or {}))


def test_padding_is_left_out_without_reading_a_number():
    mask = torch.ones_like(IDS)
    mask[:, 10:] = 0
    mask[0] *= 3  # packed documents are numbered in some masks
    counter = BatchCounter()
    with NoScalarReads():
        samples, tokens = counter.samples_and_tokens({"input_ids": IDS, "attention_mask": mask})
    assert samples == 4
    assert isinstance(tokens, torch.Tensor)
    assert int(tokens) == 40
    assert counter.positions({"input_ids": IDS, "attention_mask": mask}) == 64
    assert "padding left out by 'attention_mask'" in counter.describe()


def test_labels_without_a_mask_say_that_padding_is_counted():
    counter = BatchCounter()
    labels = torch.where(torch.arange(16) < 9, IDS, -100)
    assert counter.samples_and_tokens({"input_ids": IDS, "labels": labels}) == (4, 64)
    assert "padding included: there is no 'attention_mask'" in counter.describe()
    counter = BatchCounter()
    counter.samples_and_tokens({"input_ids": IDS, "labels": labels[:, 0]})
    assert "padding" not in counter.describe()


def test_a_mask_of_another_shape_is_no_padding():
    batch = {"input_ids": IDS, "attention_mask": torch.ones(4, 1, 16, 16)}
    assert BatchCounter().samples_and_tokens(batch) == (4, 64)
    counter = BatchCounter()
    counter.samples_and_tokens({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})
    assert counter.samples_and_tokens(batch) == (4, 64)


def test_the_first_log_line_says_what_is_counted():
    counter = BatchCounter()
    assert counter.describe() == "counting: no batch seen yet"
    counter.samples_and_tokens({"input_ids": IDS})
    assert counter.describe() == (
        "counting tokens: 2-D integer tensor of shape (4, 16) under 'input_ids', 64 tokens per micro-batch"
    )
    counter = BatchCounter()
    counter.samples_and_tokens((IMAGES, LABELS))
    assert counter.describe() == (
        "counting samples: first dimension of the first tensor of the batch, of shape (8, 3, 5, 5), "
        "8 samples per micro-batch"
    )


def test_samples_can_be_asked_for():
    assert BatchCounter("samples").samples_and_tokens({"input_ids": IDS}) == (4, None)


@pytest.mark.parametrize(
    ("batch", "amounts"),
    [
        ((IDS, IDS), (4, 64)),
        (torch.zeros(4, 16, 80), (4, 64)),
        ({"frames": torch.zeros(4, 16, 80)}, (4, 64)),
        (torch.ones(50, dtype=torch.long), (None, 50)),
    ],
)
def test_tokens_can_be_asked_for(batch, amounts):
    assert BatchCounter("tokens").samples_and_tokens(batch) == amounts


def test_tokens_that_are_not_there():
    with pytest.raises(ValueError, match=r'`count="tokens"` found no tensor of shape \(B, T\)'):
        BatchCounter("tokens").samples_and_tokens(torch.zeros(5))


def test_a_number_is_tokens_per_sample():
    counter = BatchCounter(196)
    assert counter.samples_and_tokens((IMAGES, LABELS)) == (8, 8 * 196)
    assert counter.unit == "tokens"
    assert counter.describe().startswith("counting tokens: 196 per sample as given")
    assert counter.samples_and_tokens(None) == (None, None)


def test_a_callable_counts():
    assert BatchCounter(lambda b: 5).samples_and_tokens((IMAGES,)) == (8, 5)
    assert BatchCounter(lambda b: np.int64(5)).samples_and_tokens((IMAGES,)) == (8, 5)
    assert BatchCounter(lambda b: {"samples": 2, "tokens": 5}).samples_and_tokens(None) == (2, 5)
    assert BatchCounter(lambda b: {"samples": 2}).samples_and_tokens(None) == (2, None)
    counter = BatchCounter(lambda b: b[0].sum())
    with NoScalarReads():
        samples, tokens = counter.samples_and_tokens((IDS,))
    assert samples == 4
    assert isinstance(tokens, torch.Tensor)
    assert counter.positions((IDS,)) == 64


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("many", TypeError),
        (None, TypeError),
        (True, TypeError),
        (np.bool_(True), TypeError),
        (torch.ones(3), TypeError),
        (torch.tensor(True), TypeError),
        ([5], TypeError),
        (-1, ValueError),
        (2.5, ValueError),
        (float("nan"), ValueError),
        ({"words": 3}, ValueError),
        ({}, ValueError),
    ],
)
def test_a_callable_that_returns_nonsense(answer, error):
    with pytest.raises(error, match="callable `count`"):
        BatchCounter(lambda batch: answer).samples_and_tokens((IMAGES,))


@pytest.mark.parametrize(
    ("count", "error"), [("words", ValueError), (0, ValueError), (True, TypeError), (1.5, TypeError)]
)
def test_bad_count(count, error):
    with pytest.raises(error, match="`count`"):
        BatchCounter(count)


def test_a_callable_may_fail_in_its_own_way():
    def broken(batch):
        raise RuntimeError("my own bug")

    with pytest.raises(RuntimeError, match="my own bug"):
        BatchCounter(broken).samples_and_tokens((IMAGES,))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_count_their_rows():
    nested = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(5, 4)])
    assert BatchCounter().samples_and_tokens((nested,)) == (2, None)
