"""What a recording is found to hold."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from adapters.audio.orders import Bounds
from adapters.audio.recordings import DecodedRecordings
from domain.errors import ErrorCode, RunFailed
from tests.adapters.audio import sounds


@pytest.mark.parametrize(("name", "coder", "rate", "channels", "container", "codec"), sounds.FORMATS)
async def test_every_usual_format_is_heard(tmp_path, recordings, name, coder, rate, channels, container, codec):
    voice = np.concatenate([sounds.silence(1), sounds.speech(), sounds.silence(1)])
    path = sounds.write(tmp_path / name, *[voice] * channels, coder=coder, rate=rate)

    recording = await recordings.examine(path)

    sound = recording.sound
    assert (sound.format, sound.codec, sound.channels, sound.sample_rate) == (container, codec, channels, rate)
    assert sound.seconds == pytest.approx(9.1, abs=0.15)
    assert recording.bytes == path.stat().st_size
    assert sound.speech[0].start == pytest.approx(0.9, abs=0.4)
    assert sound.speech_seconds == pytest.approx(7.1, abs=0.8)


async def test_the_length_is_that_of_the_samples_whatever_the_header_says(tmp_path, recordings):
    path = sounds.write(tmp_path / "lie.wav", sounds.speech())
    whole = path.read_bytes()
    size = whole.index(b"data") + 4
    path.write_bytes(whole[:size] + (3_600 * 32_000).to_bytes(4, "little") + whole[size + 4 :])

    recording = await recordings.examine(path)

    assert recording.sound.seconds == pytest.approx(7.1, abs=0.01)


async def test_speech_of_both_sides_of_a_call_is_found_in_the_mix(tmp_path, recordings):
    left = np.concatenate([sounds.speech(), sounds.silence(9.1)])
    right = np.concatenate([sounds.silence(9.1), sounds.speech()])
    recording = await recordings.examine(sounds.write(tmp_path / "call.wav", left, right, rate=8_000))

    first, second = recording.sound.speech
    assert first.end < 8
    assert second.start > 8


async def test_a_quiet_voice_is_heard(tmp_path, recordings):
    whisper = (sounds.speech() * 0.02).astype(np.int16)
    recording = await recordings.examine(sounds.write(tmp_path / "quiet.wav", whisper))

    assert recording.sound.speech_seconds > 6


async def test_a_voice_in_noise_is_heard(tmp_path, recordings):
    voice = sounds.speech()
    recording = await recordings.examine(
        sounds.write(tmp_path / "noisy.wav", voice // 2 + sounds.noise(7.1, 500)[: len(voice)])
    )

    assert recording.sound.speech_seconds > 6


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(sounds.silence(20), id="silence"),
        pytest.param(sounds.noise(20), id="noise"),
        pytest.param(sounds.noise(20, 20), id="faint noise"),
        pytest.param(sounds.tone(20), id="dial tone"),
        pytest.param(np.concatenate([sounds.tone(1), sounds.silence(4)] * 4), id="ringing"),
        pytest.param(np.concatenate([sounds.tone(0.35), sounds.silence(0.35)] * 20), id="engaged"),
        pytest.param(sounds.tone(20, 50) // 2 + sounds.tone(20, 100) // 4 + sounds.noise(20, 30), id="hum"),
        pytest.param(sounds.silence(5) + 4_000, id="constant"),
        pytest.param(np.cumsum(sounds.noise(20, 40)).clip(-9_000, 9_000).astype(np.int16), id="rumble"),
        pytest.param(
            np.concatenate([sounds.tone(0.1, 697) // 2 + sounds.tone(0.1, 1_209) // 2, sounds.silence(0.1)] * 50),
            id="dialling",
        ),
    ],
)
async def test_what_is_no_speech_is_not_taken_for_it(tmp_path, recordings, sound):
    recording = await recordings.examine(sounds.write(tmp_path / "sound.wav", sound))

    assert recording.sound.speech == ()


async def test_an_hour_of_silence_is_an_hour_without_speech(tmp_path, recordings):
    path = sounds.write(tmp_path / "silence.flac", sounds.silence(3_600), coder="flac")

    recording = await recordings.examine(path)

    assert recording.sound.seconds == 3_600
    assert recording.sound.speech == ()


async def test_what_is_too_long_is_refused(tmp_path):
    recordings = DecodedRecordings(bounds=Bounds(longest=timedelta(seconds=5)))
    path = sounds.write(tmp_path / "long.wav", sounds.speech())

    with pytest.raises(RunFailed, match="too long") as refusal:
        await recordings.examine(path)

    assert refusal.value.failure.code is ErrorCode.BAD_AUDIO


async def test_a_name_that_means_something_to_the_decoder_is_only_a_name(tmp_path, recordings):
    path = sounds.write(tmp_path / "speech.wav", sounds.speech()).rename(tmp_path / "concat:a|b %03d?.wav")

    recording = await recordings.examine(path)

    assert recording.sound.seconds == pytest.approx(7.1, abs=0.01)
