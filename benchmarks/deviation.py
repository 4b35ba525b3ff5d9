"""False alarms and detection delays: replays of healthy runs, of runs with faults planted at 40 %, and of blow-ups.

False alarms are counted over whole runs, at the monitor's own cadence, alone and with past runs. The delay of a
found fault is compared with the least in which any test could find it given the noise. Baselines see the same means of
the losses over every hundredth of the run: Lightning's EarlyStopping, a running mean with three standard deviations,
Page-Hinkley, and ADWIN.

    python benchmarks/deviation.py [--source NAME] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves, folder
from _faults import BEGINS, FAULTS, least_delay, smooth_curve, with_losses, with_other_rate
from _watchers import BASELINES
from forecast import Histories
from scipy import stats

from lightning_scaling import Run, RunHistory
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.engine.records import Update
from lightning_scaling.forecast import Family
from lightning_scaling.forecast.config import DEFAULT

ALPHAS = (0.01, 0.05)
FOUND_WITHIN = 0.1
ALLOWED = 0.05
_FEWEST = 20
_STUDY = ("points", "datablations", "stability_study_curves.csv.gz")


def updates_of(run: Run, alpha: float, family: Family | None = None) -> list[Update]:
    """What the monitor says on the way."""
    monitor = Monitor(run.plan, alpha=alpha, params=run.params)
    if family is not None:
        monitor.learn(RunHistory(), prior=family)
    kept = ~np.isnan(run.loss)
    lr = None if run.lr is None else run.lr[kept]
    return monitor.observe(run.step[kept], run.loss[kept], lr=lr) + monitor.finish()


def named(item: Recorded) -> str:
    """Source, the validation losses of one of them told apart from its single-batch losses."""
    return item.source + ("-val" if item.id.endswith("-val") else "")


def healthy_rows(items: list[Recorded], histories: Histories) -> pd.DataFrame:
    """Alarms on healthy runs, for every mode and alpha, and those of the baselines."""
    rows = []
    for item in items:
        family = histories.family_of(item)
        for mode, source in (("alone", None), ("family", family)):
            for alpha in ALPHAS:
                said = updates_of(item.run, alpha, source)
                alarms = [u for u in said if u.deviation.alarm]
                rows.append(
                    {
                        "id": item.id,
                        "source": named(item),
                        "method": f"monitor, {mode}, alpha {alpha}",
                        "alarm": bool(alarms),
                        "stop": any(u.advice.action == "stop" for u in said),
                        "reason": alarms[0].advice.reason if alarms else "",
                    }
                )
        for name, watcher in BASELINES.items():
            at = watcher(*hundredths(item.run))
            rows.append({"id": item.id, "source": named(item), "method": name, "alarm": at is not None, "stop": False})
    return pd.DataFrame(rows)


def hundredths(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Ends and mean losses of the hundredths of a run that hold losses, from 6 % on."""
    seen = np.isfinite(run.loss)
    place = np.ceil(run.step[seen] / run.total_steps * 100 - 1e-9)
    ends = np.unique(place[place >= 6])
    return ends / 100, np.array([run.loss[seen][place == end].mean() for end in ends])


def fault_rows(items: list[Recorded], alpha: float, histories: Histories | None = None) -> pd.DataFrame:
    """Advice on planted faults, and when, next to the least delay and the baselines; with past runs or without."""
    rows = []
    for item in items:
        family = None if histories is None else histories.family_of(item)
        if histories is not None and family is None:
            continue
        smooth, at = smooth_curve(item.run), item.run.step / item.run.total_steps
        changes: dict[str, Run] = {
            name: with_losses(item.run, fault(at, item.run.loss, smooth)) for name, fault in FAULTS.items()
        }
        changes["rate x.75"] = with_other_rate(item.run)
        for name, run in changes.items():
            said = updates_of(run, alpha, family)
            found = [u for u in said if u.advice.action != "continue" and u.fraction and u.fraction >= BEGINS]
            known = name == "rate x.75"
            row = {
                "id": item.id,
                "source": named(item),
                "fault": name,
                "before": any(u.advice.action != "continue" and u.fraction and u.fraction < BEGINS for u in said),
                "bound": 0.0 if known else least_delay(item.run, run, smooth, alpha),
                "delay": found[0].fraction - BEGINS if found else math.inf,
                "direction": found[0].deviation.direction if found else None,
                "kind": found[0].deviation.kind if found else None,
                "stop": any(u.advice.action == "stop" for u in said),
            }
            if not known and histories is None:
                for baseline, watcher in BASELINES.items():
                    when = watcher(*hundredths(run))
                    row[baseline] = math.nan if when is None else when - BEGINS
            rows.append(row)
    return pd.DataFrame(rows)


def diverged() -> list[tuple[str, Run]]:
    """The labelled diverged runs of algoperf and the blow-ups of the stability study of datablations."""
    runs = [(item.id, item.run) for item in curves("algoperf") if item.label == "diverged"]
    path = folder().joinpath(*_STUDY)
    if path.exists():
        for name, rows in pd.read_csv(path).groupby("run_id"):
            # Validation losses are logged twice as often as those of training; the planned end is not known.
            part = rows[rows.kind == "val"].dropna(subset=["lm_loss"]).drop_duplicates("iteration")
            part = part.sort_values("iteration")
            if len(part) >= _FEWEST:
                runs.append((str(name), Run(part.iteration, part.lm_loss, total_steps=int(part.iteration.max()))))
    return runs


