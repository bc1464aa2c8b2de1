# ruff: noqa: RUF001  # Russian letters are what this is about
from __future__ import annotations

import math

import pytest
from msgspec import UNSET

from domain.errors import ErrorCode
from domain.loops import compresses
from domain.results import Segment
from domain.speech import Said, Sound, Span, SpeechCall, Transcript, Word
from domain.transcript import Flag, Judged, joined, judge, merge, retry_call, shifted


def sound(*speech: tuple[float, float], seconds: float = 30.0) -> Sound:
    """A recording in which somebody speaks at these times; without any: almost all of it."""
    spans = tuple(Span(*span) for span in speech or ((0.1, seconds - 0.1),))
    return Sound(seconds=seconds, channels=1, format="wav", codec="pcm_s16le", sample_rate=8_000, speech=spans)


def silent(seconds: float = 30.0) -> Sound:
    return Sound(seconds=seconds, channels=1, format="wav", codec="pcm_s16le", sample_rate=8_000)


def said(
    text: str,
    start: float = 0.0,
    end: float = 3.0,
    avg_logprob: float | None = None,
    no_speech_prob: float | None = None,
) -> Said:
    return Said(start=start, end=end, text=text, avg_logprob=avg_logprob, no_speech_prob=no_speech_prob)


def gate(*segments: Said, heard: Sound | None = None, prompt: str = "", cut_short: bool = False) -> Judged:
    end = max((said.end for said in segments), default=30.0)
    heard = heard or sound(seconds=end)
    return judge(Transcript(segments=segments, cut_short=cut_short), heard, prompt)


def texts(judged: Judged) -> list[str]:
    return [segment.text for segment in judged.segments]


def flags(judged: Judged) -> set[Flag]:
    return {found.flag for found in judged.flags}


TALK = (
    said(" Здравствуйте, я по поводу договора.", 0, 3),
    said(" Слушаю вас внимательно.", 3.2, 5),
    said(" Когда будет готов акт?", 5.4, 7),
    said(" Завтра после обеда.", 7.3, 9),
)


def test_segments_come_out_sorted_and_stripped() -> None:
    judged = gate(*reversed(TALK))
    assert texts(judged) == [said.text.strip() for said in TALK]
    assert judged.flags == ()
    assert judged.failure is None


def test_an_end_before_its_start_is_put_right() -> None:
    (segment, *_) = gate(said("Алло, добрый день.", 2.0, 1.0), said("Добрый.", 3, 4)).segments
    assert (segment.start, segment.end) == (2.0, 2.0)


@pytest.mark.parametrize("bad", [math.nan, -3.0, -math.inf])
def test_a_time_that_is_none_is_the_beginning(bad: float) -> None:
    assert gate(said("Алло.", bad, 2), said("Да.", 2, 3)).segments[0].start == 0.0


def test_an_end_beyond_the_recording_is_its_end() -> None:
    judged = gate(*TALK[:1], said("Да, конечно, слушаю.", 4, 30), heard=sound(seconds=8))
    assert judged.segments[-1].end == 8.0


def test_one_text_without_times_takes_the_whole_recording() -> None:
    judged = gate(said("Алло.", 0, 0), heard=sound(seconds=4))
    assert [(segment.start, segment.end) for segment in judged.segments] == [(0.0, 4.0)]


def test_what_no_database_stores_is_left_out() -> None:
    assert texts(gate(said(" Да\x00,\ud800 \n\t хорошо ", 0, 2))) == ["Да, хорошо"]


# Phantoms


def test_a_credit_is_cut_and_the_words_around_it_stay() -> None:
    judged = gate(*TALK, said("До свидания. Субтитры сделал DimaTorzok. Всего доброго!", 9.5, 14))
    assert texts(judged)[-1] == "До свидания. Всего доброго!"
    assert flags(judged) == {Flag.CREDIT}


def test_a_credit_needs_a_name_where_people_speak_of_subtitles() -> None:
    spoken = ("Субтитры делали вчера.", "Субтитры сделал подрядчик, мы проверили.", "Редактор субтитров с опытом.")
    assert texts(gate(*(said(text, i * 3, i * 3 + 3) for i, text in enumerate(spoken)))) == list(spoken)


