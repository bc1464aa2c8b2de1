"""Write the generated pages of docs/ anew (`make reference`)."""

from __future__ import annotations

from tests.docs.pages import write

if __name__ == "__main__":
    print("\n".join(write()) or "They say all that already.")
