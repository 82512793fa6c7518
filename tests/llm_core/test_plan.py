"""Plans against the real thing: parameters, counted operations, saved activations, memory in use."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llm_core.config import Model, Recipe, Train, load_recipe, parse_recipe
from llm_core.data import Windows
from llm_core.devices import product_rate
from llm_core.models import FAMILIES, build
from llm_core.objectives import Causal, make_objective
from llm_core.operations import Sequences, operations_of, sequences_of
from llm_core.parallel import share
from llm_core.plan import ACCELERATORS, folded, layers_of, on_meta, plan_recipe
from llm_core.plan.machines import precision_on, this_machine
from llm_core.plan.memory import activation_bytes, rows_at_once
from llm_core.plan.network import cache_bytes_per_token, parameters_of
from llm_core.working_copy import micro_rows

CONFIGS = Path(__file__).parents[2] / "configs"
LADDER = {"1m": 1e6, "10m": 1e7, "30m": 3e7, "100m": 1e8, "300m": 3e8, "1b": 1e9}
VOCAB = 320
FAMILY_NAMES = [family for family in FAMILIES if find_spec(f"llm_core.models.{family}")]


def small(family: str = "llama", **changes: Any) -> Model:
    values = {"num_layers": 3, "width": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 80, "context": 16}
    return Model.model_validate({"family": family, **values, **changes})


def recipe_of(model: Model, vocab_size: int = VOCAB, **train: Any) -> Recipe:
    values = {"train": {"batch_tokens": 4 * model.context, **train}, "tokenizer": {"vocab_size": vocab_size}}
    return parse_recipe({"model": model.model_dump(), "evaluate": {"stride": 8}, **values}, where="test")


def inputs_of(sequences: Sequences, rows: int, vocab_size: int = VOCAB) -> list[torch.Tensor]:
    return [torch.randint(0, vocab_size, (rows, length)) for length in sequences[:2] if length]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_planned_parameters_are_the_real_networks(family: str) -> None:
    shape = small(family)
    real, planned = build(shape, VOCAB, end_id=0, seed=1), on_meta(recipe_of(shape))
    assert [(n, p.shape) for n, p in planned.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]
    count = parameters_of(planned, shape)
    assert count.total == sum(p.numel() for p in real.parameters())
    assert count.embedding >= VOCAB * shape.width and count.per_layer > 0 and count.rest >= 0


def test_the_parts_of_a_decoder_add_up() -> None:
    count = parameters_of(on_meta(recipe_of(small())), small())
    assert (count.embedding, count.head, count.rest) == (VOCAB * 32, VOCAB * 32, 32)
    assert count.total == 2 * VOCAB * 32 + 3 * count.per_layer + 32
    assert count.per_layer == 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 80 + 2 * 32


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_operations_are_those_that_torch_counts(family: str, tied: bool) -> None:
    shape = small(family, tie_embeddings=tied)
    sequences = Sequences(11, 7, 7) if family in ("t5", "transformer") else Sequences(0, 16, 16)
    model: Any = build(shape, VOCAB, end_id=0, seed=1)
    # Torch does not count the operations of the CPU's own kernels.
    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        with FlopCounterMode(display=False) as forward:
            logits = model(*inputs_of(sequences, rows=2)).logits
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    work = operations_of(model, shape, sequences)
    assert forward.get_total_flops() == 2 * work.forward
    # The state that an LSTM begins with asks for no gradient.
    spared = 2 * shape.num_layers * 4 * shape.width**2 if family == "lstm" else 0
    assert backward.get_total_flops() == 2 * (work.backward - spared)


def test_recompute_costs_the_blocks_forward_pass_again() -> None:
    model, sequences = on_meta(recipe_of(small())), Sequences(0, 16, 16)
    plain, again = (operations_of(model, small(), sequences, recompute) for recompute in (False, True))
    assert again.training - plain.training == plain.matrices + plain.attention


def test_six_operations_per_parameter_is_what_a_wide_network_comes_to() -> None:
    shape = small(width=512, mlp_width=1408, num_kv_heads=4)
    model = on_meta(recipe_of(shape))
    work = operations_of(model, shape, Sequences(0, 16, 16))
    multiplied = parameters_of(model, shape).total - VOCAB * 512
    assert work.training / 16 == pytest.approx(6 * multiplied, rel=0.01)


@pytest.mark.parametrize(
    ("family", "objective", "expected"),
    [
        ("llama", "auto", (0, 100, 100)),
        ("gpt2", "auto", (0, 100, 100)),
        ("bert", "auto", (0, 100, 15)),
        ("t5", "auto", (90, 21, 21)),  # 15 of 100 in 5 spans: 85 + 5 marks, 15 + 5 marks + the last one
    ],
)
def test_what_a_sequence_becomes_follows_the_objective(
    family: str, objective: str, expected: tuple[int, int, int]
) -> None:
    cfg = Train.model_validate({"objective": objective, "batch_tokens": 100})
    assert sequences_of(small(family, context=100), cfg) == expected


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_counted_sequence_is_the_one_that_is_trained_on(family: str) -> None:
    shape, cfg = small(family, context=96), Train(batch_tokens=96, mask_share=0.3)
    batch = make_objective(cfg, shape, VOCAB, end_id=0)(Windows(np.full((2, 97), 7), None, [(0,), (1,)]))
    with_decoder = "decoder_input_ids" in batch.inputs
    source = batch.inputs["input_ids"].shape[1] if with_decoder else 0
    assert sequences_of(shape, cfg) == (source, batch.targets.shape[1], batch.num_counted // 2)


def test_a_llamas_activations_are_the_formulas() -> None:
    C, H, G, D, M, T, L = 32, 4, 2, 8, 80, 16, 3
    saved = activation_bytes(on_meta(recipe_of(small())), small(), Sequences(0, T, T), torch.bfloat16, rows=5)
    less = activation_bytes(on_meta(recipe_of(small())), small(), Sequences(0, T, T), torch.bfloat16, rows=4)
    of_layers = L * T * (6 * C + 2 * G * D + 3 * M + H * T + 2) * 2
    ids_and_last_norm = T * 8 + T * (2 * C + 1) * 2 - T * C * 2  # the last norm's result is the head's input
    assert saved - less == pytest.approx(of_layers + ids_and_last_norm, rel=0.01)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_planned_activations_are_those_that_are_saved(family: str, dtype: torch.dtype) -> None:
    shape, rows = small(family), 3
    sequences = sequences_of(shape, Train(batch_tokens=64))
    planned = activation_bytes(on_meta(recipe_of(shape)), shape, sequences, dtype, rows)
    model: Any = build(shape, VOCAB, end_id=0, seed=1).to(dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model.features(*inputs_of(sequences, rows))
    assert result.requires_grad
    close = 0.2 if family == "lstm" else 0.02  # its kernel's own memory is a measured figure
    assert planned == pytest.approx(sum(storage.nbytes() for storage in saved.values()), rel=close)


def test_planning_leaves_nothing_behind_that_a_training_could_stumble_over() -> None:
    shape = small()
    plan_recipe(recipe_of(shape, precision="bfloat16"), [ACCELERATORS["a100"]])
    activation_bytes(on_meta(recipe_of(shape)), shape, Sequences(0, 16, 16), torch.bfloat16, rows=1)
    model: Any = build(shape, VOCAB, end_id=0, seed=1).to(torch.bfloat16)
    logits = model(torch.zeros(1, 16, dtype=torch.int64)).logits
    assert type(logits.detach()) is torch.Tensor and bool(logits.isfinite().all())


def test_what_saves_memory_is_planned_to_save_it() -> None:
    def peak(**train: Any) -> int:
        recipe = recipe_of(small(context=64, num_layers=6), batch_tokens=64 * 32, **train)
        return plan_recipe(recipe, [ACCELERATORS["h100"]]).machines[0].memory.peak

    assert peak(recompute=True) < 0.5 * peak()
    assert peak(micro_batch_tokens=64) < 0.2 * peak()
    assert peak(micro_batch_tokens=64, distributed="fsdp", ranks=2) < 0.7 * peak(micro_batch_tokens=64)
    assert peak(micro_batch_tokens=64, ema=0.9) > peak(micro_batch_tokens=64)


@pytest.mark.parametrize("micro_batch_tokens", [0, 64, 512, 2048])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_planned_rows_are_those_that_a_rank_computes_at_once(micro_batch_tokens: int, num_ranks: int) -> None:
    spread = {"ranks": num_ranks, "distributed": "ddp"} if num_ranks > 1 else {}
    recipe = recipe_of(small(context=64), batch_tokens=64 * 32, micro_batch_tokens=micro_batch_tokens, **spread)
    batch = Causal()(Windows(np.full((32, 65), 7), None, [(0,)] * 32))
    ranks = SimpleNamespace(size=num_ranks, rank=0)
    parts = share(batch, ranks, micro_rows(recipe.train, batch))  # type: ignore[arg-type]
    assert rows_at_once(recipe.model, recipe.train) == max(len(part.targets) for part in parts)


def test_the_cache_holds_keys_and_values_of_every_layer() -> None:
    model: Any = build(small(), VOCAB, end_id=0, seed=1).bfloat16()
    cache: Any = model.new_cache(batch_size=1, max_tokens=10)
    tensors = [value for value in vars(cache).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == 10 * cache_bytes_per_token(small())
    assert cache_bytes_per_token(small("lstm")) == cache_bytes_per_token(small("bert")) == 0


def test_a_plan_says_tokens_time_and_whether_it_fits() -> None:
    recipe = recipe_of(small(), steps=30, warmup_steps=1)
    plan = plan_recipe(recipe, [ACCELERATORS["a100"]])
    on = plan.machines[0]
    assert (plan.tokens, plan.steps) == (30 * 64, 30)
    assert plan.training_flops == plan.operations.training * 30 * 4
    assert on.seconds == pytest.approx(plan.training_flops / (312e12 * 0.4)) and on.fits
    assert plan_recipe(recipe, [ACCELERATORS["a100"]], tokens=6401).steps == 101


def test_epochs_without_data_need_a_number_of_tokens() -> None:
    recipe = recipe_of(small(), epochs=2)
    with pytest.raises(ValueError, match="train.epochs 2.0: .* give --tokens"):
        plan_recipe(recipe, [ACCELERATORS["a100"]])
    assert plan_recipe(recipe, [ACCELERATORS["a100"]], tokens=640).steps == 10


def test_like_parameters_of_blocks_are_one_line() -> None:
    layers = layers_of(on_meta(recipe_of(small())))
    lines = {line.name: line for line in folded(layers)}
    assert lines["model.layers.0..2.mlp.up_proj.weight"].shape == (80, 32)
    assert sum(line.parameters for line in lines.values()) == sum(layer.parameters for layer in layers)
    assert len(lines) == 9 + 3
    recurrent = [line.name for line in folded(layers_of(on_meta(recipe_of(small("lstm")))))]
    assert "model.lstm.weight_hh_l0..2" in recurrent


def test_a_machines_rate_is_measured_in_about_the_time_it_is_given() -> None:
    machine = this_machine(seconds=0.02)
    assert machine.float32_rate > 1e8 and machine.memory_bytes > 1e8
    before = torch.get_rng_state()
    assert product_rate(torch.device("cpu"), torch.float32, 0.01, size=64) > 0
    assert torch.equal(torch.get_rng_state(), before)  # a training's dropout does not follow from the speed
    assert precision_on(ACCELERATORS["h100"], "auto") == torch.bfloat16
    assert precision_on(ACCELERATORS["h100"], "float32") == torch.float32


def test_the_demos_references_have_as_many_parameters_as_the_demo() -> None:
    demo = load_recipe("demo", CONFIGS)
    mine, *others = (
        sum(tensor.numel() for tensor in on_meta(load_recipe(name, CONFIGS)).parameters())
        for name in ("demo", *demo.gate.references)
    )
    assert others and all(abs(other / mine - 1) < 0.02 for other in others)


@pytest.mark.parametrize("size", LADDER)
def test_a_rung_of_the_ladder_has_the_parameters_of_its_name(size: str) -> None:
    recipe = load_recipe(f"ladder/{size}", CONFIGS)
    assert parameters_of(on_meta(recipe), recipe.model).total == pytest.approx(LADDER[size], rel=0.1)
    assert recipe.register_.line == recipe.name


def test_the_ladder_is_complete() -> None:
    assert {path.stem for path in (CONFIGS / "ladder").glob("*.yaml")} == set(LADDER)


def test_the_largest_rung_fits_an_accelerator_as_it_is_and_not_in_whole_batches() -> None:
    fits = {
        micro: plan_recipe(load_recipe("ladder/1b", CONFIGS, (micro,)), [ACCELERATORS["a100"]]).machines[0].fits
        for micro in ("train.micro_batch_tokens=16384", "train.micro_batch_tokens=0")
    }
    assert list(fits.values()) == [True, False]
