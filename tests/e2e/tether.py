"""Runs a command in its own place, as a process that dies with its parent: `tether.py COMMAND...`.

Unlike the leash it is the command's own pid, so that signals reach the command and its exit status comes back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(sys.argv[1], sys.argv[1:])
