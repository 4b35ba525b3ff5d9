"""Plans of runs: their length and the learning rate of every future step."""

from lightning_scaling.schedule.plan import Plan

__all__ = ["Plan"]