@pytest.mark.parametrize("phrase", ["Продолжение следует...", "Спасибо за внимание!", "Thanks for watching!"])
def test_an_outro_counts_only_where_something_speaks_against_it(phrase: str) -> None:
    assert texts(gate(*TALK, said(phrase, 9.5, 11)))[-1] == phrase
    assert phrase not in texts(gate(*TALK, said(phrase, 9.5, 11, avg_logprob=-1.2)))
    assert phrase not in texts(gate(*TALK, said(phrase, 9.5, 11, avg_logprob=-0.3, no_speech_prob=0.9)))
    assert phrase not in texts(gate(*TALK, said(phrase, 12, 14), heard=sound((0, 9), seconds=15)))


def test_an_outro_within_other_words_is_what_somebody_said() -> None:
    line = said("Thank you for watching the dog, and thanks for watching!", 0, 4, avg_logprob=-1.2)
    assert texts(gate(line)) == [line.text]


@pytest.mark.parametrize(
    "phrase", ["ご視聴ありがとうございました。", "Don't forget to subscribe!", "İzlediğiniz için teşekkürler."]
)
def test_outros_of_other_languages_are_known(phrase: str) -> None:
    assert phrase not in texts(gate(*TALK, said(phrase, 12, 14), heard=sound((0, 9), seconds=15)))


def test_a_note_on_music_is_no_speech_and_no_phantom() -> None:
    judged = gate(*TALK, said("[музыка]", 9, 60), heard=sound((0, 9), (12, 50), seconds=60))
    assert len(judged.segments) == 4
    assert judged.failure is None
    assert flags(judged) == {Flag.NOTE}


# Figures


def test_quiet_speech_is_kept() -> None:
    assert gate(*(said(line.text, line.start, line.end, avg_logprob=-0.95) for line in TALK)).flags == ()


def test_what_whisper_itself_would_skip_is_cut() -> None:
    judged = gate(*TALK, said("И мы пошли дальше.", 9, 11, avg_logprob=-1.2, no_speech_prob=0.7))
    assert len(judged.segments) == 4
    assert flags(judged) == {Flag.SILENT}


@pytest.mark.parametrize("figures", [{"avg_logprob": 0.0, "no_speech_prob": 0.0}, {"avg_logprob": math.nan}, {}])
def test_figures_that_are_none_speak_for_nothing(figures: dict[str, float]) -> None:
    lines = [said(line.text, line.start, line.end, **figures) for line in TALK]
    assert gate(*lines).flags == ()
    assert gate(said("You", 0, 2, **figures), heard=silent()).segments == ()


def test_a_constant_for_minutes_is_no_measurement() -> None:
    lines = [said(f"Пункт {i}, и дальше по списку.", i * 5, i * 5 + 4, avg_logprob=-3.0) for i in range(40)]
    assert len(gate(*lines).segments) == 40


def test_a_loop_compresses_as_no_speech_does_in_either_script() -> None:
    russian = (
        "Здравствуйте, меня зовут Ирина, я звоню по поводу доставки холодильника, который мы заказывали в прошлую "
        "пятницу. Нам обещали привезти его ещё вчера, но никто не приехал и даже не позвонил. Подскажите, пожалуйста, "
        "когда теперь ждать машину и можно ли сразу забрать старую технику?"
    )
    assert 0.3 < compresses(russian) < 0.8
    assert compresses("и это очень важно, и это очень, очень важно, и это важно, " * 9) > 1
    assert compresses("Да, да.") == 0.0


# Loops and echoes


def test_people_repeat_themselves() -> None:
    spoken = ("Да, да, да, да, да, да.", "Алло. Алло. Алло? Алло!", "Я вам говорю, я вам говорю, я вам говорю!")
    assert texts(gate(*(said(text, i * 4, i * 4 + 3) for i, text in enumerate(spoken)))) == list(spoken)


def test_a_loop_is_cut_to_one_copy() -> None:
    judged = gate(*TALK, said("Спасибо. " * 20, 10, 12))
    assert texts(judged)[-1] == "Спасибо."
    assert flags(judged) == {Flag.LOOP}
    assert judged.failure is None


def test_a_loop_over_segments_is_cut_to_its_first() -> None:
    judged = gate(*TALK, *(said("И ещё один вопрос.", 10 + i, 11 + i) for i in range(8)))
    assert texts(judged)[4:] == ["И ещё один вопрос."]


def test_a_message_that_is_played_again_and_again_is_no_loop() -> None:
    lines = [said("Ваш звонок важен для нас, оставайтесь на линии.", i * 12, i * 12 + 4) for i in range(9)]
    heard = sound(*((i * 12, i * 12 + 4) for i in range(9)), seconds=100)
    assert len(gate(*lines, heard=heard).segments) == 9


