"""Recipes and their sections."""

from llm_core.config.data import (
    C4,
    Boilerplate,
    Clean,
    Collect,
    Contract,
    FineWeb,
    Gopher,
    Language,
    Markup,
    Pii,
    Tokenize,
    Tokenizer,
    Toxicity,
    Workers,
)
from llm_core.config.model import Deploy, Evaluate, Gate, Guard, Model, Register, Train
from llm_core.config.recipe import Recipe, RecipeError, load_recipe, override, parse_recipe, recipe_names, recipe_schema
from llm_core.config.section import Section
from llm_core.config.suites import SuiteSpec

__all__ = [
    "Boilerplate",
    "C4",
    "Clean",
    "Collect",
    "Contract",
    "Deploy",
    "Evaluate",
    "FineWeb",
    "Gate",
    "Gopher",
    "Guard",
    "Language",
    "Markup",
    "Model",
    "Pii",
    "Recipe",
    "RecipeError",
    "Register",
    "Section",
    "SuiteSpec",
    "Tokenize",
    "Tokenizer",
    "Toxicity",
    "Train",
    "Workers",
    "load_recipe",
    "override",
    "parse_recipe",
    "recipe_names",
    "recipe_schema",
]
