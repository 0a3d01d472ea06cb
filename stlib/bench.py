"""What a training step costs: the library as it comes, the library with every flag it offers, and the packed engine.

All take turns in one run, on the same batches, because timings on a shared machine drift from minute to minute.
"""

import contextlib
import functools
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import SoftmaxLoss
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from transformers import PrinterCallback, TrainerCallback, set_seed

from stlib import data, sources
from stlib.losses import prepare_encoder, prepare_head
from stlib.model import hide_card_bar, load_base
from stlib.pace import PRECISIONS, WEIGHTS, product_rate, tokens_per_row
from stlib.profiles import best_device, best_precision, describe_device
from stlib.recipes import CARD_AS_PRINTED, Recipe, make_optimizer
from stlib.runs import peak_memory_mb, versions
from stlib.tokens import tokenise
from stlib.trainer import PackedTrainer

BATCH = 32
LIBRARY_DEFAULTS = replace(CARD_AS_PRINTED, name="library_defaults", schedule_steps=None)  # the card prints them
SKIPPED = 4  # first steps of a turn that are not timed: kernels are compiled and memory is taken then


@dataclass(frozen=True)
class Variant:
    """One way to train: what the library's trainer is given, or the packed engine.

    AdamW as one fused kernel is the default of the library's trainer, so all variants have it.
    """

    name: str
    engine: str = "stock"
    merged: bool = False  # both columns in one pass
    native: bool = False  # the machine's fastest precision instead of float32
    worker: bool = False  # batches are made by a process of their own

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
LADDER = tuple(VARIANTS[i] for i in (0, 1, 5, 6))  # in this order, each adds one thing to the one before


# Kinds of work in a training step, by parts of the names of torch's operations; the first kind that fits counts.
KINDS = {
    "matrix products": ("mm", "addmm", "linear"),
    "attention": ("bmm", "scaled_dot_product", "softmax", "flash"),
    "dropout and random numbers": ("dropout", "bernoulli", "lt"),
    "optimizer and clipping": ("adam", "Adam", "_foreach_norm", "_foreach_mul", "vector_norm", "dot"),
    "LayerNorm and GELU": ("layer_norm", "gelu"),
    "copies, fills, gathers": ("copy", "fill", "zero", "index", "embedding", "clone", "cat"),
    "sums and products by element": ("add", "mul", "sum"),
}
WHOLE_NAMES = ("mm", "addmm", "linear", "lt", "dot")


def kind_of(name: str) -> str:
    """The kind of work of one of torch's operations, such as ``aten::addmm``; ``the rest`` where none fits."""
    name = name.removeprefix("aten::")
    for kind, parts in KINDS.items():
        if any(name == part if part in WHOLE_NAMES else part in name for part in parts):
            return kind
    return "the rest"


def milliseconds_by_kind(events, steps: int) -> pd.Series:
    """Milliseconds a step in each kind of work, from the ``key_averages()`` of torch's profiler."""
    spent = pd.Series([e.self_cpu_time_total / 1_000 / steps for e in events], [kind_of(e.key) for e in events])
    return spent.groupby(level=0).sum().sort_values(ascending=False)


class Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self):
        self.times, self.losses = [], []

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


@contextlib.contextmanager
def merged_columns():
    """Let ``SoftmaxLoss`` embed both columns in one pass: an option of ``embed_columns`` that the loss does not pass on."""
    module = importlib.import_module(SoftmaxLoss.__module__)
    module.embed_columns = functools.partial(embed_columns, separate_first=False)
    try:
        yield
    finally:
        module.embed_columns = embed_columns


