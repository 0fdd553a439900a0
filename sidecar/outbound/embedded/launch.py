"""
Become a server process. Run as a script by `processes.py`, never imported.

It stands between fork and exec, where code inside a threaded process is not safe to run: it
gives up root, asks the kernel for a signal when Sidecar dies, and turns into the server.

    launch.py PARENT_PID ORPHAN_SIGNAL UID GID WORK_DIR PROGRAM ARGUMENT...

UID and GID are -1 to stay who we are. Only the standard library: it runs without site-packages.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: list[str]) -> None:
    """Change directory, user and death signal in the only order that works, then exec."""
    parent_pid, orphan_signal, uid, gid = (int(text) for text in argv[:4])
    os.umask(0o077)
    # As root, since the server's user may be unable to walk to this directory. See postgres_server.
    os.chdir(argv[4])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After setuid, because a change of user clears the death signal; exec keeps it.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        if os.getppid() != parent_pid:  # It died before we asked.
            os._exit(0)
    os.execv(argv[5], argv[5:])  # noqa: S606  Becoming that program is the purpose.


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as failure:
        sys.stderr.write(f"cannot start {sys.argv[6]}: {failure}\n")
        sys.exit(127)
