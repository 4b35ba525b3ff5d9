"""What to do about a run, in one sentence with numbers."""

from lightning_scaling.advice.adviser import Adviser, Situation
from lightning_scaling.advice.result import Advice

__all__ = ["Advice", "Adviser", "Situation"]
