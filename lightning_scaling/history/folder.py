"""Past runs of a folder of curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_scaling.history.calibration_store import of_folder
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run


def history_from_folder(folder: str | os.PathLike[str], **known: Any) -> RunHistory:
    """Read every ``*.csv`` of a folder as a finished run, and its ``calibration.json`` where there is one.

    Args:
        folder: The folder.
        **known: Further arguments of :meth:`~lightning_scaling.runs.run.Run.from_csv`, for every run.

    Raises:
        ValueError: If the folder holds no CSV file, or one of them is not a curve.
    """
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise ValueError(f"{folder} holds no *.csv file; expected one file `step,loss[,lr]` per finished run.")
    runs = [Run.from_csv(file, **known) for file in files]
    return RunHistory(runs, source=f"the folder {folder}", calibration=of_folder(folder))
