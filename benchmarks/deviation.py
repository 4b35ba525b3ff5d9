"""Do alarms mean something? Replays of healthy runs, and of the same runs with faults planted at 40 %.

python benchmarks/deviation.py [--alpha .01] [--source NAME] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from _data import Recorded, curves
from scipy import stats

from lightning_scaling import Run, replay

BEGINS = 0.4


def level(share: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The loss jumps by a share of itself and stays there."""
    return lambda at, loss: np.where(at >= BEGINS, loss * (1 + share), loss)


def slow_divergence(at: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The loss drifts up by 1 % of itself per 5 % of the run."""
    return loss * (1 + 0.01 * np.maximum(at - BEGINS, 0) / 0.05)


def spike(at: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """One point half as high again, then back."""
    changed = loss.copy()
    after = np.flatnonzero((at >= BEGINS) & np.isfinite(loss))
    changed[after[:1]] *= 1.5
    return changed


FAULTS = {
    "level +2 %": level(0.02),
    "level +5 %": level(0.05),
    "level -3 %": level(-0.03),
    "slow divergence": slow_divergence,
    "spike": spike,
}


def changed(run: Run, loss: np.ndarray) -> Run:
    """The same run with other losses."""
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return Run(fields.pop("step"), loss, **{k: v for k, v in fields.items() if k != "loss"})


def judged(item: Recorded, fault: Callable | None, alpha: float) -> dict:
    """What the monitor said of one run."""
    run = item.run if fault is None else changed(item.run, fault(item.run.step / item.run.total_steps, item.run.loss))
    updates = replay(run, alpha=alpha)
    alarms = [u for u in updates if u.deviation.alarm]
    after = [u for u in updates if u.advice.action != "continue" and (fault is None or u.fraction >= BEGINS)]
    before = fault is not None and any(u.advice.action != "continue" and u.fraction < BEGINS for u in updates)
    return {
        "id": item.id,
        "source": item.source,
        "alarm": bool(alarms),
        "flagged": bool(after),
        "stop": any(u.advice.action == "stop" for u in updates),
        "delay": after[0].fraction - (BEGINS if fault else 0.0) if after else np.nan,
        "before": before,
        "below": bool(after) and after[0].deviation.direction == "below",
        "reason": after[0].advice.reason if after else "",
    }


def main() -> None:
    """Run the task and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--source", help="only the runs of this source")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="every tenth run only")
    args = parser.parse_args()
    items = [r for r in curves(args.source) if r.label == "healthy" and r.rate_known][:: 10 if args.quick else 1]
    healthy = pd.DataFrame([judged(item, None, args.alpha) for item in items])
    count, total = int(healthy.alarm.sum()), len(healthy)
    bound = stats.binomtest(count, total).proportion_ci(0.95)
    planted = {}
    for name, fault in FAULTS.items():
        table = pd.DataFrame([judged(item, fault, args.alpha) for item in items[::3]])
        table = table[~table.before]
        planted[name] = table.groupby("source").agg(
            runs=("id", "size"),
            found=("delay", lambda x: float((x <= 0.1).mean())),
            delay=("delay", "median"),
            below=("below", "mean"),
            stops=("stop", "sum"),
        )
    if args.json:
        print(
            json.dumps(
                {
                    "alpha": args.alpha,
                    "runs": total,
                    "alarms": count,
                    "interval": list(bound),
                    "stops": int(healthy.stop.sum()),
                    "flagged": healthy[healthy.flagged].to_dict("records"),
                    "planted": {name: t.reset_index().to_dict("records") for name, t in planted.items()},
                }
            )
        )
        return
    print(f"healthy runs: {total}; with an alarm: {count} ({count / total:.1%}, 95 % interval {bound.low:.1%} to "
          f"{bound.high:.1%}) at alpha {args.alpha}; advised to stop: {int(healthy.stop.sum())}")  # fmt: skip
    print("\nhealthy runs advised to investigate:")
    for row in healthy[healthy.flagged].itertuples():
        print(f"  {row.id}: {row.reason}")
    print(
        "\nfaults planted at 40 % (every third run): share found within 10 % of the run, median delay, share 'below'\n"
    )
    print(pd.concat(planted, names=["fault"]).round(3).to_string())


if __name__ == "__main__":
    main()
