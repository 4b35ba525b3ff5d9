import subprocess
import sys

import pytest

from lightning_scaling.compute import attention_flops, dense_flops, flops_per_token, gpt_flops


def test_six_n_d_is_exact_beyond_64_bits():
    assert dense_flops(10**12, 10**14) == 6 * 10**26


def test_attention_term_is_added():
    plain = dense_flops(1000, 50)
    assert dense_flops(1000, 50, layers=2, width=8, context=16) == plain + 12 * 2 * 8 * 16 * 50
    assert attention_flops(50, layers=2, width=8, context=16) == 12 * 2 * 8 * 16 * 50


def test_attention_sizes_come_together():
    with pytest.raises(ValueError, match=r"`layers`, `width` and `context` together"):
        dense_flops(10, 10, layers=2)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), True, "many"])
def test_bad_numbers_are_named(bad):
    with pytest.raises(ValueError, match="`tokens` must be a finite number"):
        dense_flops(10, bad)


def test_deepseek_scale_is_the_hand_count_without_the_vocabulary():
    batch, context, layers, width, vocab = 2, 128, 3, 64, 1000
    exact = gpt_flops(batch, context, layers=layers, width=width, vocab=vocab)
    tokens = batch * context
    assert flops_per_token(layers=layers, width=width, context=context) * tokens == exact - 6 * width * vocab * tokens


def test_grouped_queries_and_a_narrow_feed_forward_part_cost_less():
    full = gpt_flops(1, 16, layers=1, width=32, vocab=10)
    assert gpt_flops(1, 16, layers=1, width=32, vocab=10, kv_width=8) == full - 6 * 2 * 32 * 24 * 16
    assert gpt_flops(1, 16, layers=1, width=32, vocab=10, hidden=64) == full - 6 * 2 * 32 * 64 * 16


def test_the_formulas_do_not_import_torch():
    code = "import sys; from lightning_scaling.compute import dense_flops; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
