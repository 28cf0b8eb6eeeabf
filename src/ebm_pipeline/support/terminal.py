"""What every command does before anything else: streams, warnings and arguments in a state in which the rest can work."""

from __future__ import annotations

import os
import resource
import sys
import warnings

from ebm_pipeline.support.errors import UserError

LEAST_ADDRESS_SPACE = 1.4e9  # bytes: with less, torch and MLflow do not load, or wait for threads that never start


def set_up_terminal() -> None:
    """Call first. Raises UserError if this process may not use enough address space.

    - A closed stream becomes one to nowhere: else the next file that is opened would get its number, and with it whatever a
      library prints.
    - Arguments, names of files and texts are UTF-8 whatever the locale: where Python was told otherwise, it starts again.
    - Warnings of libraries stay warnings, also with PYTHONWARNINGS=error.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for number in (0, 1, 2):
        _open_if_closed(number)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.filters[:] = [known for known in warnings.filters if known[0] != "error"]  # type: ignore[index]
    _check_address_space()


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _check_address_space() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"this process may use {limit / 1e9:.2g} GB of address space, and needs at least {LEAST_ADDRESS_SPACE / 1e9:.2g}: "
            "raise the limit (ulimit -v unlimited)"
        )
