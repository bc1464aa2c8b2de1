"""Recordings taken apart: by channels, and by time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.audio.cuts import next_cut, within
from domain.speech import Recording, Span
from tests.adapters.audio import sounds


async def test_each_channel_gets_a_file_of_its_own(tmp_path, recordings):
    left = np.concatenate([sounds.speech(), sounds.silence(9)])
    right = np.concatenate([sounds.silence(9), sounds.speech()])
    call = await recordings.examine(sounds.write(tmp_path / "call.wav", left, right))
    folder = tmp_path / "parts"
    folder.mkdir()

    first, second = await recordings.split(call, folder)

    assert (first.channel, second.channel) == (0, 1)
    assert first.sound.seconds == second.sound.seconds == call.sound.seconds
    assert first.sound.channels == 1
    assert (sounds.samples_of(first.path) == left).all()
    assert (sounds.samples_of(second.path) == right).all()
    assert first.sound.speech[-1].end < 8
    assert second.sound.speech[0].start > 8
    assert {part.path.parent for part in (first, second)} == {folder}
    assert first.bytes == first.path.stat().st_size


async def test_a_silent_channel_comes_back_without_speech(tmp_path, recordings):
    call = await recordings.examine(
        sounds.write(tmp_path / "call.mp3", sounds.speech(), sounds.silence(7.1), coder="libmp3lame")
    )

    spoken, silent = await recordings.split(call, tmp_path)

    assert spoken.sound.speech
    assert not silent.sound.speech
    assert silent.sound.seconds == call.sound.seconds


async def test_one_quiet_side_of_a_call_is_heard(tmp_path, recordings):
    quiet = (sounds.speech() * 0.02).astype(np.int16)
    call = await recordings.examine(sounds.write(tmp_path / "call.wav", sounds.speech(), quiet))

    _, far = await recordings.split(call, tmp_path)

    assert far.sound.speech_seconds > 6


async def test_a_recording_of_one_channel_is_not_split(tmp_path, recordings):
    recording = await recordings.examine(sounds.write(tmp_path / "one.wav", sounds.speech()))

    assert await recordings.split(recording, tmp_path) == [recording]


async def test_what_fits_is_not_cut(tmp_path, recordings):
    recording = await recordings.examine(sounds.write(tmp_path / "one.wav", sounds.speech()))

    assert await recordings.cut(recording, tmp_path, longest=8, most_bytes=10**6) == [recording]


async def test_a_long_recording_is_cut_in_its_pauses(tmp_path, recordings):
    talk = sounds.talk(pauses=2, times=5)
    recording = await recordings.examine(sounds.write(tmp_path / "talk.wav", talk))

    pieces = await recordings.cut(recording, tmp_path, longest=20, most_bytes=10**8)

    assert [piece.begins for piece in pieces] == pytest.approx([0, 17.2, 35.4], abs=0.4)
    assert all(piece.sound.seconds <= 20 for piece in pieces)
    assert (np.concatenate([sounds.samples_of(piece.path) for piece in pieces]) == talk).all()


async def test_speech_without_a_pause_is_cut_where_it_is_quietest(tmp_path, recordings):
    loud = sounds.noise(30, 5_000)
    loud[int(18.4 * sounds.RATE) : int(18.6 * sounds.RATE)] //= 50
    path = sounds.write(tmp_path / "loud.wav", loud)
    recording = await recordings.examine(path)
    spoken = Recording(
        path=path, bytes=recording.bytes, sound=_with_speech(recording, (Span(0, 30),)), begins=100.0, channel=1
    )

    first, second = await recordings.cut(spoken, tmp_path, longest=20, most_bytes=10**8)

    assert second.begins == pytest.approx(118.5, abs=0.1)
    assert (first.channel, second.channel) == (1, 1)


def _with_speech(recording: Recording, speech: tuple[Span, ...]):
    return type(recording.sound)(
        seconds=recording.sound.seconds, channels=1, format="wav", codec="pcm", sample_rate=16_000, speech=speech
    )


async def test_no_piece_is_larger_than_allowed_not_even_of_noise(tmp_path, recordings):
    recording = await recordings.examine(sounds.write(tmp_path / "noise.wav", sounds.noise(60, 12_000)))

    pieces = await recordings.cut(recording, tmp_path, longest=1_000, most_bytes=500_000)

    assert len(pieces) > 1
    assert all(piece.bytes <= 500_000 for piece in pieces)
    assert sum(piece.sound.seconds for piece in pieces) == pytest.approx(60)


async def test_limits_that_fit_no_second_of_sound_are_an_error(tmp_path, recordings):
    recording = await recordings.examine(sounds.write(tmp_path / "one.wav", sounds.speech()))

    with pytest.raises(ValueError, match="not even a second"):
        await recordings.cut(recording, tmp_path, longest=60, most_bytes=20_000)


@pytest.mark.parametrize("seed", range(4))
async def test_pieces_of_any_length_make_up_the_whole(tmp_path, recordings, seed):
    chance = random.Random(seed)
    talk = np.concatenate(
        [
            chance.choice([sounds.speech, sounds.speech, lambda: sounds.silence(chance.uniform(0.1, 4))])()
            for _ in range(6)
        ]
    )
    recording = await recordings.examine(sounds.write(tmp_path / "talk.flac", talk, coder="flac"))
    longest = chance.uniform(1.5, 12)

    pieces = await recordings.cut(recording, tmp_path, longest=longest, most_bytes=10**8)

    ends = [piece.begins + piece.sound.seconds for piece in pieces]
    assert [piece.begins for piece in pieces] == pytest.approx([0.0, *ends[:-1]])
    assert ends[-1] == pytest.approx(recording.sound.seconds)
    assert max(piece.sound.seconds for piece in pieces) <= longest
    assert (np.concatenate([sounds.samples_of(piece.path) for piece in pieces]) == talk).all()
    assert sum(piece.sound.speech_seconds for piece in pieces) == pytest.approx(
        recording.sound.speech_seconds, abs=0.01 * len(pieces)
    )


@st.composite
def speeches(draw: st.DrawFn) -> tuple[Span, ...]:
    edges = sorted(set(draw(st.lists(st.integers(0, 100_000), max_size=60))))
    return tuple(Span(a / 100, b / 100) for a, b in zip(edges[::2], edges[1::2], strict=False))


@given(speeches(), st.floats(1, 1_000), st.floats(1, 500))
def test_cuts_advance_stay_within_the_limit_and_end(speech, seconds, longest):
    begins = 0.0
    for _ in range(3_000):
        reach = next_cut(begins, seconds, longest, speech)
        if reach is None:
            break
        assert begins + longest * 0.6 <= reach.earliest <= reach.latest <= begins + longest
        assert reach.latest < seconds
        if reach.silence is not None:
            assert reach.earliest <= reach.silence <= reach.latest
            assert not any(span.start < reach.silence < span.end for span in speech)
        begins = reach.latest if reach.silence is None else reach.silence
    assert seconds - begins <= longest


def test_a_piece_has_its_share_of_the_speech_in_its_own_time():
    assert within((Span(1, 2), Span(4, 8), Span(9, 10)), 5, 9.5) == (Span(0, 3), Span(4, 4.5))


async def test_nothing_is_written_but_into_the_folder(tmp_path: Path, recordings, monkeypatch):
    source, folder, home = tmp_path / "source", tmp_path / "folder", tmp_path / "home"
    for place in (source, folder, home):
        place.mkdir()
    monkeypatch.chdir(home)
    recording = await recordings.examine(sounds.write(source / "call.wav", sounds.speech(), sounds.speech()))

    await recordings.split(recording, folder)
    await recordings.cut(recording, folder, longest=3, most_bytes=10**8)

    assert os.listdir(source) == ["call.wav"]
    assert os.listdir(home) == []
    assert all(name.startswith("call-") for name in os.listdir(folder))
