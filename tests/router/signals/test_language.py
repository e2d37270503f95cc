"""Language: which natural language a text is in."""

from __future__ import annotations

import pytest

from flaxen.router.signals.language import language_of
from tests.router.signals.rules import finder, of

TEXTS = {
    "en": "What is the capital of France?",
    "de": "Erkläre mir den Satz des Pythagoras.",
    "fr": "Quelle est la capitale de la France ?",
    "es": "Escribe una función en Python",
    "pt": "Escreva uma função em Python",
    "it": "Scrivi una funzione in Python",
    "ru": "Напиши функцию на питоне, пожалуйста",
    "uk": "Напиши функцію на пітоні",
    "zh": "请帮我写一个排序算法",
    "ja": "このコードを直してください",
    "ko": "이 코드를 고쳐 주세요",
    "ar": "اكتب دالة بايثون",
    "hi": "मुझे पायथन में एक फ़ंक्शन लिखो",
    "tr": "Python'da bir fonksiyon yaz",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_sentence_is_of_its_language_alone(code: str) -> None:
    results = finder("language", *({"name": name} for name in TEXTS))(of(TEXTS[code]))
    assert [name for name, result in zip(TEXTS, results, strict=True) if result.matched] == [code]


@pytest.mark.parametrize("text", ["", "12345", "x = y + 1;"])
def test_what_is_unclear_counts_as_english_and_says_so(text: str) -> None:
    english, sure, german = finder(
        "language", {"name": "en"}, {"name": "en", "threshold": 0.6}, {"name": "de"}
    )(of(text))
    assert (english.matched, sure.matched, german.matched) == (True, False, False)
    assert english.reason.startswith("unclear, so taken for en: the likeliest was ")


def test_the_lowest_threshold_decides_what_is_unclear() -> None:
    text = TEXTS["es"]
    confidence = language_of(text).confidence
    above = {"name": "es", "threshold": min(1.0, confidence + 0.01)}
    [alone] = finder("language", above)(of(text))
    assert alone.reason.startswith("unclear")
    results = finder("language", above, {"name": "en"})(of(text))
    assert [result.matched for result in results] == [False, False]
    assert results[0].reason == f"es with confidence {confidence:.2f}"


def test_a_long_text_is_read_in_three_places() -> None:
    text = f"{TEXTS['en']} {'1 ' * 4_000}" + f" {TEXTS['de']} " * 90 + "1 " * 4_000
    assert language_of(text).code == "de"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="the language 'tlh' is not known: give one of 'af', 'ar'"):
        finder("language", {"name": "tlh"})
