"""What to do about a run, in one sentence with numbers."""

from lightning_scaling.advice.adviser import Adviser, Situation
from lightning_scaling.advice.ranking import Ranking, RunRank, compare_runs
from lightning_scaling.advice.result import Advice
from lightning_scaling.advice.stopping import Decision, Moment, StopRule

__all__ = [
    "Advice",
    "Adviser",
    "Decision",
    "Moment",
    "Ranking",
    "RunRank",
    "Situation",
    "StopRule",
    "compare_runs",
]
