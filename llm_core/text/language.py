"""Rule language: which language a document is in, from a bounded sample of its text, offline.

Scripts that one language alone writes decide by themselves; all else goes to py3langid (Lui and Baldwin 2012,
"langid.py: an off-the-shelf language identification tool"; naive Bayes over byte n-grams, the model in the package).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

from llm_core.config import Clean
from llm_core.text.document import Document, Rejection

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

WINDOWS = 4
# Of 2,000 German and English paragraphs of 100 to 200 characters each, 5 % are less sure than this.
SURE = 0.98
LETTERS = re.compile(r"[^\W\d_]+")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff]+")
# Scripts in everyday use for one language only.
SCRIPTS = {
    "ko": re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+"),
    "th": re.compile("[\u0e01-\u0e3a\u0e40-\u0e4e]+"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]+"),
    "hy": re.compile("[\u0531-\u0587]+"),
    "ka": re.compile("[\u10a0-\u10ff]+"),
    "ta": re.compile("[\u0b80-\u0bff]+"),
    "te": re.compile("[\u0c00-\u0c7f]+"),
}
# A Han character or syllable block says about as much as this many letters of an alphabet.
DENSE = 3
MAIN_SHARE = 0.7
# Japanese needs kana in every sentence; Chinese has them in a quoted name at most.
KANA_SHARE = 0.1
# What the model calls tables, code and addresses; its other codes of three letters have no place in ISO 639-1.
NO_LANGUAGE = "zxx"
_loading = Lock()


class LanguageError(ValueError):
    """A language that the identifier does not know; the message names it and the key to change."""


def identify_language(document: Document, cfg: Clean) -> Document | Rejection:
    """Set the document's language (ISO 639-1; empty where the text has none), and reject what the recipe does not keep.

    Raises LanguageError when clean.language.keep names a language that no document could be in.
    """
    _require_known(cfg.language.keep)
    language, confidence = language_of(document.text, cfg.language.sample_characters)
    found = f"{language or 'no language'} at {confidence:.2f}"
    if cfg.language.keep and language not in cfg.language.keep:
        return Rejection("language", f"{found}, {' or '.join(cfg.language.keep)} wanted")
    if confidence < cfg.language.min_confidence:
        return Rejection("language", f"{found}, {cfg.language.min_confidence} needed")
    return replace(document, language=language)


def language_of(text: str, sample_characters: int = 1000) -> tuple[str, float]:
    """The main language of a text and how sure that is (0 to 1); an empty code when it has no words of any.

    A fifth of the sample is asked first and the whole only in doubt: about 0.2 ms, whatever the length of the text.
    """
    found = _language_of_sample(_sample(text, sample_characters // 5))
    if found[1] < SURE and len(text) > sample_characters // 5:
        found = _language_of_sample(_sample(text, sample_characters))
    return found


def _language_of_sample(sample: str) -> tuple[str, float]:
    num_letters = sum(map(len, LETTERS.findall(sample)))
    if not num_letters:
        return "", 0.0
    if not sample.isascii() and (language := _by_script(sample, num_letters)):
        return language, 1.0
    # One line, so that no layout counts; the model was trained on running text.
    language, confidence = _identifier().classify(" ".join(sample.split()))
    return ("", 0.0) if language == NO_LANGUAGE else (language, confidence)


def _sample(text: str, size: int) -> str:
    """The whole of a short text; windows of a long one, evenly from its first to its last character."""
    if len(text) <= size:
        return text
    width = size // WINDOWS
    starts = (index * (len(text) - width) // (WINDOWS - 1) for index in range(WINDOWS))
    return "\n".join(text[start : start + width] for start in starts)


def _by_script(sample: str, num_letters: int) -> str:
    """The language of a sample that is mainly in a script which only one language has; else empty."""
    han, kana = _count(HAN, sample), _count(KANA, sample)
    if _is_main(han + kana, num_letters, DENSE):
        return "ja" if kana > KANA_SHARE * (han + kana) else "zh"
    for language, script in SCRIPTS.items():
        if _is_main(_count(script, sample), num_letters, 1):
            return language
    return ""


def _count(script: re.Pattern[str], sample: str) -> int:
    return sum(map(len, script.findall(sample)))


def _is_main(count: int, num_letters: int, weight: int) -> bool:
    return count * weight > MAIN_SHARE * (num_letters + count * (weight - 1))


@lru_cache(maxsize=64)
def _require_known(keep: tuple[str, ...]) -> None:
    if keep and (unknown := sorted(set(keep) - set(_identifier().labels))):
        known = ", ".join(_identifier().labels)
        raise LanguageError(f"clean.language.keep: {', '.join(unknown)} cannot be identified; known are {known}")


def _identifier() -> LanguageIdentifier:
    # Two threads must not both load it (half a second, 30 MB); classifying itself changes nothing in it.
    with _loading:
        return _load()


@lru_cache(maxsize=1)
def _load() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == NO_LANGUAGE])
    return identifier
