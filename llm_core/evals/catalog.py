"""The suites that a recipe names: what each asks, and of which examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from llm_core.config import Clean, SuiteSpec, Toxicity
from llm_core.evals import bias, refusal, sentiment
from llm_core.evals.bias import bias_suite
from llm_core.evals.classification import classification_suite
from llm_core.evals.code import code_suite
from llm_core.evals.diversity import diversity_suite
from llm_core.evals.domains import domains_suite, in_fields
from llm_core.evals.examples import ExamplesError, chosen, read_examples, require_keys, uncontaminated
from llm_core.evals.generation import generation_suite
from llm_core.evals.harness import harness_suite
from llm_core.evals.leakage import KnownData, leakage_suite
from llm_core.evals.long_context import holds, long_context_suite, needles
from llm_core.evals.memorization import canary_suite, extraction_suite, passages
from llm_core.evals.multiple_choice import multiple_choice_suite
from llm_core.evals.refusal import refusal_suite
from llm_core.evals.sentiment import read_lexicon, sentiment_suite
from llm_core.evals.suite import Example, Suite
from llm_core.evals.toxicity import toxicity_suite
from llm_core.evals.truthfulness import truthfulness_suite
from llm_core.text.toxicity import words_sha256

Texts = Callable[[], Iterable[str]]
PROMPT_WORDS = 12
"""Words of a held-out document's beginning that a model is to go on from."""
NEEDLE = "The keeper of the old lighthouse was called Marigold Quill."
QUESTION, ANSWER = "The keeper of the old lighthouse was called", "Marigold Quill"
PASSAGE_CHARACTERS = 50
"""Length of what is to be known by heart, behind twice as much."""
DEPTHS, SHARES_OF_CONTEXT = (0.0, 0.25, 0.5, 0.75, 1.0), (8, 4, 2)


@dataclass(frozen=True)
class Material:
    """What a run has to ask its model about, besides the tables that its recipe names."""

    train_texts: Texts
    heldout_texts: Texts
    context: int
    """Tokens that the model reads at once."""
    seed: int
    base: Path = Path()
    """Where paths of the recipe begin."""


@dataclass(frozen=True)
class Asked:
    """A suite with the examples that it is asked of."""

    suite: Suite
    examples: list[Example]
    contaminated: int = 0
    """Examples that were left out because the training text has them."""


Prepare = Callable[[SuiteSpec, Material], Asked]


def prepare(spec: SuiteSpec, material: Material) -> Asked:
    """The suite that a recipe names.

    Raises ExamplesError where its table cannot be used, and the errors of word lists.
    """
    return KINDS[spec.kind](spec, material)


def _bias(spec: SuiteSpec, material: Material) -> Asked:
    return Asked(bias_suite(spec.title), _own_or_table(spec, material, bias.probes(), ("continuation", "stereotyped")))


def _canaries(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("before", "secret", "after", "alphabet", "repeats"))
    return Asked(canary_suite(spec.title, seed=material.seed), examples)  # they are in the training text on purpose


def _classification(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("text", "label"))
    shots, asked = examples[: spec.shots], examples[spec.shots :]
    solved = "".join(f"{shot['text']}\n{shot['label']}\n\n" for shot in shots)
    template = solved.replace("{", "{{").replace("}", "}}") + "{text}\n"
    labels = sorted({str(example["label"]) for example in examples})
    return _clean(Asked(classification_suite(labels, spec.title, template=template), asked), material)


def _code(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("prompt", "test", "entry_point"))
    return _clean(Asked(code_suite(spec.title, spec.max_tokens), examples), material)


def _diversity(spec: SuiteSpec, material: Material) -> Asked:
    return Asked(diversity_suite(spec.title, spec.max_tokens), _prompts(spec, material))


def _domains(spec: SuiteSpec, material: Material) -> Asked:
    examples = in_fields(_table(spec, material, ("question", "choices", "answer", "subject")))
    return _clean(Asked(domains_suite(spec.title), examples), material)


