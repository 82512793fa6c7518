"""What a recipe would cost, told without training it: parameters, floating point operations, memory and time."""

from llm_core.plan.estimate import Plan, plan_recipe
from llm_core.plan.machines import ACCELERATORS, Machine, this_machine
from llm_core.plan.network import Layer, folded, layers_of, on_meta

__all__ = [
    "ACCELERATORS",
    "Layer",
    "Machine",
    "Plan",
    "folded",
    "layers_of",
    "on_meta",
    "plan_recipe",
    "this_machine",
]