def blow_up_rows(alpha: float) -> pd.DataFrame:
    """For each real divergence, how much of its gain the loss had given back when the monitor first spoke."""
    rows = []
    for name, run in diverged():
        said = updates_of(run, alpha)
        seen = np.isfinite(run.loss)
        best = np.minimum.accumulate(np.where(seen, run.loss, np.inf))
        start = float(run.loss[seen][0])
        lost = np.where(seen, run.loss - best, np.inf) / np.maximum(start - best, 0.02 * abs(start))
        late = run.step > 0.1 * run.total_steps
        # Half of the gain is lost where it is so for three points in a row, or up to the end of the record.
        half = np.flatnonzero(late & (lost >= 0.5) & lasting(lost >= 0.5))
        begin = float(run.step[half[0]]) if half.size else math.inf
        spoke = [u.step for u in said if u.advice.action != "continue"]
        rows.append(
            {
                "id": name,
                "points": int(seen.sum()),
                "half lost at": begin,
                "spoke at": spoke[0] if spoke else math.inf,
                "points late": max(int(np.sum((run.step > begin) & (run.step <= spoke[0]))) if spoke else len(run), 0),
                "advised to stop at": next((u.step for u in said if u.advice.action == "stop"), math.inf),
            }
        )
    return pd.DataFrame(rows)


def lasting(bad: np.ndarray) -> np.ndarray:
    """Where a condition holds for three points, or for all that are left."""
    padded = np.concatenate([bad, [True, True]])
    return padded[:-2] & padded[1:-1] & padded[2:]


def rates(healthy: pd.DataFrame) -> pd.DataFrame:
    """Share of runs with an alarm and its exact binomial interval, by method."""
    rows = {}
    for method, part in healthy.groupby("method", sort=False):
        count, total = int(part.alarm.sum()), len(part)
        low, high = stats.binomtest(count, total).proportion_ci(0.95)
        rows[method] = {"runs": total, "alarms": count, "share": count / total, "low": low, "high": high}
        rows[method]["stops"] = int(part.stop.sum())
    return pd.DataFrame(rows).T


def found(faults: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Detection and delay where the bound leaves room: it is at most half of the time allowed."""
    part = faults[~faults.before & ((faults.bound <= ALLOWED) | (faults.fault == "spike"))]
    share: Callable[[pd.Series], float] = lambda x: float((x.between(0, FOUND_WITHIN)).mean())  # noqa: E731
    late = part.assign(ratio=part.delay / part.bound.clip(lower=0.01))
    columns = {
        "runs": ("id", "size"),
        "found": ("delay", share),
        "delay": ("delay", "median"),
        "bound": ("bound", "median"),
        "times bound": ("ratio", "median"),
        "below": ("direction", lambda x: float((x == "below").mean())),
        "stops": ("stop", "sum"),
    }
    columns |= {name: (name, share) for name in BASELINES if name in part}
    return late.groupby(by, sort=False).agg(**columns)


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its tables."""
    every = [r for r in curves(args.source) if r.label == "healthy" and r.rate_known]
    items = every[:: 12 if args.quick else 1]
    histories = Histories(every, config=DEFAULT)
    healthy = healthy_rows(items, histories)
    faults = fault_rows(items[::3], ALPHAS[0])
    with_history = fault_rows(items[::3], ALPHAS[0], histories)
    blow_ups = blow_up_rows(ALPHAS[0]) if not args.source else pd.DataFrame()
    tables = {
        "false alarms": rates(healthy),
        "faults": found(faults, ["fault"]),
        "faults by source": found(faults, ["fault", "source"]),
        "faults, family": found(with_history, ["fault"]),
        "faults by source, family": found(with_history, ["fault", "source"]),
        "blow-ups": blow_ups,
    }
    out = Report(**tables)
    out.add("healthy runs: share with an alarm, and its 95 % interval")
    out.add(tables["false alarms"].round(4).to_string())
    alarmed = healthy[healthy.alarm & healthy.method.str.startswith("monitor")]
    for row in alarmed.drop_duplicates("id").itertuples():
        out.add(f"  {row.id}: {row.reason}")
    out.add(
        "faults planted at 40 % of every third run where the bound leaves room (at most 5 % of the run): share found"
        "\nwithin 10 % of the run; median delay and bound, as parts of the run, and their ratio (bounds below 1 % of"
        "\nthe run, the usual cadence, are taken as that); share called 'below'; stops; share found by the baselines"
    )
    out.add(tables["faults"].round(3).to_string())
    out.add(tables["faults by source"].iloc[:, :7].round(3).to_string())
    out.add("the same, with past runs")
    out.add(tables["faults, family"].round(3).to_string())
    out.add(tables["faults by source, family"].round(3).to_string())
    if len(blow_ups):
        out.add("real divergences: step at which half of the gain was lost, when the monitor spoke and advised to stop")
        out.add(blow_ups.to_string())
        late, spoke = blow_ups["points late"], int(np.isfinite(blow_ups["spoke at"]).sum())
        out.add(
            f"{spoke} of {len(blow_ups)} flagged, {int((late == 0).sum())} of them before half was lost and "
            f"{int((late == 1).sum())} at the next recorded point"
        )
    return out


if __name__ == "__main__":
    main(__doc__, report, source={"help": "only the runs of this source"})