def one_turn(
    variant: Variant, dataset: Dataset, steps: int, seed: int, tokens: Path, recipe: Recipe | None = None
) -> tuple[list[float], float]:
    """Train ``steps`` steps; the seconds of each step after the first few, and the mean loss of all.

    Without a ``recipe`` the library's own defaults train: AdamW at 5e-5 and a linear schedule, head included.
    """
    device, precision = best_device(), variant.precision
    set_seed(seed)
    model = load_base(device)
    model.model_card_data.generate_widget_examples = False
    loss, clock = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3), Clock()
    options = {} if precision == "fp32" else {precision: True}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, save_strategy="no", seed=seed,
            report_to="none", disable_tqdm=True, use_cpu=device == "cpu", logging_steps=steps,
            dataloader_pin_memory=device == "cuda", dataloader_num_workers=int(variant.worker), **options,
        )  # fmt: skip
        shared = {"model": model, "args": args, "train_dataset": dataset, "loss": loss, "callbacks": [clock]}
        if recipe is not None:
            prepare_encoder(recipe, model)
            prepare_head(recipe, loss.classifier)
        if recipe is not None or variant.engine == "packed":
            shared["optimizers"] = make_optimizer(recipe or LIBRARY_DEFAULTS, model, loss.classifier, steps)
        if variant.engine == "packed":
            trainer = PackedTrainer(tokens=tokens, dtype=PRECISIONS[precision], **shared)
        else:
            trainer = SentenceTransformerTrainer(**shared)
        trainer.remove_callback(PrinterCallback)
        with merged_columns() if variant.merged else contextlib.nullcontext():
            trainer.train()
    return np.diff(clock.times)[SKIPPED - 1 :].tolist(), clock.losses[-1]


