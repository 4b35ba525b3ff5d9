"""Pictures and words for people: two figures as PNG bytes, and the Markdown description of a run."""

from lightning_scaling.report.describe import description
from lightning_scaling.report.figures import forecast_figure, loss_compute_figure

__all__ = ["description", "forecast_figure", "loss_compute_figure"]
