"""Explore the lease protocol and print what was found: `python -m tests.protocol`, with `--quick` what the tests do."""

from __future__ import annotations

import sys

from tests.protocol.report import QUICK, THOROUGH, lines

if __name__ == "__main__":
    for line in lines(QUICK if "--quick" in sys.argv[1:] else QUICK | THOROUGH):
        print(line, flush=True)
