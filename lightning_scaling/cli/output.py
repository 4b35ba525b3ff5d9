"""Results on stdout, messages and progress bars on stderr, one sentence for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling._utils.formatting import significant
from lightning_scaling._utils.serialization import NonFinite, to_builtins
from lightning_scaling._utils.validation import probability

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Command = Callable[..., Any]


class InputError(click.ClickException):
    """Bad input: one sentence on stderr, exit code 2."""

    exit_code = 2


class WorkError(click.ClickException):
    """The work failed although the input was right: one sentence on stderr, exit code 1."""

    exit_code = 1


@contextmanager
def errors(file: str | None = None) -> Iterator[None]:
    """Turn errors about bad input into :class:`InputError`, and those of a store of past runs into :class:`WorkError`.

    Args:
        file: The file that is read, for messages of errors that do not name one.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"There is no file {error.filename or file}.") from error
    except IsADirectoryError as error:
        raise InputError(f"{error.filename or file} is a folder; give the path of a file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text file in UTF-8: {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise InputError(f"{error.filename or file} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    except RuntimeError as error:
        from lightning_scaling.history import HistoryError

        if isinstance(error, HistoryError):
            raise WorkError(str(error)) from error
        raise


def info(message: str) -> None:
    """A message for the person at the terminal: on stderr, so that stdout holds the results alone."""
    click.echo(message, err=True)


def emit(document: Mapping[str, Any], nonfinite: NonFinite = "null") -> None:
    """One JSON document on one line of stdout."""
    click.echo(json.dumps(to_builtins(document, nonfinite=nonfinite), allow_nan=False))


def pairs(option: str, texts: Iterable[str], shape: str = "NAME=VALUE") -> Iterator[tuple[str, str]]:
    """Names and values of an option that is given as ``NAME=VALUE``, any number of times."""
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or not value:
            raise InputError(f"`--{option}` must be {shape}, but got {text!r}.")
        yield name, value


def json_option(text: str = "One JSON document on stdout.") -> Callable[[Command], Command]:
    """The option ``--json`` with its help."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def level_option(default: float) -> Callable[[Command], Command]:
    """The option ``--level``, a probability."""

    def checked(context: click.Context, option: click.Parameter, value: float) -> float:
        with errors():
            return probability("--level", value)

    text = "Probability of the intervals."
    return click.option("--level", type=float, default=default, show_default=True, callback=checked, help=text)


def console() -> Console:
    """Where tables go: stdout, as wide as the terminal, or wide enough for every table where there is none."""
    from rich.console import Console

    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = 120
    return found


def table(title: str | None, *columns: str, left: tuple[str, ...] = ()) -> Table:
    """An empty table.

    Args:
        title: Stands above it.
        columns: Heads of the columns.
        left: Those of them that hold text; the others hold numbers.
    """
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return made


def ends(interval: tuple[float, float]) -> str:
    """An interval of losses for tables and sentences."""
    return " to ".join(map(significant, interval))


@contextmanager
def progress_bar(description: str, total: float | None = None, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on stderr, where that is a terminal.

    Yields:
        A function that moves it: ``advance=1``, or ``completed`` and ``total``.
    """
    from rich.console import Console
    from rich.progress import Progress

    errors_console = Console(stderr=True)
    with Progress(console=errors_console, transient=True, disable=not (shown and errors_console.is_terminal)) as bars:
        yield partial(bars.update, bars.add_task(description, total=total))
