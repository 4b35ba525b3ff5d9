"""Where ranks are certain to meet."""

from types import SimpleNamespace

import pytest

from lightning_scaling.callbacks.distributed import Ranks


def ranks(hook=None, joining=False):
    model = SimpleNamespace(_join_config=SimpleNamespace(enable=joining))
    strategy = SimpleNamespace(model=model, _ddp_comm_hook=hook)
    return Ranks(SimpleNamespace(strategy=strategy, world_size=2, is_global_zero=True))


def test_ranks_meet_where_gradients_are_exchanged_at_every_step():
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook

    assert ranks().meet_at_steps()
    assert ranks(default_hooks.fp16_compress_hook).meet_at_steps()
    assert not ranks(post_localSGD_hook.post_localSGD_hook).meet_at_steps()
    assert not ranks(joining=True).meet_at_steps()


@pytest.mark.parametrize("world", [1, 2])
def test_a_strategy_without_a_model_of_its_own(world):
    assert Ranks(SimpleNamespace(strategy=object(), world_size=world, is_global_zero=True)).meet_at_steps()
