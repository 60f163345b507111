"""What every command shares: how it is run, how it fails, and how it shows progress.

Results go to standard output, everything else to standard error, so that `--json` can be piped.
A user's error is one line and exit code 1; a traceback means a defect of ours.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from extract.errors import is_out_of_memory
from pipeline.errors import USER_ERRORS

EXIT_USER_ERROR = 1
EXIT_SET_ASIDE = 3
EXIT_INTERRUPTED = 130
LINE_SECONDS = 10.0
_REASON_LENGTH = 200  # of what torch says when memory runs out, which goes on for a paragraph
_PATH_TROUBLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EIO,
)

Advance = Callable[[int], None]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"egmf {version('egmf')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and results only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def run_command(
    command: Callable[..., None],
    *,
    to_go_on: str = "run the same command",
    in_less_memory: str = "close what else uses that memory, or use --device cpu",
) -> None:
    """Run one typer command as a console script; never returns.

    Errors of `USER_ERRORS`, a disk that is full, a place that cannot be written, and too little
    memory become `error: ...` on standard error and exit code 1.

    Args:
        command: What the script does.
        to_go_on: What to do to go on after Ctrl-C.
        in_less_memory: What to do where memory does not suffice.
    """
    app = _app()
    app.command()(_guarded(command, to_go_on, in_less_memory))
    app()


def run_verbs(title: str, verbs: Mapping[str, Callable[..., None]]) -> None:
    """Run a console script of several verbs, each a typer command; never returns.

    Args:
        title: What the script does, for its help.
        verbs: What each verb runs.
    """
    app = _app()

    @app.callback(help=title)
    def script(version: Version = False) -> None:
        pass

    for verb, command in verbs.items():
        app.command(verb)(_guarded(command))
    app()


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _guarded(
    command: Callable[..., None],
    to_go_on: str = "run the same command",
    in_less_memory: str = "close what else uses that memory",
) -> Callable[..., None]:
    """Turn what a user can mend into one line and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except USER_ERRORS as error:
            note(f"error: {error}")
            raise typer.Exit(EXIT_USER_ERROR) from None
        except OSError as error:
            if error.errno not in _PATH_TROUBLE:
                raise
            where = error.filename or "the disk that this run writes to"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space" if full else "check the path and its permissions"
            note(f"error: {where}: {os.strerror(error.errno).lower()}; {remedy} and run again")
            raise typer.Exit(EXIT_USER_ERROR) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:_REASON_LENGTH]
            note(f"error: out of memory ({said or 'nothing is left'}); {in_less_memory}")
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            note(f"stopped; to go on, {to_go_on}")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return guarded


def note(message: str, *, quiet: bool = False) -> None:
    """Print one line about the work on standard error, above a bar that is shown."""
    if not quiet:
        # Not by typer.echo, which writes past the bar's keeper and into its line.
        print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print `value` as one JSON object on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


@contextmanager
def progress(title: str, total: int, unit: str, *, quiet: bool = False) -> Iterator[Advance]:
    """Show how much of `total` is done: a bar on a terminal, a line now and then elsewhere.

    Yields:
        A function that counts further units as done.
    """
    if quiet or total == 0:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit)


@contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:.1f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as display:
        task = display.add_task(title, total=total)
        yield lambda count: display.advance(task, count)


class _Lines:
    """Progress as plain lines, at most one every `LINE_SECONDS` and one at the end."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = self._before = 0
        self._started: float | None = None
        self._shown = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._started is None:  # what came before the first units is no measure of their rate
            self._started, self._before = now, self._done
        if self._done < self._total and now - self._shown < LINE_SECONDS:
            return
        self._shown = now
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        line = f"{self._title}: {self._done:,} of {self._total:,} {self._unit}"
        if rate:
            line += f", {rate:.1f} {self._unit}/s"
            if self._done < self._total:
                line += f", {(self._total - self._done) / rate:.0f} s left"
        note(line)
