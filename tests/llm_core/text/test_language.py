"""Languages are told apart from a bounded sample, the same way in every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_core.config import Clean
from llm_core.text import language as module
from llm_core.text.document import Document, Rejection
from llm_core.text.language import LanguageError, identify_language, language_of

ENGLISH = "The committee met on Tuesday and agreed that the bridge should be repaired before the winter sets in."
GERMAN = "Der Ausschuss tagte am Dienstag und beschloss, dass die Brücke vor dem Winter instand gesetzt werden soll."


def document(text: str) -> Document:
    return Document(source="s", start=0, end=1, sha256="0" * 64, license="x", text=text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("Le comité s'est réuni mardi et a décidé que le pont serait réparé avant l'hiver.", "fr"),
        ("Комитет собрался во вторник и решил, что мост нужно починить до зимы.", "ru"),
        ("委员会星期二开会，决定在冬天到来之前修好这座桥。", "zh"),
        ("委員会は火曜日に開かれ、冬が来る前に橋を修理することを決めた。", "ja"),
        ("床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。", "zh"),
        ("打开 LibreOffice Writer，选择 File 菜单，然后单击 Export as PDF 导出文档。", "zh"),
        ("위원회는 화요일에 모여 겨울이 오기 전에 다리를 고치기로 했다.", "ko"),
        ("คณะกรรมการประชุมกันเมื่อวันอังคาร", "th"),
        ("Η επιτροπή συνεδρίασε την Τρίτη.", "el"),
        ("12.5 % | 17 -- 2019 €", ""),
        ("", ""),
        ("3f2a b1c4 99de 0xff", ""),
    ],
)
def test_the_language_of_a_text_is_found(text: str, language: str) -> None:
    result = identify_language(document(text), Clean())
    assert isinstance(result, Document)
    assert result.language == language
    assert result.text == text


def test_a_quoted_word_does_not_make_an_english_text_chinese_nor_a_name_in_kana_a_chinese_one_japanese() -> None:
    assert language_of(ENGLISH + " The sign read 橋 in large characters.")[0] == "en"
    assert language_of("这家餐厅叫の味，在上海很有名，每天都有许多客人来吃饭，周末要排队一个小时。")[0] == "zh"


@pytest.mark.parametrize(
    ("keep", "min_confidence", "text", "detail"),
    [
        (("en",), 0.0, GERMAN, "de at 1.00, en wanted"),
        (("zh", "en"), 0.0, "1 2 3", "no language at 0.00, zh or en wanted"),
        ((), 0.5, "1 2 3", "no language at 0.00, 0.5 needed"),
    ],
)
def test_what_is_not_wanted_is_rejected(keep: tuple[str, ...], min_confidence: float, text: str, detail: str) -> None:
    cfg = Clean.model_validate({"language": {"keep": keep, "min_confidence": min_confidence}})
    assert identify_language(document(text), cfg) == Rejection("language", detail)


def test_a_language_that_is_kept_passes() -> None:
    result = identify_language(document(GERMAN), Clean.model_validate({"language": {"keep": ["de"]}}))
    assert isinstance(result, Document)


def test_a_language_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(LanguageError, match=r"clean\.language\.keep: cn, jp cannot be identified; known are .*zh"):
        identify_language(document(ENGLISH), Clean.model_validate({"language": {"keep": ["en", "jp", "cn"]}}))


def test_a_code_of_three_letters_is_refused_with_the_recipe() -> None:
    with pytest.raises(ValueError, match="'eng' is no ISO 639-1 code"):
        Clean.model_validate({"language": {"keep": ["eng"]}})


def test_a_long_text_is_judged_by_all_of_its_length() -> None:
    mostly_german = ENGLISH + "\n" + (GERMAN + "\n") * 200
    assert language_of(mostly_german)[0] == "de"
    assert language_of((GERMAN + "\n") * 200 + ENGLISH)[0] == "de"


def test_only_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "_language_of_sample", lambda sample: (seen.append(sample), ("en", 0.4))[1])
    language_of("abcdefghij" * 100_000, sample_characters=1000)
    assert [len(sample) for sample in seen] == [203, 1003]
    assert seen[1].startswith("abcdefghij") and seen[1].endswith("abcdefghij")


def test_threads_load_one_model_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    module._load.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: language_of(text)[0], [ENGLISH, GERMAN] * 8))
    assert found == ["en", "de"] * 8
    assert module._load.cache_info().misses == 1
