"""Logs: one JSON object a line on standard error, or lines for people at a terminal.

Whatever the style, no text from outside can forge a line: in JSON it is escaped, and so it is in text, where only the
lines of a traceback follow their event, each set in.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

AUTO, JSON, TEXT = "auto", "json", "text"
OWN_LOGGERS = ("pruneyard", "uvicorn")


def configure_logs(style: str = AUTO, level: str = "info") -> None:
    """Sets up the logs of this process: its own, those of the web server, and the warnings of other libraries.

    `style`: json, text, or auto, which is text if standard error is a terminal. `level`: debug, info, warning or error.
    Exceptions are written with their traceback, without local values. A line that cannot be written, as when the disk
    is full, is lost; what it tells of goes on.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[ProcessorFormatter.remove_processors_meta, *_renderers(style, terminal=terminal)],
        )
    )
    _take_over(handler, number)
    structlog.configure(
        processors=[*before, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_own_logger,
    )


def _take_over(handler: logging.Handler, level: int) -> None:
    """Makes this the only handler. Of other libraries warnings are heard, whatever they have to say below."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def _own_logger(*_: Any) -> logging.Logger:
    return logging.getLogger(OWN_LOGGERS[0])


def _renderers(style: str, *, terminal: bool) -> list[Processor]:
    if style == JSON or (style == AUTO and not terminal):
        return [structlog.processors.JSONRenderer()]
    colors = terminal and sys.platform != "win32" and "NO_COLOR" not in os.environ
    return [_harmless, structlog.dev.ConsoleRenderer(colors=colors)]


def _harmless(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Values without line ends and terminal commands; the lines of a traceback set in."""
    traceback = event.pop("exception", None)
    event = {key: _printable(value) for key, value in event.items()}
    if traceback is not None:
        event["exception"] = "\n".join("    " + str(_printable(line)) for line in str(traceback).splitlines())
    return event


def _printable(value: Any) -> Any:
    text = value if isinstance(value, str) else repr(value)
    return value if text.isprintable() else repr(text)
