"""What every command shares: results on stdout, messages on stderr, one sentence for bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


class InputError(click.ClickException):
    """Bad input: one sentence on stderr, exit code 2."""

    exit_code = 2


class WorkError(click.ClickException):
    """The work failed although the input was right: one sentence on stderr, exit code 1."""

    exit_code = 1


@contextmanager
def input_errors(*, file: str | None = None) -> Iterator[None]:
    """Turn what the engine says about bad input into :class:`InputError`."""
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


def say(message: str) -> None:
    """A message for the person at the terminal: stderr, so that stdout stays what was asked for."""
    click.echo(message, err=True)


def people() -> Console:
    """Where tables go: stdout, as wide as the terminal, or wide enough for every table where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    return console


def emit(document: Mapping[str, Any]) -> None:
    """One JSON document on one line of stdout; numbers that JSON cannot write become null."""
    click.echo(json.dumps(_plain(document), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
