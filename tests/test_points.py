"""The named points: nothing in service, the end of the process when a test asks for it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from memory_service.errors import UnsafeStart
from memory_service.points import POINTS, KillAt

PASSES = """
import sys, threading
from memory_service.points import KillAt
point = KillAt(sys.argv[1])
def run(name):
    point(name)
    print(name, flush=True)
for name in sys.argv[2:]:
    one = threading.Thread(target=run, args=(name,))  # the points are reached on several threads
    one.start()
    one.join()
"""


def passing(spec: str, *names: str) -> tuple[int, list[str]]:
    """Let another process pass these points; returns its status and those it came past."""
    done = subprocess.run(
        [sys.executable, "-c", PASSES, spec, *names], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize("spec", ["", "before_commit", "before_commit:", "before_commit:-1", "before_commit:x", "x:1"])
def test_a_point_that_cannot_be_meant_is_refused_with_the_names_there_are(spec: str) -> None:
    with pytest.raises(UnsafeStart) as refused:
        KillAt(spec)
    assert str(refused.value).startswith("KILL_AT: write NAME:N")
    assert all(name in str(refused.value) for name in POINTS)


@pytest.mark.parametrize("times", ["\u00b2", "1:2", "1.5", " 1"])
def test_a_number_that_is_none_is_refused(times: str) -> None:
    with pytest.raises(UnsafeStart, match="KILL_AT"):
        KillAt(f"before_commit:{times}")


def test_a_process_dies_of_sigkill_when_its_point_is_reached_for_the_nth_time() -> None:
    names = ["after_commit", "before_reply", "after_commit", "after_commit", "after_commit"]
    status, passed = passing("after_commit:3", *names)
    assert status == -signal.SIGKILL
    assert passed == names[:3]


def test_other_points_and_earlier_times_harm_nobody() -> None:
    names = ["after_commit", "after_commit", *POINTS]
    assert passing("after_commit:4", *names) == (0, names)


def test_a_service_whose_point_cannot_be_meant_does_not_start(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memory_service", "serve", "--port", "0"],
        env={
            "KILL_AT": "somewhere:1",
            "STORE_URL": f"sqlite:///{tmp_path}/memory.db",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("cannot start: KILL_AT: write NAME:N")
    assert len(done.stderr.splitlines()) == 1
