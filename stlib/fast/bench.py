"""What a training step costs: the library as it comes, the library with every flag it offers, and the packed engine.

All take turns in one run, on the same batches, because timings on a shared machine drift from minute to minute.
"""

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.losses.merged_forward import embed_columns
from torch import nn
from torch.utils.benchmark import Timer
from transformers import PrinterCallback, TrainerCallback, set_seed

from stlib import records
from stlib.fast.tokens import tokenise
from stlib.fast.trainer import PackedTrainer
from stlib.model import load_base
from stlib.recipes import CARD_AS_PRINTED, Recipe, head_of, make_loss, make_optimizer, prepare_encoder
from stlib.settings import PRECISIONS, best_device, best_precision

BATCH = 32
LIBRARY_DEFAULTS = replace(CARD_AS_PRINTED, name="library_defaults", schedule_steps=None)  # the card prints them
SKIPPED = 4  # first steps of a turn that are not timed (of a shorter one, half): kernels are compiled, memory is taken
# What a training step multiplies with, outside the embeddings: (inputs, outputs) of each linear map of a layer.
MAPS, LAYERS = ((384, 1_152), (384, 384), (384, 1_536), (1_536, 384)), 6
WEIGHTS, PARAMETERS = LAYERS * sum(a * b for a, b in MAPS), 22_713_216
ROWS = 912  # tokens of a batch of 32 SNLI pairs, on average
# Kinds of work in a training step, by the names of torch's operations: regular expressions; the first kind that fits counts.
KINDS = {
    "matrix products": "^(mm|addmm|linear)$",
    "attention": "bmm|scaled_dot_product|softmax|flash",
    "dropout and random numbers": "dropout|bernoulli|^lt$",
    "optimizer and clipping": "adam|Adam|_foreach_norm|_foreach_mul|vector_norm|^dot$",
    "LayerNorm and GELU": "layer_norm|gelu",
    "copies, fills, gathers": "copy|fill|zero|index|embedding|clone|cat",
    "sums and products by element": "add|mul|sum",
}


class Variant(NamedTuple):
    """One way to train: what the library's trainer is given, or the packed engine. All have AdamW as one fused kernel."""

    name: str
    engine: str = "stock"
    merged: bool = False  # both columns in one pass
    native: bool = False  # the machine's fastest precision instead of float32
    worker: bool = False  # another process makes the batches

    @property
    def precision(self) -> str:
        return best_precision(best_device()) if self.native else "fp32"


VARIANTS = (
    Variant("stock"),
    Variant("stock, one pass", merged=True),
    Variant("stock, bf16", native=True),
    Variant("stock, all flags", merged=True, native=True),
    Variant("stock, all flags, worker", merged=True, native=True, worker=True),
    Variant("packed, fp32", "packed"),
    Variant("packed, bf16", "packed", native=True),
)
BOTH_ENGINES = tuple(VARIANTS[i] for i in (0, 2, 5, 6))
LADDER = tuple(VARIANTS[i] for i in (0, 1, 5, 6))  # in the order of the figure


class Clock(TrainerCallback):
    """Keeps the time at the end of each step."""

    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def one_turn(
    variant: Variant, dataset: Dataset, steps: int, seed: int, tokens: Path, recipe: Recipe = LIBRARY_DEFAULTS
) -> tuple[list[float], float]:
    """Return the seconds of each training step after the first few, and the mean loss of all ``steps``."""
    device, precision = best_device(), variant.precision
    scheduled = replace(recipe, warmup_steps=recipe.warmup_steps or 0, schedule_steps=recipe.schedule_steps or steps)
    set_seed(seed)
    model = prepare_encoder(recipe, load_base(device))
    model.model_card_data.generate_widget_examples = False
    loss, clock = make_loss(recipe, model), Clock()
    one_pass = partial(embed_columns, separate_first=not variant.merged)  # the loss does not pass this option on
    inner = getattr(loss, "loss", loss)  # MatryoshkaLoss has one
    patched = mock.patch(f"{type(inner).forward.__module__}.embed_columns", one_pass)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, patched:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, save_strategy="no", seed=seed,
            report_to="none", disable_tqdm=True, use_cpu=device == "cpu", bf16=precision == "bf16",
            fp16=precision == "fp16", dataloader_pin_memory=device == "cuda", dataloader_num_workers=int(variant.worker),
        )  # fmt: skip
        packed = partial(PackedTrainer, tokens=tokens, dtype=PRECISIONS[precision])
        optimizers = make_optimizer(scheduled, model, head_of(loss))
        make = packed if variant.engine == "packed" else SentenceTransformerTrainer
        trainer = make(model, args, dataset, loss=loss, callbacks=[clock], optimizers=optimizers)
        trainer.remove_callback(PrinterCallback)
        mean_loss = trainer.train().training_loss
    skipped = SKIPPED if steps > SKIPPED else steps // 2
    return np.diff(clock.times)[skipped - 1 :].tolist(), mean_loss


