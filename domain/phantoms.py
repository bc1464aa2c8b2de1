# ruff: noqa: RUF001, RUF002  # Russian letters are what this is about
"""What speech models say when nobody speaks: credits and outros of the videos that they learned from.

Credits are never said on a call and are cut wherever they stand. Outros are what people say too: they count only where
something else speaks against them, and only as whole segments. Single words (`thank you`, `спасибо`) are in no table.

Collected from public lists: JSchmie/ScrAIbe `hallucinations.py` (from openai/whisper, discussion 928), Vexa-ai/vexa
`hallucinations/*.txt`, and faster-whisper's issues. Patterns are over words in lower case with one space between them;
`а.` is an initial. None has a repetition within a repetition, so that each is linear.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise

from domain.segments import Cut, Line, sentence_breaks, words_of


def _phrases(table: str) -> frozenset[str]:
    return frozenset(" ".join(words_of(phrase)[0]) for line in table.strip().splitlines() for phrase in line.split("|"))


_MADE = r"(?:сделал|делал|создавал|создал|подогнал|подготовил|выполнил|добавил|перевел|редактировал)[аи]?"
_SUBTITLES = (
    r"(?:субтитры|субтитри|subtitles|captions|untertitel\w{0,4}|sous titres|sottotitoli|napisy|legendas|"
    r"subt[ií]tulos|ondertitel\w{0,4}|ondertiteld|titulky|altyaz\w|字 幕)"
)
_STATIONS = r"(?:zdf|ard|wdr|swr|ndr|mdr|br|orf|srf)"

ANYWHERE = {
    "torzok": rf"(?:(?:{_SUBTITLES}|добавил) (?:\w{{1,20}} ){{0,2}})?(?:dima |дима )?\S{{0,20}}torzok",
    "торзок": rf"(?:{_SUBTITLES} (?:\w{{1,20}} ){{0,2}})?(?:дима )?\S{{0,20}}торзок",
    "amara": (
        rf"(?:{_SUBTITLES} (?:\S{{1,20}} ){{0,6}}|由 )?amara org"
        r"(?: community| gemeenschap| gemeinschaft| 社 [区區群] 提 供(?: 的 字 幕)?)?"
    ),
    "mooji": r"(?:www )?mooji org",
    "редактор субтитров": r"редактор субтитров \w\. \w{2,20}(?: корректор \w\. \w{2,20})?",
    "корректор": r"корректор \w\. (?:егорова|кулакова|бойкова|сухиашвили|голубкина|новикова)",
    "дубровск": r"спасибо за субтитры алексею дубровскому",
    "симон": rf"субтитры {_MADE} симон",
    "курас": r"(?:перевод (?:и субтитры )?)?валери[йяюе] курас\w?",
    "титрование": r"автор перевода и титрование \w{2,20}(?: \w{2,20})?",
    "im auftrag des": rf"untertitel\w{{0,4}} im auftrag des {_STATIONS}(?: für funk)?(?: \d{{4}})?",
    "copyright": rf"copyright {_STATIONS} \d{{4}}",
    "stephanie geiges": r"untertitel von stephanie geiges",
    "sous-titrage": r"sous titrage (?:st 501|fr \d{1,4}|soci[eé]t[eé] radio canada)",
    "qtss": r"sottotitoli (?:e revisione )?a cura di qtss",
    "m.k": r"altyaz\w m\.? k\.?",
    "winther": r"tekstet av nicolai winther",
    "نانسي": r"ترجمة نانسي قنقر",
    "不吝": r"[请請] 不 吝(?: \w){2,22}",
    "soustitreur": r"(?:par )?soustitreur com",
}
"""Credits that are cut out of whatever they stand in, by something that no text without them holds."""

SENTENCES = {
    "субтитр": (
        rf"(?:перевод и )?субтитры (?:{_MADE} )?(?P<name>\w{{1,20}}(?: \w{{2,20}})?)"
        rf"|{_MADE} субтитры (?P<maker>\w{{2,20}}(?: \w{{2,20}})?)"
        r"|спасибо за субтитры (?P<thanked>\w{2,20} \w{2,20})"
        r"|редактор субтитров (?P<editor>\w{2,20} \w{2,20})"
    ),
    "subtitle": r"subtitles (?:made )?by (?P<name>\w{2,20}(?: \w{2,20})?)",
    "untertitel": r"untertitel von (?P<name>\w{2,20} \w{2,20})",
    "sous-titres": r"sous titres (?:fait )?par (?P<name>\w{2,20} \w{2,20})",
    "napisy": r"napisy (?:by )?(?P<name>\w{2,20} \w{2,20})",
}
"""Credits only where they are the whole sentence and end with a name: people speak of subtitles."""

_OUTROS = """
продолжение следует | продолжение в следующей части | спасибо за просмотр | спасибо за просмотр этого видео
спасибо за внимание | всем спасибо за внимание | спасибо за субтитры | спасибо за подписку
подписывайтесь | подписывайтесь на канал | подписывайтесь на мой канал | подписывайтесь на наш канал
подпишитесь на канал | подпишись на канал | не забудьте подписаться | не забудьте подписаться на канал
не забывайте подписываться | не забудьте поставить лайк | ставьте лайки | ставьте лайк | ставьте лайки и подписывайтесь
ставьте лайки и подписывайтесь на канал | ставьте лайки подписывайтесь на канал
подписывайтесь на канал и ставьте лайки | до новых встреч | до встречи в следующем видео | всем пока | до скорых встреч
увидимся в следующем видео | до встречи в следующей серии | с вами был игорь негода | динамичная музыка
спокойная музыка | тревожная музыка | грустная музыка | веселая музыка | торжественная музыка | лирическая музыка
напряженная музыка | интригующая музыка | музыкальная заставка | смотрите продолжение в следующей части
дякую за перегляд | дякую за увагу | підписуйтесь на канал | дякуємо за перегляд
thanks for watching | thank you for watching | thank you so much for watching | thank you very much for watching
thanks for watching and see you next time | thank you for your watching | please subscribe
please subscribe to my channel | please subscribe to the channel | please like and subscribe | like and subscribe
like share and subscribe | don't forget to subscribe | don't forget to like and subscribe | see you in the next video
see you next video | i'll see you in the next video | i'll see you next time | to be continued
we'll be right back | thank you for listening | if you enjoyed this video please subscribe
vielen dank für's zuschauen | vielen dank fürs zuschauen | vielen dank für die aufmerksamkeit | bis zum nächsten mal
merci d'avoir regardé cette vidéo | merci d'avoir regardé | abonnez-vous à ma chaîne | abonnez-vous
n'oubliez pas de vous abonner | gracias por ver el video | gracias por ver el vídeo | suscríbete al canal | suscríbete
grazie per aver guardato il video | grazie per la visione | iscrivetevi al canale | obrigado por assistir
obrigado por assistir ao vídeo | inscreva-se no canal | bedankt voor het kijken | dziękuję za oglądanie
dziękuję za obejrzenie | dziękuję za uwagę | dziękuję za obejrzenie filmu | zapraszam do subskrypcji
izlediğiniz için teşekkürler | izlediğiniz için teşekkür ederim | abone olmayı unutmayın
terima kasih telah menonton | cảm ơn các bạn đã xem video | terima kasih sudah menonton
谢谢观看 | 謝謝觀看 | 谢谢大家 | ご視聴ありがとうございました
チャンネル登録をお願いします | 次の動画でお会いしましょう
시청해주셔서 감사합니다 | 구독과 좋아요 부탁드립니다 | شكرا على المشاهدة | ευχαριστώ που παρακολουθήσατε
"""
OUTROS = _phrases(_OUTROS)
"""What people say as well: it counts as a whole segment only, and where something else speaks against it."""

_NOTES = """
музыка | играет музыка | музыкальная заставка | тишина | без звука | пауза | нет речи | шум | звонок | гудки
music | music playing | blank audio | silence | no speech | no audio | inaudible | noise | background noise | sound
beep | ringing | phone ringing | dial tone | musik | musique | música | musica
"""
NOTES = _phrases(_NOTES)
"""What a model writes in brackets where there is no speech."""

_ANYWHERE = {marker: re.compile(rf"(?<!\S)(?:{pattern})(?!\S)") for marker, pattern in ANYWHERE.items()}
_SENTENCES = {marker: re.compile(rf"(?:{pattern})") for marker, pattern in SENTENCES.items()}
_BRACKETS = {"[": "]", "(": ")", "*": "*", "♪": "♪", "<": ">"}


def credits(line: Line) -> list[Cut]:  # noqa: A001  # what they are; nobody here asks the interpreter for its own
    """The credits in it, in order and apart from one another."""
    text = line.text.lower().replace("ё", "е")
    found = [
        _words(match, starts)
        for marker, pattern in _ANYWHERE.items()
        if marker in text
        for joined, starts in [_joined(line)]
        for match in pattern.finditer(joined)
    ]
    if any(marker in text for marker in _SENTENCES):
        found += [
            (a, b)
            for a, b in _sentences(line)
            if any(_names(pattern, line, a, b) for marker, pattern in _SENTENCES.items() if marker in text)
        ]
    return _apart(found)


def is_outro(line: Line) -> bool:
    """Whether it is made of outros alone."""
    if len(line.words) > 60:
        return False
    if " ".join(line.words) in OUTROS:
        return True
    return all(" ".join(line.words[a:b]) in OUTROS for a, b in _sentences(line))


def is_note(line: Line) -> bool:
    """Whether it is a note in brackets that there is no speech."""
    text = line.text
    if len(text) > 40 or _BRACKETS.get(text[0]) != text.rstrip(".")[-1:]:
        return False
    return " ".join(line.words) in NOTES


def _sentences(line: Line) -> list[Cut]:
    return list(pairwise((0, *sentence_breaks(line), len(line.words))))


def _joined(line: Line) -> tuple[str, list[int]]:
    """Its words with one space between them, initials with their full stop; and where each begins."""
    words = [
        f"{word}." if len(word) == 1 and line.text[offset + 1 : offset + 2] == "." else word
        for word, offset in zip(line.words, line.offsets, strict=True)
    ]
    return " ".join(words), [0, *accumulate(len(word) + 1 for word in words)]


def _words(match: re.Match[str], starts: list[int]) -> Cut:
    return bisect_right(starts, match.start()) - 1, bisect_left(starts, match.end())


def _names(pattern: re.Pattern[str], line: Line, a: int, b: int) -> bool:
    """Whether this sentence is such a credit, and what stands for a name in it is written as one."""
    if b - a > 8:
        return False
    match = pattern.fullmatch(" ".join(line.words[a:b]))
    if not match:
        return False
    names = next(group for group in match.groups() if group is not None).split(" ")
    return all(line.text[offset].isupper() for offset in line.offsets[b - len(names) : b])


def _apart(found: list[Cut]) -> list[Cut]:
    cuts: list[Cut] = []
    for a, b in sorted(found):
        if cuts and a < cuts[-1][1]:
            cuts[-1] = (cuts[-1][0], max(b, cuts[-1][1]))
        else:
            cuts.append((a, b))
    return cuts
