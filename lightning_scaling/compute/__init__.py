"""Size and cost of a run: parameters, samples, tokens and FLOPs.

Names are loaded when first used, so that the plain formulas do not cost the import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_scaling.compute.batch_counter import BatchCounter
    from lightning_scaling.compute.check import selfcheck
    from lightning_scaling.compute.flops import FlopMeter
    from lightning_scaling.compute.params import ParamCounts, count_params
    from lightning_scaling.compute.transformer_flops import attention_flops, dense_flops, flops_per_token, gpt_flops

_HOME = {
    "BatchCounter": "batch_counter",
    "FlopMeter": "flops",
    "ParamCounts": "params",
    "attention_flops": "transformer_flops",
    "count_params": "params",
    "dense_flops": "transformer_flops",
    "flops_per_token": "transformer_flops",
    "gpt_flops": "transformer_flops",
    "selfcheck": "check",
}

__all__ = [
    "BatchCounter",
    "FlopMeter",
    "ParamCounts",
    "attention_flops",
    "count_params",
    "dense_flops",
    "flops_per_token",
    "gpt_flops",
    "selfcheck",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
