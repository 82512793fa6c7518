"""Recipes: every value a run depends on, typed, checked all at once, and frozen.

A recipe is one YAML file in ``configs/``. It may name a parent with ``inherit: NAME`` and a command line may change
single values with ``--set section.key=value``. The same classes are the parameters of the Prefect flows, so the UI
shows them as a form (Prefect validates forms in Python mode: choices are ``Literal``, sequences are lax tuples, there
are no unions).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_core.config.data import Clean, Collect, Tokenize, Tokenizer, Workers
from llm_core.config.model import Deploy, Evaluate, Gate, Model, Register, Train
from llm_core.config.section import NAME_PATTERN, Section


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem, with file, key, value and what is allowed."""


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
    workers: Workers = Workers()

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
        if self.evaluate.suites and not self.model.goes_on:
            raise ValueError(f"evaluate.suites are not asked of family {self.model.family}; set evaluate.suites to []")
        if not self.train.epochs and self.train.warmup_steps > self.train.steps:
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


def override(recipe: Recipe, overrides: tuple[str, ...]) -> Recipe:
    """A recipe with ``section.key=value`` overrides on top; raises RecipeError for all problems at once."""
    values = recipe.resolved()
    for each in overrides:
        _apply_override(values, each)
    return parse_recipe(values, where="--set")


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
