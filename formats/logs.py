"""Logs: one JSON object a line on standard error, so that no text from outside can forge a line."""

from __future__ import annotations

import sys

import structlog


def configure_logs() -> None:
    """Sets up structlog for this process; exceptions are written with their traceback, without local values."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