def test_copies_that_nobody_can_have_spoken_are_a_loop() -> None:
    heard = sound((0, 9), (10, 10.5), seconds=20)
    judged = gate(*TALK, said("ну давайте тогда так " * 4, 10, 19), heard=heard)
    assert texts(judged)[-1] == "ну давайте тогда так"


PROMPT = "Разговор оператора банка с клиентом о кредите. Имена: Ольга, Марина."


@pytest.mark.parametrize(
    "echo", [PROMPT, "Разговор оператора банка с клиентом о кредите", "с клиентом о кредите. Имена: Ольга"]
)
def test_an_echo_of_the_prompt_is_cut(echo: str) -> None:
    judged = gate(*TALK, said(echo, 9.5, 13), prompt=PROMPT)
    assert len(judged.segments) == 4
    assert flags(judged) == {Flag.PROMPT_ECHO}


def test_words_of_the_prompt_may_be_said() -> None:
    line = said("Соедините меня с клиентом Ольга Марина, это о кредите.", 0, 4)
    assert gate(line, prompt=PROMPT).flags == ()
    assert texts(gate(said("Алло, здравствуйте.", 0, 2), prompt="Алло, здравствуйте.")) == ["Алло, здравствуйте."]


def test_words_that_two_segments_share_are_left_once() -> None:
    judged = gate(said("узнать про доставку дивана на завтра", 0, 8), said("дивана на завтра в обед", 6, 12))
    assert texts(judged) == ["узнать про доставку дивана на завтра", "в обед"]
    assert flags(judged) == {Flag.OVERLAP}


def test_two_who_speak_at_once_are_both_kept() -> None:
    judged = gate(
        Said(start=0, end=4, text="Дайте я скажу, это важно.", speaker="A"),
        Said(start=1, end=4, text="Нет, послушайте меня!", speaker="B"),
    )
    assert [segment.speaker for segment in judged.segments] == ["A", "B"]


# Verdicts


def test_silence_is_a_success_without_segments() -> None:
    judged = gate(heard=silent())
    assert (judged.segments, judged.failure) == ((), None)


def test_a_talk_that_the_detector_missed_is_kept() -> None:
    assert len(gate(*TALK, heard=silent()).segments) == 4


def test_a_word_in_silence_is_kept_where_the_model_was_sure() -> None:
    assert texts(gate(said("Алло.", 1, 2, avg_logprob=-0.2, no_speech_prob=0.05), heard=silent())) == ["Алло."]


def test_speech_under_phantoms_alone_is_a_hallucination() -> None:
    judged = gate(said("Субтитры сделал DimaTorzok", 0, 20))
    assert judged.failure is not None
    assert judged.failure.code is ErrorCode.TRANSCRIPT_HALLUCINATION


def test_more_than_half_of_the_speech_lost_is_a_hallucination() -> None:
    phantom = said("Редактор субтитров А.Синецкая Корректор А.Егорова", 9, 60)
    assert gate(*TALK, phantom, heard=sound((0, 9), (20, 24), seconds=60)).failure is None
    failure = gate(*TALK, phantom, heard=sound((0, 9), (20, 55), seconds=60)).failure
    assert failure is not None
    assert "credit" in failure.message


def test_more_text_than_a_mouth_can_speak_is_a_hallucination() -> None:
    failure = gate(said(" ".join(f"мысль{i}" for i in range(200)), 0, 5), heard=sound(seconds=5)).failure
    assert failure is not None
    assert failure.code is ErrorCode.TRANSCRIPT_HALLUCINATION


@pytest.mark.parametrize(
    "heard",
    [sound((0, 9), (12, 30), seconds=31), sound((0, 5), (9, 26), (27, 34), seconds=35)],
    ids=["the end", "a hole"],
)
def test_speech_without_text_is_incomplete(heard: Sound) -> None:
    failure = gate(*TALK, heard=heard).failure
    assert failure is not None
    assert failure.code is ErrorCode.TRANSCRIPT_INCOMPLETE


def test_a_server_that_stopped_early_is_believed() -> None:
    failure = gate(*TALK, cut_short=True).failure
    assert failure is not None
    assert failure.code is ErrorCode.TRANSCRIPT_INCOMPLETE


def test_noises_after_the_goodbye_are_not_missing() -> None:
    assert gate(*TALK, heard=sound((0, 9), (15, 16), (20, 21), (25, 26), seconds=40)).failure is None


# Splitting


