from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pruneyard.errors import PruneyardError
from pruneyard.installation import (
    LONGEST_RESTART_DELAY,
    Installation,
    Restarts,
    Supervisor,
    require_free_port,
    wait_until_ready,
)
from pruneyard.processes import Child, ChildDied, Children, grace_of

POLITE = """
import signal, sys, time
def end(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""
# Deaf to SIGTERM, and so is its own child.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = "import time; print('up', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", inner, sys.argv[1]])
time.sleep(60)
"""
PARENT = """
import sys, time
from pathlib import Path
from pruneyard.interrupts import Stopped
from pruneyard.processes import Children
log = Path(sys.argv[3])
try:
    with Children(grace=0.2) as children:
        children.start("deaf", [sys.executable, "-c", sys.argv[2], sys.argv[1]], log=log)
        while not (log.exists() and "up" in log.read_text()):
            time.sleep(0.01)
        print("started", flush=True)
        time.sleep(60)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
STARTING = """
import sys
from pruneyard.interrupts import Stopped
from pruneyard.processes import Children
try:
    with Children(grace=2) as children:
        print("started", flush=True)
        for _ in range(50):
            children.start("child", ["sleep", "60", "; " + sys.argv[1]][:2], env={"MARK": sys.argv[1]})
        while True:
            children.interrupts.check()
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    made = uuid.uuid4().hex
    yield made
    for process in marked(made):
        process.kill()


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            has_mark = mark in process.cmdline() or process.environ().get("MARK") == mark
            if has_mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 10
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < end, log.read_text() if log.exists() else "no log"
        time.sleep(0.01)


def gone(mark: str) -> bool:
    end = time.monotonic() + 5
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.02)
    return not marked(mark)


def test_a_child_is_asked_to_stop_and_may_say_goodbye(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    with Children() as children:
        child = children.start("child", [sys.executable, "-c", POLITE], log=log)
        wait_for(log, "up")
        assert child.returncode is None
    assert child.returncode == 0
    assert child.tail() == "up\nbye"


def test_a_deaf_child_and_its_children_are_killed(tmp_path: Path, mark: str) -> None:
    log = tmp_path / "child.log"
    with pytest.raises(RuntimeError), Children(grace=0.2) as children:
        child = children.start("child", [sys.executable, "-c", STUBBORN, mark], log=log)
        wait_for(log, "up")
        assert len(marked(mark)) == 2
        raise RuntimeError
    assert child.returncode == -signal.SIGKILL
    assert gone(mark)


@pytest.fixture
def _not_under_nohup() -> Iterator[None]:
    """Children heed SIGHUP, however these tests were started: one that is ignored is passed on as ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_not_under_nohup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_leaves_no_process(tmp_path: Path, mark: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, mark, STUBBORN, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.send_signal(number)
        assert parent.wait(10) == 128 + number
    assert gone(mark)


def test_what_a_script_starts_in_the_background_still_stops_on_sigint(tmp_path: Path, mark: str) -> None:
    log = tmp_path / "log"
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", PARENT, mark, STUBBORN, str(log)]
    with subprocess.Popen([sys.executable, "-c", ignoring, *command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.send_signal(signal.SIGINT)
        assert parent.wait(10) == 130
    assert gone(mark)


@pytest.mark.parametrize("after", [0.0, 0.004, 0.02, 0.05])
def test_a_signal_while_children_are_started_leaves_no_process(mark: str, after: float) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTING, mark], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        time.sleep(after)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(10) == 130
    assert gone(mark)


def test_a_child_that_dies_while_starting_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    log.write_text("of an earlier run\n")
    code = "import sys; print('port taken'); sys.exit(3)"
    with Children() as children, pytest.raises(ChildDied) as caught:
        child = children.start("service", [sys.executable, "-c", code], log=log)
        wait_until_ready("http://127.0.0.1:9", [child], seconds=20)
    assert "service process ended with exit code 3" in str(caught.value)
    assert "port taken" in str(caught.value)
    assert "earlier run" not in str(caught.value)


def test_a_service_that_is_never_ready_is_given_up(service: object) -> None:
    service.ready = False  # type: ignore[attr-defined]
    with pytest.raises(PruneyardError, match="not ready after"):
        wait_until_ready(service.url, [], seconds=0.3)  # type: ignore[attr-defined]


def test_children_learn_their_settings_and_their_parent(tmp_path: Path) -> None:
    code = "import os; print(os.environ['PRUNEYARD_PORT'], os.environ['PRUNEYARD_PARENT_PID'] == str(os.getppid()))"
    installation = Installation(home=tmp_path, port=8123)
    with Children() as children:
        env = installation.settings
        child = children.start("child", [sys.executable, "-c", code], env=env, log=installation.log("child"))
        while child.returncode is None:
            time.sleep(0.01)
    assert child.tail() == "8123 True"


def test_run_returns_the_exit_code() -> None:
    with Children() as children:
        assert children.run("child", [sys.executable, "-c", "raise SystemExit(4)"]) == 4


def test_a_dead_worker_is_started_again_until_the_api_ends() -> None:
    def short() -> Child:
        started.append(time.monotonic())
        if len(started) == 2:
            psutil.Process(api.pid).kill()
        return children.start("worker", [sys.executable, "-c", ""])

    started: list[float] = []
    with Children() as children, pytest.raises(ChildDied, match="service process ended with SIGKILL"):
        api = children.start("service", [sys.executable, "-c", "import time; time.sleep(60)"])
        Supervisor(children, api=api, start=short).keep(short())
    assert len(started) == 2
    assert started[1] - started[0] >= 1.0


def test_restarts_wait_longer_each_time_and_forget_after_a_steady_run() -> None:
    restarts = Restarts()
    delays = [restarts.delay(0.1) for _ in range(10)]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == LONGEST_RESTART_DELAY
    assert restarts.delay(3600) == 1.0


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PruneyardError, match=f"port {port}"):
            require_free_port(Installation(home=Path("unused"), port=port))


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],
)
def test_the_url_that_reaches_a_host(host: str, url: str) -> None:
    assert Installation(home=Path("unused"), host=host, port=1).url == url


@pytest.mark.parametrize(
    ("given", "wanted"), [(None, 25), ("60", 65), ("0.5", 5.5), ("inf", 25), ("soon", 25), ("-1", 25)]
)
def test_a_worker_has_the_time_that_it_gives_its_jobs(given: str | None, wanted: float) -> None:
    for name in ("PRUNEYARD_SHUTDOWN_GRACE_SECONDS", "pruneyard_shutdown_grace_seconds"):
        assert grace_of({} if given is None else {name: given}) == wanted
