from __future__ import annotations

from pathlib import Path

import pytest

from llm_core.config import Recipe, RecipeError, load_recipe, parse_recipe, recipe_schema


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("name: base\ntrain:\n  steps: 50\n  warmup_steps: 5\n")
    (tmp_path / "child.yaml").write_text("inherit: base\nname: child\ntrain:\n  lr: 3e-4\n")
    return tmp_path


def test_the_defaults_are_a_valid_recipe() -> None:
    assert parse_recipe(Recipe().resolved(), where="defaults") == Recipe()


def test_a_recipe_inherits_and_changes_single_values(configs: Path) -> None:
    recipe = load_recipe("child", configs)
    assert (recipe.name, recipe.train.steps, recipe.train.lr) == ("child", 50, 3e-4)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lr=3e-4", ("train", "lr"), 3e-4),
        ("train.steps=7", ("train", "steps"), 7),
        ('collect.sources=["mine/", "yours/"]', ("collect", "sources"), ("mine/", "yours/")),
        ("name=other", ("name",), "other"),
        ("model.tie_embeddings=true", ("model", "tie_embeddings"), True),
    ],
)
def test_one_value_can_be_set_from_the_command_line(
    configs: Path, override: str, key: tuple[str, ...], value: object
) -> None:
    found: object = load_recipe("base", configs, (override, "train.warmup_steps=0"))
    for part in key:
        found = getattr(found, part)
    assert found == value


def test_all_problems_are_reported_at_once_with_key_value_and_what_is_allowed(configs: Path) -> None:
    (configs / "bad.yaml").write_text("name: Bad Name\ntrain:\n  stepz: 3\n  lr: fast\n  clip_norm: -1\nsurprise: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad", configs)
    message = str(caught.value)
    for part in ("bad.yaml", "5 problem", "stepz", "known keys: steps", "'fast'", "clip_norm", "surprise", "Bad Name"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a list", "mapping of sections"),
        ("a: [", "not readable as YAML"),
        ("inherit: 3", "not the name of a recipe"),
        ("inherit: loop", "inherits from itself"),
        ("model: {width: 10, num_heads: 4}", "not a multiple of num_heads"),
        ("model: {num_heads: 4, num_kv_heads: 3}", "not a multiple of num_kv_heads"),
        ("model: {width: 12, num_heads: 4}", "must be even"),
        ("train: {batch_tokens: 1000}", "not a multiple of model.context"),
        ("evaluate: {stride: 100000}", "exceeds model.context"),
        ("train: {steps: 3, warmup_steps: 9}", "exceeds train.steps"),
        ("clean: {test_share: 0.9, validation_share: 0.2}", "must leave documents"),
        ("clean: {strip_marks: ['(']}", "not a regular expression"),
        ("collect: {sources: []}", "at least one source"),
        ("model: {family: mamba}", "'llama'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_the_reason(configs: Path, text: str, match: str) -> None:
    (configs / "loop.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match):
        load_recipe("loop", configs)


def test_an_unknown_recipe_names_the_known_ones(configs: Path) -> None:
    with pytest.raises(RecipeError, match="base, child"):
        load_recipe("nothing", configs)


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=3", "name.first=x"])
def test_a_malformed_override_is_refused(configs: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe("base", configs, (override,))


def test_every_field_has_a_sentence_for_the_form() -> None:
    schema = recipe_schema()
    sections = [schema, *schema["$defs"].values()]
    fields = [(name, field) for section in sections for name, field in section["properties"].items()]
    missing = [name for name, field in fields if not field.get("description") and "$ref" not in str(field)]
    assert missing == []


def test_a_recipe_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().train.steps = 3  # type: ignore[misc]
