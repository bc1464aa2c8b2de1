"""Files that are no recordings: each is refused with what it is, and nothing that it names is touched."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import zipfile
from pathlib import Path

import pytest

from adapters.audio.recordings import DecodedRecordings
from domain.errors import ErrorCode, RunFailed
from tests.adapters.audio import sounds


def zipped() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("sound.wav", bytes(5_000_000))
    return archive.getvalue()


BAD = {
    "nothing": (b"", "an empty file"),
    "text": (b"This is a secret note, not a recording.\n" * 500, "a text file"),
    "cyrillic text": ("Это не запись. ".encode() * 500, "a text file"),
    "html": (b"\n<!DOCTYPE html><html><body>secret</body></html>", "an HTML page"),
    "json": (json.dumps({"error": "secret"}).encode(), "a JSON document"),
    "zip bomb": (zipped(), "a ZIP archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "a gzip archive"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n secret", "a PDF document"),
    "random": (random.Random(5).randbytes(50_000), "no known audio format"),
    "zeros": (bytes(50_000), "no known audio format"),
    "a head without sound": (
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0",
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_recording_is_refused_with_what_it_is(tmp_path, recordings, name):
    content, found = BAD[name]
    path = tmp_path / "recording.wav"
    path.write_bytes(content)

    with pytest.raises(RunFailed) as refusal:
        await recordings.examine(path)

    failure = refusal.value.failure
    assert failure.code is ErrorCode.BAD_AUDIO
    assert found in failure.message
    assert "secret" not in failure.message


@pytest.mark.parametrize("name", ["video.mp4", "video.avi", "video.webm"])
async def test_a_video_without_sound_is_refused_as_one(tmp_path, recordings, name):
    path = sounds.write_video(tmp_path / "video.mkv" if name.endswith("webm") else tmp_path / name)

    with pytest.raises(RunFailed, match="a video without sound") as refusal:
        await recordings.examine(path)

    assert refusal.value.failure.code is ErrorCode.BAD_AUDIO


ROUNDS = int(os.environ.get("TEST_DAMAGED_FILES", "4"))
"""Of each format."""

CODED = ("libmp3lame", "flac", "libopus", "aac")


def playlists(target: Path, url: str) -> dict[str, str]:
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{target}\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\nfile '{url}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
    }


@pytest.mark.parametrize("disguise", [b"", b"\0\1\2\3" * 8], ids=["plain", "disguised"])
@pytest.mark.parametrize("kind", ["hls", "concat", "sdp", "dash"])
async def test_a_file_that_names_others_makes_nobody_open_them(tmp_path, recordings, kind, disguise):
    target = sounds.write(tmp_path / "other.wav", sounds.speech())
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.wav"
        path = tmp_path / "recording.m3u8"
        # What follows the text keeps it from being taken for one.
        path.write_bytes(playlists(target, url)[kind].encode() + disguise)

        with pytest.raises(RunFailed) as refusal:
            await recordings.examine(path)

        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert refusal.value.failure.code is ErrorCode.BAD_AUDIO


async def test_a_recording_that_breaks_off_is_heard_to_there(tmp_path, recordings):
    path = sounds.write(tmp_path / "speech.mp3", sounds.speech(), coder="libmp3lame")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff\xfb\x90")

    recording = await recordings.examine(path)

    assert recording.sound.seconds == pytest.approx(3.5, abs=0.3)


@pytest.mark.parametrize(("name", "coder", "rate", "channels"), [row[:4] for row in sounds.FORMATS if row[1] in CODED])
async def test_a_recording_that_is_mostly_broken_is_refused(tmp_path, recordings, name, coder, rate, channels):
    path = sounds.write(tmp_path / name, *[sounds.speech()] * channels, coder=coder, rate=rate)
    content = bytearray(path.read_bytes())
    # An MP4 file ends with the table of what it holds.
    begin, end = len(content) // 8, content.rfind(b"moov") - 4 if name.endswith("m4a") else len(content)
    content[begin:end] = random.Random(3).randbytes(end - begin)
    path.write_bytes(content)

    with pytest.raises(RunFailed, match="recording") as refusal:
        await recordings.examine(path)

    assert refusal.value.failure.code is ErrorCode.BAD_AUDIO


def damaged(content: bytes, chaos: random.Random) -> bytes:
    if chaos.random() < 0.3:
        return content[: chaos.randrange(len(content))]
    bits = bytearray(content)
    reach = len(bits) if chaos.random() < 0.5 else min(512, len(bits))
    for _ in range(chaos.choice([1, 8, 64, 1_000])):
        bits[chaos.randrange(reach)] ^= 1 << chaos.randrange(8)
    return bytes(bits)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "coder", "rate", "channels"), [row[:4] for row in sounds.FORMATS])
async def test_a_damaged_recording_is_heard_or_refused(tmp_path, recordings, name, coder, rate, channels):
    chaos = random.Random(name)
    voice = sounds.speech("go-forward")[: sounds.RATE]
    whole = sounds.write(tmp_path / name, *[voice] * channels, coder=coder, rate=rate).read_bytes()
    for _ in range(ROUNDS):
        path = tmp_path / "damaged"
        path.write_bytes(damaged(whole, chaos))
        await _see_what_becomes_of(path, recordings)


async def _see_what_becomes_of(path: Path, recordings: DecodedRecordings) -> None:
    try:
        recording = await recordings.examine(path)
    except RunFailed as failed:
        refusal = failed.failure
    else:
        assert recording.sound.seconds > 0
        assert all(0 <= span.start < span.end <= recording.sound.seconds + 0.001 for span in recording.sound.speech)
        return
    assert refusal.code is ErrorCode.BAD_AUDIO, refusal
