"""Logging: structlog, JSON lines unless a person is watching."""

import logging
import sys
from typing import Literal

import structlog
import structlog.tracebacks
from structlog.typing import Processor


def configure_logs(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Set up logging to standard output for the whole process."""
    console = form == "console" or (form == "auto" and sys.stdout.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        # Never the locals of a traceback: they hold payload.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        processors += [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
