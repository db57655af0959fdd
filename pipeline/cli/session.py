"""What every task does around its work: choose the progress view, catch signals, explain errors."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pipeline.cli.console import JsonLinesSink, PlainSink, TerminalSink
from pipeline.core.errors import ExitCode, PipelineError
from pipeline.core.events import EventStream, Progress, QuietSink, Sink, tell
from pipeline.core.secrets import Secrets, environment_secrets
from pipeline.core.text import printable

DEBUG = "IMAGE_PIPELINE_DEBUG"
PROGRESS = "IMAGE_PIPELINE_PROGRESS"


class EndedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP, so that every context on the way out cleans up as for Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass
class View:
    """How a run speaks: people read standard error, programs read standard output.

    With --json standard output gets exactly one document, when the command ends, however it ends.
    """

    progress: Progress
    secrets: Secrets
    as_json: bool
    _document: Any = None

    def result(self, data: Any, lines: list[str]) -> None:
        """The answer, on standard output: `data` with --json, `lines` otherwise."""
        if self.as_json:
            self._document = data
        else:
            for line in lines:
                print(printable(line))

    def complain(self, text: str) -> str:
        """One of several failures, on standard error; the words as they were shown."""
        text = printable(self.secrets.mask(text))
        tell(text)
        return text

    def close(self, failure: dict[str, Any] | None = None) -> None:
        """Write the JSON document: the answer, or the failure with the answer beside it."""
        if not self.as_json:
            return
        document = self._document
        if failure is not None:
            document = failure if document is None else {**failure, "result": document}
        if document is not None:
            print(json.dumps(document, indent=1, default=str), flush=True)
            self._document = None


@contextlib.contextmanager
def session(*, quiet: bool = False, as_json: bool = False, debug: bool = False) -> Iterator[View]:
    """Run a task's body; any failure ends the process with one paragraph and its exit code.

    Exit codes: 0 done, 1 the product's own fault, 2 wrong input, 3 the host lacks something,
    4 the install failed, 5 a damaged or unsupported disk, 6 the boot check refused, 7 a cloud
    failed, 8 somebody else holds the build, 128+N ended by signal N.
    """
    debug = debug or os.environ.get(DEBUG, "") not in ("", "0")
    secrets = Secrets()
    for value in environment_secrets(os.environ):
        secrets.add(value)
    view = View(EventStream(_sink(quiet or as_json), secrets.mask), secrets, as_json)
    try:
        with _signals(), _library_words(view):
            yield view
        view.close()
    except SystemExit:
        view.close()
        raise
    except PipelineError as error:
        _explain(view, error.record(), str(error), error.exit_code, error, debug)
    except BrokenPipeError:  # the reader of our output went away: nothing is left to say
        sys.exit(0)
    except OSError as error:
        # Disk full, permission denied and their kin are the host's; the text names the file.
        met = PipelineError("go on", why=str(error), next_step=_REMEDIES.get(error.errno or 0, ""))
        _explain(view, met.record() | {"kind": "host"}, str(met), ExitCode.HOST, error, debug)
    except MemoryError as error:
        remedy = "Raise the limit (ulimit -v), or end other programs"
        met = PipelineError("go on", why="out of memory", next_step=remedy)
        _explain(view, met.record() | {"kind": "host"}, str(met), ExitCode.HOST, error, debug)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, EndedBySignal) else int(signal.SIGINT)
        text = f"Ended by {signal.Signals(number).name}."
        record = {"kind": "signal", "why": signal.Signals(number).name}
        _explain(view, record, text, 128 + number, stop, debug)
    except Exception as error:
        why = f"an error of the pipeline's own, {type(error).__name__}: {error}"
        met = PipelineError(
            "go on", why=why, next_step="Run it again with --debug and report what it prints"
        )
        _explain(view, met.record(), str(met), ExitCode.INTERNAL, error, debug)


def _sink(quiet: bool) -> Sink:
    """Where the run's events go: as IMAGE_PIPELINE_PROGRESS says, else by what stderr is."""
    wish = os.environ.get(PROGRESS, "")
    if wish == "json":
        return JsonLinesSink()
    if quiet:
        return QuietSink()
    if wish == "plain":
        return PlainSink()
    return TerminalSink() if sys.stderr.isatty() else PlainSink()


_REMEDIES = {
    errno.ENOSPC: "Free some space there, or set IMAGE_PIPELINE_BUILD to a larger file system",
    errno.EDQUOT: "Free some of your quota, or set IMAGE_PIPELINE_BUILD to another file system",
    errno.EROFS: "Set IMAGE_PIPELINE_BUILD to a file system that can be written to",
    errno.ENOENT: "Make the directory it lies in, or name another place",
    errno.EACCES: "Change its owner or mode, or set IMAGE_PIPELINE_BUILD to a place of your own",
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
    errno.EMFILE: "Raise the limit on open files (ulimit -n 1024)",
    errno.ENFILE: "End other programs: the host's table of open files is full",
    errno.EAGAIN: "Raise the limit on processes (ulimit -u), or end other programs",
    errno.ENOMEM: "Raise the limit on memory (ulimit -v), or end other programs",
    errno.EIO: "Check the storage it lies on",
}


class _Words(logging.Handler):
    def __init__(self, view: View) -> None:
        super().__init__(logging.WARNING)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        self._view.progress.say(self.format(record))


@contextlib.contextmanager
def _library_words(view: View) -> Iterator[None]:
    """What libraries log goes the masked way too: keystoneauth quotes URLs with their passwords."""
    words = _Words(view)
    logging.getLogger().addHandler(words)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(words)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise EndedBySignal(number)

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        # nohup(1): whoever had a signal ignored wants the run to outlive it.
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(  # private: every failure is told with all of these
    view: View,
    record: dict[str, str],
    text: str,
    code: int,
    error: BaseException,
    debug: bool,
) -> None:
    """Say the failure to people and to programs, and end the process."""
    text = view.secrets.mask(text)
    if debug:
        tell(view.secrets.mask("".join(traceback.format_exception(error))))
    masked = {name: view.secrets.mask(value) for name, value in record.items()}
    view.close({"error": text, "exit_code": int(code), **masked})
    tell(printable(text))
    sys.exit(int(code))
