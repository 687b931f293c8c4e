"""Logs: a line is a line, whatever it holds, in every style; and it never fails what it tells of."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from formats.logs import AUTO, JSON, TEXT, configure_logs
from specs.settings import BadSettings, load_settings

HOSTILE = [
    'x\n{"event": "forged"}',
    "x\r\n2026-01-01T00:00:00Z [info] forged",
    "x\x1b[2J\x1b]0;title\x07",
    "x\u2028y\u2029z\x85w\x0b\x0c",
    "\x00\x08\x7f",
    "\ud800",
    "a=\"b\" c='d' \\n",
    "한국어 é",
]
LINE = re.compile(r"20\d\d-\d\d-\d\dT\S+Z \[\w+ *\] ")


class Screen(io.StringIO):
    """Standard error that is a terminal or not."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


Start = Callable[..., Screen]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Configures the logs of this process, and leaves them as they were."""
    names = (None, "pruneyard", "uvicorn")
    before = {name: logging.getLogger(name).level for name in names}
    handlers, config, shown = logging.root.handlers[:], structlog.get_config(), warnings.showwarning

    def begin(style: str = JSON, level: str = "info", screen: Screen | None = None) -> Screen:
        screen = screen or Screen()
        monkeypatch.setattr("sys.stderr", screen)
        configure_logs(style, level)
        return screen

    yield begin
    logging.captureWarnings(False)
    warnings.showwarning = shown
    logging.root.handlers[:] = handlers
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
    structlog.configure(**config)
    structlog.contextvars.clear_contextvars()


def tell_all() -> int:
    """Tells hostile text in every way there is; how many events these are."""
    log = structlog.get_logger()
    for text in HOSTILE:
        log.info(text, value=text, listed=[text], number=1, error=ValueError(text))
        logging.getLogger("uvicorn.error").warning("%s: %s", "told", text)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(text, stacklevel=1)
        try:
            secret = "hidden" + text
            raise ValueError(text, len(secret))
        except ValueError:
            log.exception("failed")
            logging.getLogger("elsewhere").exception("failed")
    return 5 * len(HOSTILE)


def test_json_has_an_object_a_line(start: Start) -> None:
    screen = start(JSON)
    events = tell_all()
    lines = [json.loads(line) for line in screen.getvalue().splitlines()]
    assert len(lines) == events
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert [line["value"] for line in lines if "value" in line] == HOSTILE
    assert [line["event"] for line in lines if line.get("logger") == "uvicorn.error"] == [f"told: {x}" for x in HOSTILE]
    assert screen.getvalue().isascii()
    assert sum("ValueError" in line.get("exception", "") for line in lines) == 2 * len(HOSTILE)
    assert not [line for line in lines if '"hidden' in str(line) or "'hidden" in str(line)]  # a traceback has no values


@pytest.mark.parametrize("terminal", [False, True])
def test_text_has_a_line_an_event_and_set_in_tracebacks(start: Start, terminal: bool) -> None:
    screen = start(TEXT, screen=Screen(terminal=terminal))
    events = tell_all()
    text = re.sub(r"\x1b\[\d*m", "", screen.getvalue())  # colours
    assert not set(re.sub(r"\n", "", text)) & {"\x1b", "\x07", "\x00", "\x08", "\x7f", "\ud800"}
    lines = text.splitlines()
    begun = [line for line in lines if LINE.match(line)]
    assert len(begun) == events
    assert [line for line in lines if line not in begun and not line.startswith("    ")] == []
    assert any("한국어" in line for line in begun)


@pytest.mark.parametrize(
    ("style", "terminal", "is_json"), [(AUTO, False, True), (AUTO, True, False), (JSON, True, True)]
)
def test_the_style_follows_the_terminal_unless_it_is_set(
    start: Start, style: str, terminal: bool, is_json: bool
) -> None:
    screen = start(style, screen=Screen(terminal=terminal))
    structlog.get_logger().info("something")
    assert screen.getvalue().startswith('{"') == is_json
    assert "something" in screen.getvalue()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_what_is_below_the_level_is_not_told(start: Start, level: str) -> None:
    screen = start(JSON, level)
    levels = ["debug", "info", "warning", "error"]
    for name in levels:
        getattr(structlog.get_logger(), name)("own", at=name)
        getattr(logging.getLogger("uvicorn.error"), name)("server")
        getattr(logging.getLogger("some.library"), name)("other")
    lines = [json.loads(line) for line in screen.getvalue().splitlines()]
    told = {event: [line["level"] for line in lines if line["event"] == event] for event in ("own", "server", "other")}
    expected = levels[levels.index(level) :]
    assert told == {"own": expected, "server": expected, "other": [name for name in expected if name in levels[2:]]}


def test_what_is_bound_to_the_context_stands_in_every_line(start: Start) -> None:
    screen = start()
    structlog.contextvars.bind_contextvars(request_id="abc")
    structlog.get_logger().info("own")
    logging.getLogger("uvicorn.error").info("server")
    assert [json.loads(line)["request_id"] for line in screen.getvalue().splitlines()] == ["abc", "abc"]


def test_configuring_again_repeats_no_line(start: Start) -> None:
    start()
    screen = start()
    structlog.get_logger().info("once")
    assert len(screen.getvalue().splitlines()) == 1


def test_a_log_that_cannot_be_written_fails_nothing(start: Start) -> None:
    class Full(Screen):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    start(screen=Full())
    structlog.get_logger().error("lost")
    logging.getLogger("uvicorn.error").error("lost")


def test_the_settings_take_any_case_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_LOG_FORMAT", "JSON")
    monkeypatch.setenv("PRUNEYARD_LOG_LEVEL", "Warning")
    settings = load_settings()
    assert (settings.log_format, settings.log_level) == ("json", "warning")
    for name in ("LOG_FORMAT", "LOG_LEVEL"):
        monkeypatch.setenv(f"PRUNEYARD_{name}", "secret")
        with pytest.raises(BadSettings, match=f"PRUNEYARD_{name}") as caught:
            load_settings()
        assert "secret" not in str(caught.value)
        monkeypatch.delenv(f"PRUNEYARD_{name}")
