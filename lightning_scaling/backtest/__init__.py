"""Backtests: the engine driven over recorded runs."""

from lightning_scaling.backtest.many_runs import ReplayCollection, replay_many
from lightning_scaling.backtest.single_run import Replay, replay

__all__ = ["Replay", "ReplayCollection", "replay", "replay_many"]
