"""Time, lost rows and delay at exit of a run whose MLflow server dies half-way.

A tiny run with ScalingLawMonitor writes to a real MLflow server, which half-way is killed (SIGKILL: connections are
refused) or stopped (SIGSTOP: connections are taken and never answered). Nothing but the monitor talks to the server.
Afterwards the server comes back, `sync` sends what is missing, and the losses are compared with the journal.

    python benchmarks/dead_server.py [--json] [--quick] [--baseline]

Takes about five minutes; --quick leaves out SIGSTOP and shortens the runs; --baseline adds Lightning's own MLFlowLogger
without the monitor, which takes ten minutes more. Needs a system with POSIX signals.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _mlflow_server import Server

STEPS, QUICK_STEPS = 1000, 300
END_WITHIN = 3600.0


def measure(server: Server, scenario: str, steps: int, *, baseline: bool) -> dict:
    """One run under one scenario; the server is left as the scenario leaves it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    found = client.get_experiment_by_name("dead-server")
    experiment = found.experiment_id if found else client.create_experiment("dead-server")
    run = client.create_run(experiment, run_name=scenario).info.run_id
    journals = server.folder / "journals" / scenario
    command = [sys.executable, __file__, "--child", run, "--uri", server.uri, "--steps", str(steps)]
    command += ["--journals", str(journals), *(["--baseline"] if baseline else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    result: dict = {}
    for line in child.stdout:
        if line.startswith("HALF-WAY") and scenario != "live":
            server.signal(signal.SIGKILL if scenario == "killed" else signal.SIGSTOP)
        elif line.startswith("RESULT "):
            result = json.loads(line.removeprefix("RESULT "))
    said = child.stderr.read()
    child.wait(END_WITHIN)
    ended = time.time()
    row = {"scenario": scenario, "logger": "MLFlowLogger alone" if baseline else "ScalingLawMonitor", "run_id": run}
    if not result:
        print(said, file=sys.stderr)
        return {**row, "error": (said.strip().splitlines() or ["no result"])[-1]}
    row |= {key: result[key] for key in ("fit_seconds", "last_step_to_end", "slowest_step_after_ms", "error")}
    row |= {"steps": steps, "exit_seconds": ended - result["ended"], "exit_code": child.returncode}
    return row | ({} if baseline else journalled(journals, steps))


def journalled(folder: Path, steps: int) -> dict:
    """What the journal of a run holds, and how much of it has not been sent."""
    from lightning_scaling.tracking import pending_journals, read_journal

    (path,) = folder.glob("*.jsonl")
    contents = read_journal(path)
    return {
        "points_in_journal": len(contents.points),
        "points_expected": steps,
        "updates_in_journal": len(contents.updates),
        "metric_rows_in_journal": sum(op["op"] == "metrics" for op in contents.ops),
        "rows_in_journal": len(contents.ops),
        "rows_waiting": sum(one.rows for one in pending_journals(folder)),
        "damaged_lines": contents.damaged,
        "ended_in_order": contents.end is not None,
    }


def synced(server: Server, row: dict) -> dict:
    """Send what is missing, and compare the loss that MLflow has with the journal."""
    from mlflow.tracking import MlflowClient

    from lightning_scaling.tracking import read_journal, schema, sync

    folder = server.folder / "journals" / row["scenario"]
    (path,) = folder.glob("*.jsonl")
    client = MlflowClient(tracking_uri=server.uri)
    before = len(client.get_metric_history(row["run_id"], schema.LOSS))
    report = sync(path, to_recorded_server=True)
    after = {(one.step, one.value) for one in client.get_metric_history(row["run_id"], schema.LOSS)}
    rows = [op for op in read_journal(path).ops if op["op"] == "metrics" and op["values"].get(schema.LOSS) is not None]
    expected = {(op["step"], op["values"][schema.LOSS]) for op in rows}
    return {
        "losses_before_sync": before,
        "losses_after_sync": len(after),
        "losses_expected": len(expected),
        "complete_after_sync": after == expected and report.ok,
        "rows_synced": report.sent,
    }


def child(args: argparse.Namespace) -> None:
    """Train, say when half of it is done, and print what was measured."""
    import logging
    import warnings

    import torch
    from _soak_ends import MLFlowLogger as SilentLogger
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import MLFlowLogger

    from lightning_scaling.callbacks import ScalingLawMonitor

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Regression(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = [layer for _ in range(4) for layer in (torch.nn.Linear(512, 512), torch.nn.Tanh())]
            self.net = torch.nn.Sequential(torch.nn.Linear(32, 512), *layers, torch.nn.Linear(512, 1))

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> dict:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.02)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Watch(Callback):
        def __init__(self) -> None:
            self.slowest, self.last = 0.0, None

        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            now = time.perf_counter()
            if self.last is not None:
                self.slowest = max(self.slowest, now - self.last)
            self.last = now
            if trainer.global_step == args.steps // 2:
                self.slowest = 0.0
                print("HALF-WAY", flush=True)

    x = torch.randn(4096, 32)
    y = torch.sin(x @ torch.randn(32, 1)) + 0.1 * torch.randn(4096, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=256)
    watch = Watch()
    monitor = ScalingLawMonitor(journal=args.journals, on_advice="ignore", max_overhead=1.0)
    trainer = Trainer(
        max_steps=args.steps,
        logger=MLFlowLogger(tracking_uri=args.uri, run_id=args.child)
        if args.baseline
        else SilentLogger(args.uri, args.child),
        callbacks=[watch] if args.baseline else [watch, monitor],
        accelerator="cpu",
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    began, error = time.perf_counter(), ""
    try:
        trainer.fit(Regression(), loader)
    except Exception as caught:
        error = f"{type(caught).__name__}: {str(caught).splitlines()[0][:80]}"
    done = time.perf_counter()
    result = {
        "fit_seconds": done - began,
        "last_step_to_end": done - (watch.last or began),
        "slowest_step_after_ms": 1e3 * watch.slowest,
        "error": error,
        "ended": time.time(),
    }
    print("RESULT " + json.dumps(result), flush=True)


def table(rows: list[dict]) -> str:
    """The rows as a table to read."""
    columns = {
        "logger": ("logger", "{}"),
        "scenario": ("server", "{}"),
        "fit_seconds": ("fit s", "{:.1f}"),
        "slowest_step_after_ms": ("slowest step after ms", "{:.0f}"),
        "last_step_to_end": ("last step to end s", "{:.1f}"),
        "exit_seconds": ("exit s", "{:.1f}"),
        "points_in_journal": ("points in journal", "{}"),
        "rows_waiting": ("rows not sent", "{}"),
        "complete_after_sync": ("complete after sync", "{}"),
        "error": ("fit raised", "{}"),
    }
    lines = [[title for title, _ in columns.values()]]
    for row in rows:
        cells = [form.format(row[key]) if key in row else "-" for key, (_, form) in columns.items()]
        if "points_expected" in row:
            cells[6] += f" of {row['points_expected']}"
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    """Run the scenarios and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="shorter runs, without SIGSTOP")
    parser.add_argument("--baseline", action="store_true", help="add Lightning's MLFlowLogger alone (ten minutes more)")
    for hidden in ("--child", "--uri", "--journals"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    scenarios = ["live", "killed"] if args.quick else ["live", "stopped", "killed"]
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="dead-server-") as folder:
        server = Server(Path(folder))
        try:
            print(f"server up after {server.start():.0f} s", file=sys.stderr)
            for scenario in scenarios:
                print(f"run with the server {scenario}", file=sys.stderr)
                row = measure(server, scenario, steps, baseline=False)
                if scenario == "stopped":
                    server.signal(signal.SIGCONT)
                elif scenario == "killed":
                    server.start()
                rows.append(row if "fit_seconds" not in row else row | synced(server, row))
            if args.baseline:
                print("run with Lightning's MLFlowLogger alone, the server killed", file=sys.stderr)
                rows.append(measure(server, "killed", steps, baseline=True))
        finally:
            server.signal(signal.SIGCONT)
            server.signal(signal.SIGKILL)
    print(json.dumps({"steps": steps, "rows": rows}) if args.json else table(rows))
    sound = all(
        row.get("complete_after_sync") and row.get("points_in_journal") == steps and not row["error"]
        for row in rows
        if row["logger"] == "ScalingLawMonitor"
    )
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
