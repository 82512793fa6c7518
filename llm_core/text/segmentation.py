"""Words of a text in any language, for reports, labelling and classic word models; no rule needs them."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Literal

from llm_core.text.patterns import repeated

if TYPE_CHECKING:
    from jieba import Tokenizer

Segmenter = Literal["characters", "jieba"]

# Scripts written without spaces: Thai, Lao, Burmese, Khmer, kana and Han.
UNSPACED = (
    "\u0e00-\u0e4f\u0e80-\u0ecf\u0edc-\u0eff\u1000-\u103f\u1050-\u109f\u1780-\u17d3"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
JOINERS = "\u200c\u200d"
HAN_RUN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{2,}")
LAST_MARK = 0x1F000
_loading = Lock()


class SegmenterError(ValueError):
    """A segmenter that is not installed; the message says how to get it."""


def segment(text: str, language: str, how: Segmenter = "characters") -> list[str]:
    """Cut a text into words, single punctuation marks and runs of white space; joined they are the text again.

    Scripts without spaces give a word a character (with its vowel signs), unless `how` is jieba and `language` zh: then
    runs of Han become the words of jieba's dictionary and hidden Markov model (github.com/fxsjy/jieba). Apostrophes,
    decimal points and thousands separators belong to the word around them. About 3 MB a CPU second, 0.3 MB with jieba.
    Raises SegmenterError where jieba is asked for and not installed.
    """
    if how != "jieba" or language != "zh":
        return _pattern().findall(text)
    words_of = _jieba().lcut
    segments: list[str] = []
    done = 0
    for run in HAN_RUN.finditer(text):
        segments += _pattern().findall(text, done, run.start())
        segments += words_of(run[0])
        done = run.end()
    return segments + _pattern().findall(text, done)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Compiled when first needed: the combining marks, which \\w lacks, come from Python's Unicode tables (20 ms)."""
    marks = "".join(chr(code) for code in range(0x300, LAST_MARK) if unicodedata.category(chr(code))[0] == "M")
    sign = f"[{marks}{JOINERS}]"
    # ASCII has a branch of its own since it is tested much faster than the class behind it.
    letters = repeated(rf"[A-Za-z0-9]++{sign}*+|[^\W_{UNSPACED}]{sign}*+", at_least=1)
    words = letters + repeated(f"['’.,]{letters}")
    return re.compile(rf"{words}|[{UNSPACED}]{sign}*+|\s++|.{sign}*+", re.DOTALL)


def _jieba() -> Tokenizer:
    # Two threads must not both load the dictionary (a second, 60 MB).
    with _loading:
        return _load_jieba()


@lru_cache(maxsize=1)
def _load_jieba() -> Tokenizer:
    try:
        import jieba
    except ModuleNotFoundError:
        raise SegmenterError("jieba is not installed; pip install tidemill[zh], or segment by characters") from None
    jieba.setLogLevel("WARNING")
    tokenizer = jieba.Tokenizer()
    # In a folder of its own it finds no cache, which it would unmarshal from where anybody can write.
    with TemporaryDirectory() as tokenizer.tmp_dir:
        tokenizer.initialize()
    return tokenizer
