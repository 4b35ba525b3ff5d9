"""Advice on a run, in one sentence with numbers."""

from lightning_scaling.advice.adviser import Adviser
from lightning_scaling.advice.config import AdviceConfig
from lightning_scaling.advice.ranking import Ranking, RunRank, compare_runs
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.advice.state import RunState
from lightning_scaling.advice.stopping import Decision, StopKind, StopRule

__all__ = [
    "Advice",
    "AdviceConfig",
    "Adviser",
    "Decision",
    "FindingCode",
    "Ranking",
    "RunRank",
    "RunState",
    "StopKind",
    "StopRule",
    "compare_runs",
]
