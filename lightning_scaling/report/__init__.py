"""Pictures and words for people: figures of runs and of fitted laws, and the Markdown description of a run."""

from lightning_scaling.report.law_figures import fit_figure, fit_page, write_figure
from lightning_scaling.report.markdown import description
from lightning_scaling.report.run_figures import forecast_figure, loss_compute_figure

__all__ = ["description", "fit_figure", "fit_page", "forecast_figure", "loss_compute_figure", "write_figure"]