def compare(
    dataset: Dataset,
    steps: int,
    rounds: int,
    variants: Sequence[Variant] = VARIANTS,
    progress=None,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """Let the variants take turns, ``rounds`` times. The first one is what the others are compared with.

    All train ``recipe``, or without one the library's defaults.

    Returns:
        One row a variant: ``seconds_a_step`` (the median), ``times_stock`` (the median over rounds of the ratio to the
        first variant in the same round), ``share_of_product_rate`` (operations on real tokens a second, as a share of
        ``product_gflops``, the rate of the matrix products alone in the same precision), and more.
    """
    hide_card_bar()
    device, names = best_device(), [variant.name for variant in variants]
    seconds, losses = ({name: [] for name in names} for _ in range(2))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = load_base(device)
        tokens = tokenise(dataset, model.tokenizer, model.max_seq_length, Path(folder) / "tokens.arrow")
        for number in range(rounds):
            shift = number % len(variants)
            for variant in (*variants[shift:], *variants[:shift]):
                times, loss = one_turn(variant, dataset, steps, number, tokens, recipe)
                seconds[variant.name].append(times)
                losses[variant.name].append(loss)
                if progress:
                    progress(f"round {number + 1}, {variant.name}: {np.median(times):.3f} s a step")
    tokens_a_step = tokens_per_row(dataset, model.tokenizer, sample=2_000) * BATCH
    precisions = {variant.precision for variant in variants}
    rates = {name: product_rate(PRECISIONS[name], round(tokens_a_step), device) for name in precisions}
    rows = []
    for variant in variants:
        step = float(np.median(np.concatenate(seconds[variant.name])))
        pairs = zip(seconds[names[0]], seconds[variant.name], strict=True)
        ratios = [float(np.median(first) / np.median(own)) for first, own in pairs]
        rate, loss = rates[variant.precision], float(np.mean(losses[variant.name]))
        rows.append(
            {
                "variant": variant.name,
                "precision": variant.precision,
                "seconds_a_step": round(step, 4),
                "steps_a_second": round(1 / step, 2),
                "pairs_a_second": round(BATCH / step),
                "tokens_a_second": round(tokens_a_step / step),
                "times_stock": round(float(np.median(ratios)), 2),
                "lowest": round(min(ratios), 2),
                "highest": round(max(ratios), 2),
                "product_gflops": round(rate / 1e9),
                "share_of_product_rate": round(6 * WEIGHTS * tokens_a_step / step / rate, 3),
                "loss": round(loss, 4),
                "loss_gap": round(loss - float(np.mean(losses[names[0]])), 4),
            }
        )
    return pd.DataFrame(rows)


def profile_packed(dataset: Dataset, steps: int = 30) -> dict[str, float]:
    """Milliseconds of a packed step by kind of work; "the rest" holds Python and numpy, random numbers among them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = load_base(best_device())
        tokens = tokenise(dataset, model.tokenizer, model.max_seq_length, Path(folder) / "tokens.arrow")
        with profiler(activities=[ProfilerActivity.CPU]) as recorded:
            one_turn(VARIANTS[-1], dataset, steps, seed=0, tokens=tokens)
    return milliseconds_by_kind(recorded.key_averages(), steps).round(1).to_dict()


def peak_memory_of(variant: Variant) -> int:
    """The peak memory of 10 steps of a variant on mini pairs, in MB, measured in a process of its own."""
    code = f"from stlib import bench; bench.print_peak_memory({variant.name!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def print_peak_memory(name: str) -> None:
    variant = next(variant for variant in VARIANTS if variant.name == name)
    dataset = data.nli("train[:640]", sources.Source("mini"))
    hide_card_bar()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "tokens.arrow"
        if variant.engine == "packed":
            model = load_base(best_device())
            tokenise(dataset, model.tokenizer, model.max_seq_length, path)
        one_turn(variant, dataset, 10, seed=0, tokens=path)
    print(peak_memory_mb(best_device()))


def other_costs(dataset: Dataset) -> dict:
    """Seconds and rates of what comes before and after training."""
    model = load_base(best_device())
    sentences = list(dict.fromkeys(dataset["sentence_0"]))[:2_000]
    model.encode(sentences[:64], batch_size=64)
    encode = clocked(lambda: model.encode(sentences, batch_size=64))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "tokens.arrow"
        tokens = clocked(lambda: tokenise(dataset, model.tokenizer, model.max_seq_length, path))
    return {
        "encode_sentences_a_second": round(len(sentences) / encode),
        "tokenise_pairs_a_second": round(len(dataset) / tokens),
        "import_stlib_seconds": round(clocked_python("import stlib"), 2),
        "import_training_seconds": round(clocked_python("import stlib.training"), 2),
        "first_embedding_seconds": round(clocked_python("import stlib; stlib.load_base().encode('one sentence')"), 2),
    }


def clocked(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def clocked_python(code: str) -> float:
    """Seconds of a fresh interpreter that runs ``code``; the better of two, since the first fills the disk cache."""
    return min(clocked(lambda: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(2))


def run(
    dataset: Dataset, steps: int, rounds: int, source: str, split: str, recipe: Recipe | None = None, progress=print
) -> dict:
    """The whole benchmark, as it goes into a record. With a ``recipe``: both engines on it, and nothing else."""
    variants = BOTH_ENGINES if recipe else VARIANTS
    rows = compare(dataset, steps, rounds, variants, progress, recipe)
    trained = f"recipe {recipe.name}, " if recipe else ""
    result = {
        "what": f"{trained}training steps of {BATCH} pairs, {rounds} rounds of {steps} steps; the first {SKIPPED} of a turn not timed",
        "data": f"{len(dataset):,} pairs: {split} from {source}",
        "data_fingerprint": data.fingerprint(dataset),
        "hardware": describe_device(),
        "versions": versions(),
    }
    if recipe:
        return result | {"rows": rows.to_dict("records")}
    rows["peak_memory_mb"] = [peak_memory_of(variant) for variant in VARIANTS]
    return result | {
        "rows": rows.to_dict("records"),
        "packed_step_milliseconds": profile_packed(dataset),
        "other": other_costs(dataset),
    }


def table(result: dict) -> str:
    """The result as text."""
    rows = pd.DataFrame(result["rows"]).drop(columns=["lowest", "highest", "loss"])
    others = [f"{name.replace('_', ' ')}: {value:,}" for name, value in result.get("other", {}).items()]
    return "\n".join([rows.to_string(index=False), "", *others])
