"""What to do about a run, in one sentence with numbers."""

from lightning_scaling.advice.adviser import Adviser, Situation
from lightning_scaling.advice.contest import Standing, Standings, compare_runs
from lightning_scaling.advice.result import Advice
from lightning_scaling.advice.stopping import Decision, Moment, StopRule

__all__ = [
    "Advice",
    "Adviser",
    "Decision",
    "Moment",
    "Situation",
    "Standing",
    "Standings",
    "StopRule",
    "compare_runs",
]
