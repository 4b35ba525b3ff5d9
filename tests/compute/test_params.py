import pytest
import torch
from torch import nn

from lightning_scaling.compute import ParamCounts, count_params


class Tied(nn.Module):
    def __init__(self, tie: bool):
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 100, bias=False)
        if tie:
            self.head.weight = self.embed.weight


def test_tied_weights_count_once():
    counts = count_params(Tied(tie=True))
    assert (counts.total, counts.embedding, counts.non_embedding, counts.tied) == (872, 800, 72, 800)
    assert counts.matmul == 872


def test_an_untied_head_is_no_embedding():
    counts = count_params(Tied(tie=False))
    assert (counts.total, counts.embedding, counts.non_embedding, counts.tied) == (1672, 800, 872, 0)
    assert counts.matmul == 872


def test_frozen_parameters_are_in_the_total_only():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    counts = count_params(model)
    assert (counts.total, counts.trainable) == (30, 10)


def test_embedding_bags_count_as_embeddings():
    assert count_params(nn.EmbeddingBag(10, 4)).embedding == 40


def test_meta_modules_count_like_others():
    with torch.device("meta"):
        model = Tied(tie=False)
    assert count_params(model) == count_params(Tied(tie=False))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_parameters_are_counted_when_they_exist():
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    counts = count_params(model)
    assert (counts.total, counts.uninitialized) == (20, 2)
    model(torch.ones(1, 4))
    assert count_params(model).total == 35


def test_weights_split_by_deepspeed_count_in_full():
    model = nn.Linear(4, 4, bias=False)
    model.weight.ds_numel = 16
    model.weight.data = torch.empty(0)
    assert count_params(model).total == 16


def test_active_parameters_are_as_given():
    assert count_params(nn.Linear(4, 4)).active == 20
    assert count_params(nn.Linear(4, 4), active=7).active == 7


@pytest.mark.parametrize(("active", "error"), [(0, ValueError), (21, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_active_is_named(active, error):
    with pytest.raises(error, match="`active` must be"):
        count_params(nn.Linear(4, 4), active=active)


def test_not_a_module():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, but got list"):
        count_params([nn.Linear(1, 1)])


def test_counts_survive_a_round_trip():
    counts = count_params(Tied(tie=True), active=100)
    assert ParamCounts.from_dict(counts.to_dict()) == counts
