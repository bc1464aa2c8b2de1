"""Subtitles as a transcript: SubRip and WebVTT, from servers that know nothing better."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from domain.speech import Said

_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?$", re.ASCII)
_SPEAKER = re.compile(r"^(?:<v(?:\.[^\s>]*)?\s+([^>]{1,100})>|\[([^\]]{1,100})\]:\s)")
_TAG = re.compile(r"</?[a-zA-Z][^>]{0,100}>|<[\d:.]+>")


def are_subtitles(text: str) -> bool:
    """Whether the text begins like subtitles, be they of nothing."""
    return text.startswith("WEBVTT") or any(_CUE.match(line) for line in text.splitlines()[:2])


def read_subtitles(text: str) -> list[Said]:
    """What is said in them, in their order; what belongs to no time is left out."""
    return [said for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) for said in _cue(block)]


def _cue(block: str) -> Iterator[Said]:
    lines = block.split("\n")
    for number, line in enumerate(lines):
        if found := _CUE.match(line):
            times = found.groups()
            words = " ".join(line.strip() for line in lines[number + 1 :])
            named = _SPEAKER.match(words)
            yield Said(
                start=_seconds(*times[:4]),
                end=_seconds(*times[4:]),
                text=html.unescape(_TAG.sub("", words[named.end() :] if named else words)).strip(),
                speaker=(named[1] or named[2]) if named else None,
            )
            return


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return round(whole + float(f"0.{fraction}"), 3)