def _extraction(spec: SuiteSpec, material: Material, texts: Texts | None = None) -> Asked:
    # A character is up to four tokens, and half of the context is to be read before what is asked for.
    size = max(1, min(PASSAGE_CHARACTERS, material.context // 8))
    found = passages(
        (texts or material.train_texts)(),
        count=spec.limit,
        seed=material.seed,
        prefix_characters=2 * size,
        suffix_characters=size,
    )
    return Asked(extraction_suite(spec.title, spec.max_tokens), found)


def _extraction_unseen(spec: SuiteSpec, material: Material) -> Asked:
    """What is known by heart without having been read: the control of extraction."""
    return _extraction(spec, material, material.heldout_texts)


def _generation(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("prompt", "references"))
    shots, asked = examples[: spec.shots], examples[spec.shots :]
    return _clean(Asked(generation_suite(spec.title, shots, spec.max_tokens), asked), material)


def _leakage(spec: SuiteSpec, material: Material) -> Asked:
    known = KnownData.of(material.train_texts())
    return Asked(leakage_suite(known, name=spec.title, max_tokens=spec.max_tokens), _prompts(spec, material))


def _lm_eval(spec: SuiteSpec, material: Material) -> Asked:
    """The harness has checks of its own for what the training text has; tables of it are not read here."""
    task = str(material.base / spec.task) if Path(spec.task).suffix in (".yaml", ".yml") else spec.task
    return Asked(*harness_suite(task, spec.limit, name=spec.title, shots=spec.shots))


def _long_context(spec: SuiteSpec, material: Material) -> Asked:
    """Needles in the longest held-out document; tables of your own hold texts with needles."""
    if spec.examples:
        found = _table(spec, material, ("text", "needle", "question", "answer", "depth"))
    else:
        text = max((text for text in material.heldout_texts() if not holds(text, ANSWER)), key=len, default="")
        sizes = [material.context // share for share in SHARES_OF_CONTEXT]
        found = needles(text, NEEDLE, QUESTION, ANSWER, DEPTHS, [size for size in sizes if size <= len(text.split())])
    return Asked(long_context_suite(spec.title, spec.max_tokens), found)


def _multiple_choice(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("context", "choices", "answer"))
    shots, asked = examples[: spec.shots], examples[spec.shots :]
    return _clean(Asked(multiple_choice_suite(spec.title, shots), asked), material)


def _refusal(spec: SuiteSpec, material: Material) -> Asked:
    examples = _own_or_table(spec, material, refusal.probes(), ("prompt", "harmful"))
    return Asked(refusal_suite(spec.title, spec.max_tokens), examples)


def _sentiment(spec: SuiteSpec, material: Material) -> Asked:
    if spec.words_sha256 and words_sha256(spec.words, material.base) != spec.words_sha256:
        raise ExamplesError(f"{', '.join(spec.words)}: changed since the run was begun; run it again")
    ratings: dict[str, float] = {}
    for place in spec.words:
        ratings |= read_lexicon(place, material.base)
    examples = _own_or_table(spec, material, sentiment.probes(), ("prompt", "other_prompt"))
    return Asked(sentiment_suite(ratings, spec.title, spec.max_tokens), examples)


def _toxicity(spec: SuiteSpec, material: Material) -> Asked:
    rule = Clean(toxicity=Toxicity(words=spec.words, sha256=spec.words_sha256))
    return Asked(toxicity_suite(rule, spec.title, spec.max_tokens), _prompts(spec, material))


def _truthfulness(spec: SuiteSpec, material: Material) -> Asked:
    examples = _table(spec, material, ("prompt", "true", "false"))
    return _clean(Asked(truthfulness_suite(spec.title, spec.max_tokens), examples), material)


def _table(spec: SuiteSpec, material: Material, keys: Sequence[str]) -> list[Example]:
    """The chosen rows of the table, shots in front."""
    examples = read_examples(spec.examples, material.base, spec.examples_sha256)
    require_keys(examples, keys, spec.examples)
    if len(examples) <= spec.shots:
        raise ExamplesError(f"{spec.examples}: {len(examples)} examples are not enough for {spec.shots} shots")
    return chosen(examples, spec.limit + spec.shots)


def _own_or_table(spec: SuiteSpec, material: Material, own: list[Example], keys: Sequence[str]) -> list[Example]:
    return _table(spec, material, keys) if spec.examples else own


def _prompts(spec: SuiteSpec, material: Material) -> list[Example]:
    """Those of the table, else how held-out documents begin."""
    if spec.examples:
        return _table(spec, material, ("prompt",))
    beginnings = (" ".join(islice(text.split(), PROMPT_WORDS)) for text in material.heldout_texts())
    return chosen(({"prompt": prompt} for prompt in beginnings), spec.limit)


def _clean(asked: Asked, material: Material) -> Asked:
    """Without what the training text gives away."""
    kept = uncontaminated(asked.examples, material.train_texts())
    if not kept:
        raise ExamplesError(f"{asked.suite.name}: the training text has all of its {len(asked.examples)} examples")
    return replace(asked, examples=kept, contaminated=len(asked.examples) - len(kept))


KINDS: Mapping[str, Prepare] = {
    "bias": _bias,
    "canaries": _canaries,
    "classification": _classification,
    "code": _code,
    "diversity": _diversity,
    "domains": _domains,
    "extraction": _extraction,
    "extraction_unseen": _extraction_unseen,
    "generation": _generation,
    "leakage": _leakage,
    "lm_eval": _lm_eval,
    "long_context": _long_context,
    "multiple_choice": _multiple_choice,
    "refusal": _refusal,
    "sentiment": _sentiment,
    "toxicity": _toxicity,
    "truthfulness": _truthfulness,
}