def test_a_long_segment_is_split_at_sentence_ends_by_characters() -> None:
    judged = gate(said("Первое предложение тут. Второе предложение тут.", 0, 40), heard=sound((0, 40), seconds=40))
    assert texts(judged) == ["Первое предложение тут.", "Второе предложение тут."]
    first, second = judged.segments
    assert (first.start, second.end) == (0.0, 40.0)
    assert first.end == pytest.approx(20, abs=1)
    assert first.end <= second.start


def test_pauses_are_not_taken_for_speech_where_a_segment_is_split() -> None:
    heard = sound((2, 4), (30, 32), seconds=40)
    first, second = gate(said("Минутку, ищу файл. Вот, нашла, диктую.", 0, 36), heard=heard).segments
    assert first.end == pytest.approx(4, abs=0.2)
    assert second.start == pytest.approx(30, abs=0.2)


def test_words_with_times_tell_where_to_split() -> None:
    words = (
        Word(text="Да,", start=1.0, end=1.2),
        Word(text="это"),
        Word(text="я.", start=1.5, end=1.7),
        Word(text="Слушаю", start=9.0, end=9.6),
        Word(text="вас.", start=9.7, end=10.0),
    )
    line = Said(start=0, end=12, text="Да, это я. Слушаю вас.", words=words, speaker="SPEAKER_01")
    first, second = gate(line).segments
    assert (first.text, first.end) == ("Да, это я.", 1.7)
    assert (second.start, second.end) == (9.0, 12.0)
    assert (first.speaker, second.speaker) == ("SPEAKER_01", "SPEAKER_01")


@pytest.mark.parametrize(
    "text",
    [
        "Счёт на 12.5 тыс. рублей от ООО «Вектор», г. Москва, ул. Ленина, д. 5",
        "Подпишет А. С. Иванов, т. е. директор",
        "It was Dr. Smith of St. Mary's at 10 a.m. on Friday for 3.5 hours",
        "Ну... да, наверное",
        "это доставка мы подъезжаем минут через пятнадцать",
    ],
)
def test_a_full_stop_that_ends_no_sentence_splits_nothing(text: str) -> None:
    assert texts(gate(said(text, 0, 40))) == [text]


@pytest.mark.parametrize(
    ("text", "count"),
    [("Да. Нет! Что? Ага…", 4), ("It's I. Who? Call 5. Now.", 4), ("好的。谢谢！再见", 3), ("«Да.» Вот так.", 2)],
)
def test_sentences_end_with_their_marks(text: str, count: int) -> None:
    judged = gate(said(text, 0, 8))
    assert len(judged.segments) == count
    assert "".join(texts(judged)).replace(" ", "") == text.replace(" ", "")


def test_speakers_are_never_made_up() -> None:
    assert all(segment.speaker is UNSET for segment in gate(*TALK).segments)


# Around the gate


def test_a_retry_changes_what_led_to_a_hallucination() -> None:
    call = SpeechCall(language="ru", prompt=PROMPT, max_speakers=2)
    assert retry_call(call, 0) == call
    assert retry_call(call, 1) == SpeechCall(language="ru", temperature=0.2, vad=True, max_speakers=2)
    assert retry_call(call, 2).temperature == retry_call(call, 9).temperature == 0.4


def test_channels_merge_by_time_and_name_their_speaker() -> None:
    left = [Segment(start=0, end=1, text="Алло."), Segment(start=4, end=5, text="Да.", speaker="SPEAKER_00")]
    right = [Segment(start=2, end=3, text="Это банк.")]
    merged = merge([("left", left), ("right", right)])
    assert [(segment.speaker, segment.text) for segment in merged] == [
        ("left", "Алло."),
        ("right", "Это банк."),
        ("left", "Да."),
    ]


def test_pieces_of_a_recording_are_joined_in_its_own_time() -> None:
    first = Transcript(segments=(said("Hello there.", 0, 2),), language="en", seconds=30)
    words = (Word(text="Алло"), Word(text="да", start=1.0, end=1.5))
    second = Transcript(segments=(Said(start=0, end=9, text="Алло да", words=words),), language="ru", model="m")
    empty = Transcript(segments=(), language="la", cut_short=True)
    whole = joined([first, shifted(second, 30.0), shifted(empty, 60.0)])
    assert [(segment.start, segment.end) for segment in whole.segments] == [(0, 2), (30, 39)]
    assert whole.segments[1].words[1].start == 31.0
    assert whole.segments[1].words[0].start is None
    assert (whole.language, whole.model, whole.seconds, whole.cut_short) == ("ru", "m", 30, True)


def test_nothing_joined_is_an_empty_transcript() -> None:
    assert joined([]) == Transcript(segments=())
