"""The recorded ladders that the benchmarks of laws read; they are not part of the project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _data import folder

Array = np.ndarray


@dataclass(frozen=True)
class Ladder:
    """Runs of one family: sizes, data, compute and what loss they reached.

    Attributes:
        name: What the tables call it.
        source: Who measured it; ladders of one source share code, data or runs.
        params: Parameters of every run, as its source counts them.
        tokens: Training tokens.
        flops: Training compute; the budget where the source gives one, else ``6 * params * tokens``.
        loss: Final loss, nats per token.
        isoflop: Whether the runs come in groups of one compute.
    """

    name: str
    source: str
    params: Array
    tokens: Array
    flops: Array
    loss: Array
    isoflop: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: Array) -> dict[str, Array]:
        """Some of the runs as inputs of a law."""
        return {"params": self.params[rows], "tokens": self.tokens[rows], "loss": self.loss[rows]}

    def split(self, factor: float = 10.0) -> tuple[Array, Array]:
        """Masks of the runs within ``max(flops) / factor`` and of those beyond."""
        cheap = self.flops <= self.flops.max() / factor * (1 + 1e-6)
        return cheap, ~cheap


def _base() -> Path:
    return folder() / "points"


def _ladder(name: str, source: str, table: pd.DataFrame, columns: tuple[str, str, str], **more: object) -> Ladder:
    table = table.dropna(subset=list(columns))
    params, tokens, loss = (table[c].to_numpy(dtype=float) for c in columns)
    flops = more.pop("flops", None)
    compute = 6 * params * tokens if flops is None else table[flops].to_numpy(dtype=float)
    order = np.argsort(compute, kind="stable")
    return Ladder(name, source, params[order], tokens[order], compute[order], loss[order], **more)


def isoflops() -> Iterator[Ladder]:
    """The ladders of the held-out decade: misfitting, ml_scalefit and the 15 settings of Porian et al."""
    for name in ("misfitting", "ml_scalefit"):
        table = pd.read_csv(_base() / "open_athena_isoflops" / f"extract__{name}__isoflops.csv")
        source = {"ml_scalefit": "chinchilla"}.get(name, name)
        yield _ladder(name, source, table, ("params", "tokens", "loss"), flops="budget", isoflop=True)
    table = pd.read_csv(_base() / "porian2024" / "isoflop_points.csv")
    for setting, rows in table.groupby("experiment", sort=True):
        name = "porian " + str(setting).replace("|", " ")
        yield _ladder(name, "porian2024", rows, ("N", "D_tokens", "loss"), flops="flops", isoflop=True)


def chinchilla() -> Ladder:
    """The 240 points of Hoffmann et al. 2022 that Besiroglu et al. fit."""
    table = pd.read_csv(_base() / "chinchilla_epoch" / "chinchilla_points.csv")
    columns = ("N_params", "D_tokens", "loss")
    return _ladder("chinchilla_epoch", "chinchilla", table[table.used_in_epoch_fit == 1], columns, flops="C_flop")


def gadre() -> pd.DataFrame:
    """The 104 runs of Gadre et al. 2024 as they stand."""
    return pd.read_csv(_base() / "gadre_overtraining" / "runs.csv")


def others() -> Iterator[Ladder]:
    """Ladders that are no isoFLOP sets."""
    yield chinchilla()
    for training_set, rows in gadre().groupby("train_set", sort=True):
        yield _ladder(f"gadre {training_set}", "gadre", rows, ("N_params", "D_tokens", "loss_c4_val"))
    table = pd.read_csv(_base() / "gemstones" / "curves.csv.gz")
    for kind in ("hot", "cool_end", "lr_ablation_hot"):
        rows = table[table.set == kind]
        if kind != "cool_end":
            rows = rows[rows.step % 2385 == 0]
        yield _ladder(f"gemstones {kind}", "gemstones", rows, ("params_active_precise", "tokens", "final_loss"))
    table = pd.read_csv(_base() / "misfitting" / "final_ckpts.csv")
    best = table.loc[table.groupby(["N", "D"]).loss.idxmin()]
    yield _ladder("misfitting finals", "misfitting", best, ("N", "D", "loss"))
    table = pd.read_csv(_base() / "datablations" / "final_points_NDU.csv")
    once = table[table.epochs <= 1.001]
    yield _ladder("datablations once", "datablations", once, ("N_params", "D_tokens", "val_loss"))
    table = pd.read_csv(_base() / "olmo_ladder" / "runs.csv")
    table = table[table["size"].isin(["190M", "370M", "760M", "1B", "3B"]) & ~table.run_id.str.endswith("rerun")]
    table = table.assign(N_params=table.N_params.fillna(3.17e9))
    yield _ladder("olmo_ladder", "olmo_ladder", table, ("N_params", "last_tokens", "final_c4_ce"))
    table = pd.read_csv(_base() / "steplaw" / "dense.csv.gz")
    best = table.loc[table.groupby(["N", "D"])["smooth loss"].idxmin()]
    yield _ladder("steplaw best", "steplaw", best, ("N", "D", "smooth loss"))
    yield from curves()


def curves() -> Iterator[Ladder]:
    """Final losses of the runs of the folder ``curves`` whose size and tokens are known."""
    table = pd.read_csv(folder() / "curves" / "runs.csv").dropna(subset=["n_params", "tokens_per_step"])
    table = table[table.label == "healthy"].assign(tokens=lambda t: t.total_steps * t.tokens_per_step)
    columns = ("n_params", "tokens", "final_loss")
    yield _ladder("xlstm llama", "xlstm", table[table.family == "xl-llama"], columns)
    kept = table.run_id.str.endswith("-val") & table.schedule.isin(["cos", "wsd+joined"])
    for family, rows in table[kept & (table.source == "haegele_schaipp")].groupby("family", sort=True):
        if rows.n_params.nunique() > 2:
            yield _ladder(f"haegele {family}", "haegele", rows, columns)
