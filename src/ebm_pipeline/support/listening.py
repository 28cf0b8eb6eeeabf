"""A socket for a server, or one message why there is none."""

from __future__ import annotations

import errno
import os
import socket

from ebm_pipeline.support.errors import UserError


def listening(host: str, port: int, make: str, backlog: int) -> socket.socket:
    """A socket that listens; raises UserError where that cannot be. make: how make's target takes another port, `NAME=`."""
    if not host:
        raise UserError("host must be an address of this computer, such as 127.0.0.1; got none")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except (OSError, UnicodeError) as error:
        reason, cure = str(error), "give an address of this computer, host=127.0.0.1"
        if isinstance(error, OSError):
            named, *_ = str(error.strerror).split(" (while attempting")  # which adds the address
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else named
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                other = port + 1 if 1024 <= port < 65535 else 5001
                cure = f"choose another port, port={other} (of {make}{other})"
        raise UserError(f"cannot listen on {host}:{port} ({reason}): {cure}") from error
