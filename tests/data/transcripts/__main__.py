from __future__ import annotations

from tests.data.transcripts import labelled, report

cases = labelled()
for title, held_out in (("Known while the thresholds were found", False), ("Held out", True)):
    print(f"\n{title}\n{report([case for case in cases if case.held_out is held_out])}")
