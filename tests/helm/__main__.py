"""`python -m tests.helm`: writes anew what is made from the chart, and what the chart has from elsewhere."""

from __future__ import annotations

import shutil

from tests.helm.chart import COPIES, EXAMPLES, GOLDEN, golden
from tests.helm.table import README, written
from tests.helm.variables import FILE, settable

for copy, original in COPIES.items():
    shutil.copyfile(original, copy)
README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
FILE.write_text(settable(), encoding="utf-8")
for example in EXAMPLES:
    (GOLDEN / f"{example}.yaml").write_text(golden(example), encoding="utf-8")
