import numpy as np

from lightning_scaling import Run
from lightning_scaling.history.reader_thread import CompetitorReader


def write(folder, name):
    Run(np.arange(1, 30), 3.0 / np.arange(1, 30), np.full(29, 0.1), total_steps=40).to_csv(folder / f"{name}.csv")


def read(reader):
    reader.poll()
    reader._thread.join(10)
    return reader.poll()


def test_past_runs_are_read_again_when_that_is_due_and_not_before(tmp_path):
    now = [100.0]
    write(tmp_path, "first")
    reader = CompetitorReader(tmp_path, clock=lambda: now[0])
    assert len(read(reader)) == 1
    write(tmp_path, "second")
    now[0] += 30
    assert len(read(reader)) == 1
    now[0] += 31
    assert len(read(reader)) == 2


def test_what_cannot_be_read_is_no_error(tmp_path):
    reader = CompetitorReader(tmp_path)
    assert read(reader) is None
    assert "holds no *.csv file" in reader.error
