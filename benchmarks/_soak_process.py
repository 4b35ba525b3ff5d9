"""Work in processes of its own, and the limits of what a process may take."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Result = tuple[int, list[str]]
"""How many faults were tried, and a sentence for each that was not survived."""


def forked(work: Callable[[], Any], result: Path, kill_after: float | None = None) -> str:
    """Work in a process of its own, whose result is written as JSON; a sentence if it failed, "killed" if it was."""
    child = os.fork()
    if not child:
        status = 1
        try:
            torch.set_num_threads(1)  # threads of the parent are not there
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            result.write_text(json.dumps(work()))
            status = 0
        except BaseException:
            result.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            sys.stdout.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    if os.WEXITSTATUS(status):
        text = result.with_suffix(".error").read_text().strip()
        print(text, file=sys.stderr)
        return text.splitlines()[-1]
    return ""


@contextmanager
def limits(seconds: int, memory: int = 6 << 30) -> Iterator[None]:
    """An error instead of a hang or of unbounded memory."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, old[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.signal(signal.SIGALRM, before)
