"""Tells from its first bytes what a file is that is no recording. Names the kind of file, never what it says."""

from __future__ import annotations

HEAD = 4096

KINDS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3\x00", "a database"),
)

TEXTS = (
    (b"#extm3u", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<", "an XML or HTML document"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
)


def kind_of(head: bytes) -> str | None:
    """What a file that begins like this is; None: it may be a recording.

    Args:
        head: its first `HEAD` bytes, or all of them.
    """
    if not head:
        return "an empty file"
    for magic, kind in KINDS:
        if head.startswith(magic):
            return kind
    if not _is_text(head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for mark, kind in TEXTS if text.startswith(mark)), "a text file")


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head):
        return False
    try:
        # The last character may be cut in two.
        head[:-3].decode() if len(head) == HEAD else head.decode()
    except UnicodeDecodeError:
        return False
    return True
