"""A decoding process: binds itself, takes one order from its standard input, answers, and ends.

Imports as little as it can: it starts anew for each look at a file.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

import msgspec

from adapters.audio.decode import NoRecordingError, NotThereError
from adapters.audio.orders import READY, Answer, Bounds, Failed, Order, Refused
from adapters.audio.tasks import perform
from adapters.audio.write import WritingFailedError

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
LARGEST_FILE = 8 * 1024**3


def main(parent: int) -> None:
    """Everything.

    Args:
        parent: the process that started this one. It ends with it.
    """
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    _bind(order.bounds, parent)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdout.buffer.write(msgspec.json.encode(_answer(order)))
    sys.stdout.buffer.flush()
    # Not through the destructors of a decoder that may be in any state.
    os._exit(0)


def _answer(order: Order) -> Answer:
    try:
        return perform(order)
    except NoRecordingError as refusal:
        return Refused(str(refusal))
    except NotThereError as absence:
        return Failed(f"The recording could not be opened: {absence}.")
    except MemoryError:
        return Refused("Decoding the recording takes more memory than is allowed.")
    except WritingFailedError as failure:
        return Failed(f"A part of the recording could not be written: {failure}.")


def _bind(bounds: Bounds, parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    # Should the parent's own clock fail: ends also what hangs in the decoder.
    signal.alarm(int(bounds.time.total_seconds()) + 5)
    processor = max(1, int(bounds.processor.total_seconds()))
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 1))
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, bounds.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
