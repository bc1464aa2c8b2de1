"""Every threshold of the transcript gate, with where it comes from.

*Whisper* is openai/whisper's own `transcribe.py`; *measured* means on the labelled transcripts of the tests or on
texts named beside it; *chosen* is a judgement that errs towards keeping what somebody may have said.
"""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """What counts as silence, as too much, as a loop. Rates are characters a second, times are seconds."""

    # What a model tells of itself
    low_confidence: float = -1.0
    """`avg_logprob` below it: Whisper decodes again at a higher temperature."""
    no_confidence: float = -1.5
    """Below it a text is noise: gibberish after the last temperature was seen at -2.03, quiet speech at -0.9."""
    no_confidence_letters: int = 12
    """Shorter texts reach such figures when they are right. Chosen."""
    no_speech: float = 0.6
    """`no_speech_prob` above it, together with low confidence: Whisper leaves the segment out."""
    surely_no_speech: float = 0.8
    """Phantoms that the model was confident of came with 0.88 and 0.98 (SYSTRAN/faster-whisper, issue 621)."""
    surely_speech: float = 0.2
    """`no_speech_prob` below it, with `good_confidence`, outweighs a voice detector that heard nothing. Chosen."""
    good_confidence: float = -0.6
    constant_after: float = 90.0
    """One figure for all of so long a time is no measurement: Whisper's windows are 30 s. Chosen."""

    # Rates of speech
    fastest: float = 35.0
    """A fast speaker reaches 25. Chosen."""
    fastest_slack: float = 2.0
    """Added to a segment's time: its ends are out by as much. Chosen."""
    digit: int = 3
    """Letters that a digit stands for beyond its own: models count on and on. Chosen."""
    slowest: float = 0.5
    slowest_after: float = 5.0
    """A segment as long as this with less text than `slowest` holds a word and a long silence, or nothing."""
    stretched: float = 3.0
    """A stock phrase with less text than this for each second of speech stands for speech that is not in it. Chosen."""
    natural: float = 5.0
    """A message that is played again and again is spoken at this rate at least. Chosen."""

    # What a voice detector tells
    margin: float = 0.5
    """By which a segment's ends are out. Chosen."""
    click: float = 0.25
    """Less speech than this in a whole recording is a click: the shortest words take as long. Chosen."""
    hardly_any: float = 1.0
    """Less than this is a noise, if the model's `no_speech_prob` says so too: it made `You` of silence at 0.70."""
    unheard_words: int = 12
    """As many different words are kept though the detector heard nobody: it misses quiet lines. Chosen."""

    # Loops
    loop_copies: tuple[int, ...] = (12, 8, 6)
    """Copies of one word, of two, and of more. People say `yes` six times and `hello` eight times; measured."""
    suspect_copies: int = 4
    """Copies that make a loop where nobody can have spoken them: more text than the speech there has room for."""
    suspect_words: int = 8
    longest_period: int = 40
    """Words of the longest phrase that is looked for. Chosen."""
    spaced: float = 1.0
    """Pause between the copies of a message that is really played again and again. Chosen."""
    ratio_length: int = 60
    """Shorter texts do not compress; measured: `Subtitles by ...` 0.8."""
    ratio_window: int = 500
    """The ratio grows with the text: normal Russian 1.28 at 80 characters, 1.99 at 474. Measured a piece at a time."""
    latin_ratio: float = 2.4
    """Whisper's `compression_ratio_threshold`."""
    cyrillic_ratio: float = 3.0
    """Two bytes a letter: normal Russian has 1.99 where English has 1.57, so 2.4 leaves no room. Measured."""
    other_ratio: float = 4.0
    """Three bytes a letter. Chosen."""
    surely_repetitive: float = 2.0
    """So many times the ratio is no speech, whatever the voice detector tells. Chosen."""
    surely_repetitive_length: int = 200

    # Echoes
    echo_words: int = 6
    """Words of the prompt in a row: fewer are said by chance. Chosen."""
    echo_window: int = 4
    twice: float = 0.5
    """A segment that says what another does is its copy where they share more than this of the shorter one's time."""
    overlap_words: int = 3
    """Words that two segments share where their times overlap: pieces of a recording that were cut with a margin."""

    # Verdicts
    speech: float = 3.0
    """Less speech than this is not worth a failure."""
    lost: float = 0.55
    """A larger part of the speech under text that nobody said is a hallucination. Half of it and a bit: each segment
    given twice is a habit of servers."""
    early_end: float = 0.6
    """A transcript that ends before this part of the recording, with speech after it, is not complete ..."""
    early_end_speech: float = 0.1
    """... where that is more than this part of the speech. Chosen."""
    gaps: float = 0.2
    """A larger part of the speech without text is not complete."""
    gap: float = 1.0
    """Shorter speech without text, `gap_margin` away from any, is a breath, a cough or a time that is out. Chosen."""
    gap_margin: float = 1.0
    gaps_speech: float = 5.0
    """Less speech without text than this is no failure, however short the recording. Chosen."""
    empty_speech: float = 20.0
    """As much speech below one segment of hardly any text is a gap too. Chosen."""

    # Splitting
    longest_segment: float = 30.0
    """Whisper's window: no segment of its own is longer."""
    pause: float = 1.0
    """Between words: where a long segment is split too. Chosen."""


LIMITS = Limits()