def compare(
    dataset: Dataset, steps: int, rounds: int, variants=VARIANTS, progress=None, recipe=LIBRARY_DEFAULTS
) -> pd.DataFrame:
    """Return what a step of each variant costs, one row per variant, after ``rounds`` turns of each.

    ``seconds_a_step`` is the median over all steps, ``times_stock`` the median over rounds of the ratio to the first
    variant in the same round, with its range ``lowest`` and ``highest``.
    """
    seconds, losses = ({variant.name: [] for variant in variants} for _ in range(2))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = load_base("cpu")
        tokens = tokenise(dataset, model.tokenizer, model.max_seq_length, Path(folder) / "tokens.arrow")
        for number in range(rounds):
            shift = number % len(variants)
            for variant in (*variants[shift:], *variants[:shift]):
                times, loss = one_turn(variant, dataset, steps, number, tokens, recipe)
                seconds[variant.name].append(times)
                losses[variant.name].append(loss)
                if progress:
                    progress(f"round {number + 1}, {variant.name}: {np.median(times):.3f} s per step")
    medians = pd.DataFrame({name: [np.median(times) for times in turns] for name, turns in seconds.items()})
    ratios = medians.rdiv(medians[variants[0].name], axis=0)
    table = pd.DataFrame({"precision": [variant.precision for variant in variants]}, index=medians.columns)
    table["seconds_a_step"] = [round(float(np.median(np.concatenate(turns))), 4) for turns in seconds.values()]
    table["times_stock"], table["lowest"] = ratios.median().round(2), ratios.min().round(2)
    table["highest"], table["loss"] = ratios.max().round(2), pd.DataFrame(losses).mean().round(4)
    return table.rename_axis("variant").reset_index()


def milliseconds_by_kind(events, steps: int) -> pd.Series:
    """Return the milliseconds per step in each kind of work, from the ``key_averages()`` of torch's profiler."""
    spent = pd.Series([event.self_cpu_time_total / 1_000 / steps for event in events])
    return spent.groupby([kind_of(event.key) for event in events]).sum().sort_values(ascending=False)


def kind_of(name: str) -> str:
    """Return the kind of work of one of torch's operations, such as ``aten::addmm``; ``the rest`` if none fits."""
    return next((kind for kind, part in KINDS.items() if re.search(part, name.removeprefix("aten::"))), "the rest")


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of ``work()`` at its fastest: what else the machine does then counts least."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=0.2).times)


@cache
def product_rate(dtype: torch.dtype, rows: int = ROWS, device: str = "cpu") -> float:
    """Return the floating-point operations per second of a step's matrix products, forward and backward, alone on ``rows`` tokens."""
    ones = partial(torch.ones, dtype=dtype, device=device)
    cases = [(ones(rows, a), ones(b, a), ones(rows, b)) for a, b in MAPS]
    return 6 * rows * WEIGHTS / LAYERS / fastest(lambda: [(x @ w.t(), grad @ w, grad.t() @ x) for x, w, grad in cases])


def roofline(precision: torch.dtype) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the roofline of this processor for operations of a training step (Williams et al. 2009, doi 10.1145/1498765.1498785).

    The table has ``intensity`` (operations for each byte read or written) and ``gflops`` (10^9 operations per second);
    the ceilings are the bandwidth in bytes per second and the rate of products in each precision. By convention, GELU
    takes 10 operations per value, LayerNorm 8, AdamW 12.
    """
    source, target, values = torch.ones(2**26), torch.ones(2**26), torch.randn(ROWS, 384)
    ceilings = {"bandwidth": 2 * source.nbytes / fastest(lambda: target.copy_(source))}  # 256 MB: more than caches hold
    parameter, cases = nn.Parameter(source[:PARAMETERS]), []
    parameter.grad = target[:PARAMETERS]
    for name in ["fp32", *(name for name, dtype in PRECISIONS.items() if dtype == precision != torch.float32)]:
        ceilings[name] = product_rate(PRECISIONS[name])
        x, weight = (torch.randn(size, 384).to(PRECISIONS[name]) for size in (ROWS, 1_536))
        wide = x @ weight.t()
        moved = x.nbytes + weight.nbytes + wide.nbytes
        cases.append((f"matrix product, {name}", 2 * ROWS * weight.numel(), moved, partial(torch.mm, x, weight.t())))
        cases.append((f"GELU, {name}", 10 * wide.numel(), 2 * wide.nbytes, partial(nn.functional.gelu, wide)))
    norm, update = partial(nn.functional.layer_norm, values, (384,)), torch.optim.AdamW([parameter], fused=True).step
    cases.append(("LayerNorm, fp32", 8 * values.numel(), 2 * values.nbytes, norm))
    cases.append(("AdamW, fp32", 12 * PARAMETERS, 28 * PARAMETERS, update))
    table = [(name, work / moved, work / fastest(call) / 1e9) for name, work, moved, call in cases]
    return pd.DataFrame(table, columns=["operation", "intensity", "gflops"]), ceilings


def expected_seconds(model: nn.Module, dataset: Dataset, rows: int, engine: str, precision: str) -> float:
    """Return how long it will take to train on ``rows`` rows of ``dataset`` on this machine's processor.

    The products of a step are timed here; how much of a step they are differs less from machine to machine than their
    rate does, and comes from ``stlib/records/bench_cpu.json``. The first 256 rows stand for the length of all.
    """
    shares = {row["variant"]: row["share_of_product_rate"] for row in records.load("bench_cpu")["rows"]}
    share = next(shares[name] for name in (f"{engine}, {precision}", engine) if name in shares)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    texts = [column for column in dataset[:256].values() if isinstance(column[0], str)]
    tokens = sum(len(ids) for column in texts for ids in model.tokenizer(column)["input_ids"]) / len(texts[0])
    return 6 * weights * rows * tokens / product_rate(PRECISIONS[precision]) / share


def in_words(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is: ``40 seconds``, ``3 minutes``, ``4.5 hours``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 90 * 60 else f"{seconds / 3_600:.1f} hours"
