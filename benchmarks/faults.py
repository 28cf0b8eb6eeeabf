"""Bad inputs and a tracking server that goes away: the tests of these, which print what they counted and timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def inputs(output: Path) -> None:
    """Bad configurations, files and command lines, generated: how many were tried, how many ended in one clear message."""
    _test("test_bad_inputs.py", output)


def server(output: Path) -> None:
    """A tracking server that is killed, or stops answering, in mid-run: how long the training waits, and what arrives."""
    _test("test_tracking.py", output, "-k", "server_dies")


def requests(output: Path) -> None:
    """Malformed requests to a served model: how many were answered with a status 4xx, and whether a right one was afterwards."""
    _test("test_serving.py", output, "-k", "every_wrong_request")


def _test(name: str, output: Path, *choice: str) -> None:
    words = ["-m", "slow or not slow", f"--basetemp={output / 'tests'}", *choice]
    done = subprocess.run([sys.executable, "-m", "pytest", TESTS / name, *words], cwd=TESTS.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: see above")
