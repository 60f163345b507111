"""One Ctrl-C ends a run in plain words, also while its workers start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
from extract.engine import Cluster
from pipeline.commands.common import run_command

def command() -> None:
    with Cluster("cpu", 2, None) as cluster:
        print("starting", flush=True)
        cluster.start(2)
        print("started", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run_command(command)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6, 1.2, None])
def test_ctrl_c_while_workers_start(tmp_path: Path, seconds: float | None) -> None:
    """Press it some time after workers begin to start; None is when they have."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.stdout is not None
    try:
        assert run.stdout.readline() == "starting\n"
        if seconds is None:
            assert run.stdout.readline() == "started\n"
        else:
            time.sleep(seconds)
        os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to the whole group
        _, errors = run.communicate(timeout=300)
    finally:
        run.kill()
    assert (run.returncode, errors) == (130, "stopped; to go on, run the same command\n")
    deadline = time.monotonic() + 60
    while is_there(run.pid):  # nobody of the group is left
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_there(group: int) -> bool:
    """Tell whether a process of the group runs; dead ones may stay where nobody waits for them."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            return True
    return False
