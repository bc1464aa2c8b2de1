"""Write docs/contracts anew (`make contracts`); refuse to where that would break those who rely on it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.contracts.documents import FOLDER, HOW_TO_VERSION, broken, generated, published, write

ANYWAY = "--anyway"
"""For what no release has promised yet: write, but still say what breaks."""


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    documents = generated()
    if found := broken(published(folder), documents):
        print("This breaks those who rely on docs/contracts:", *found, sep="\n  ")
        print(f"\n{HOW_TO_VERSION}")
        if ANYWAY not in arguments:
            return 1
    changed = write(documents, folder)
    print("\n".join(changed) or "It says all that already.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
