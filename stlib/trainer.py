"""The trainers of the two engines: the library's own, and the same one on packed batches. Both keep the head."""

import contextlib
import ctypes
import functools
import os
import platform
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers, DefaultBatchSampler
from torch import distributed, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerState

from stlib import progress
from stlib.data import fingerprint
from stlib.errors import UsageError
from stlib.model import load_head, quiet_loading, save_head
from stlib.pace import PRECISIONS
from stlib.packed import PackedEncoder, gradient_norm
from stlib.profiles import best_precision
from stlib.recipes import Recipe, make_optimizer
from stlib.tokens import TokenisedPairs, tokenise, tokenizer_key

ENGINES = ("packed", "stock")
KEPT = 2  # checkpoints


def default_engine(device: str) -> str:
    """``packed`` where it is proven equal to the library's trainer, which is on a processor; else ``stock``."""
    return "packed" if device == "cpu" else "stock"


class NLITrainer(SentenceTransformerTrainer):
    """The library's trainer, whose checkpoints also hold the classifier head, and whose processes share it.

    The library saves the encoder only, so a resumed run would start again from a random head. With several processes
    it wraps the encoder in DistributedDataParallel, which leaves the head out, so that each process would train a head
    of its own. Here all gradients, the head's too, are averaged in one place.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.trained = [parameter for parameter in self.loss.parameters() if parameter.requires_grad]
        if self.args.world_size > 1:  # no wrapper, then: `training_step` averages the gradients
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)

    def training_step(self, model, inputs, *arguments, **options) -> torch.Tensor:
        loss = super().training_step(model, inputs, *arguments, **options)
        if not torch.isfinite(loss):
            raise UsageError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}, on {self.rows_in_words(inputs)}: look at them, "
                "lower the learning rate, or set STLIB_PRECISION=fp32; the last checkpoint is from before"
            )
        if self.args.world_size > 1:
            average_gradients(self.trained)
        return loss

    def rows_in_words(self, inputs: dict) -> str:
        """Which pairs a batch holds. The library's batches keep no row numbers, so the first text has to do."""
        ids = next(value for name, value in inputs.items() if name.endswith("input_ids"))
        text = self.model.tokenizer.decode(ids[0], skip_special_tokens=True)
        return f"the batch of {len(ids)} pairs that starts with {text!r}"

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        with quiet_loading():
            super()._save(output_dir, state_dict)
        if hasattr(self.loss, "classifier"):  # ranking losses have none
            folder, multiply = Path(output_dir or self.args.output_dir), self.loss.concatenation_sent_multiplication
            save_head(self.loss.classifier, folder, multiply=multiply)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        super()._load_from_checkpoint(checkpoint_path)
        if hasattr(self.loss, "classifier"):
            head, _ = load_head(Path(checkpoint_path))
            self.loss.classifier.load_state_dict(head.state_dict())

    def load_whole(self, checkpoint: str) -> None:
        """Take over weights, head and log of a checkpoint that has nothing left to train."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for work in [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]:
        work.wait()
    torch._foreach_div_(gradients, distributed.get_world_size())


def difference_between_processes(parameters: list[nn.Parameter]) -> float:
    """The largest difference of any parameter between any two processes: 0.0 where training kept them the same."""
    if processes() == 1:
        return 0.0
    flat = torch.cat([parameter.detach().ravel() for parameter in parameters])
    largest, smallest = flat.clone(), flat.clone()
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    distributed.all_reduce(smallest, op=distributed.ReduceOp.MIN)
    return float((largest - smallest).max())


class Embedded(nn.Module):
    """Stands in for the encoder inside a loss: the features it is given are the embeddings already."""

    def forward(self, features: dict, **options) -> dict:
        return features


class PackedTrainer(NLITrainer):
    """The same trainer on packed batches: all columns in one pass of ``PackedEncoder``, then the library's own loss.

    Without dropout, equal sentences have equal embeddings: those of a batch are encoded once. With dropout, each has
    masks of its own, as in the library.

    Args:
        tokens: the file of ``stlib.tokens.tokenise`` for ``train_dataset``; batches hold the rows that the library
            would have drawn. ``train_dataset`` itself is read for the model card only.
        dtype: of the encoder's matrix products.
    """

    def __init__(self, *arguments, tokens: Path, dtype: torch.dtype, **options):
        super().__init__(*arguments, **options)
        self.tokens = TokenisedPairs(tokens, distinct=not has_dropout(self.model))
        self.encoder = PackedEncoder(self.model, dtype)
        self.loss = self.override_model_in_loss(self.loss, Embedded())
        keep_freed_memory()

    def _build_dataloader(self, dataset: Dataset, batch_size: int, dataset_kind: str) -> DataLoader:
        rows = super()._build_dataloader(dataset, batch_size, dataset_kind).batch_sampler
        return DataLoader(self.tokens, batch_sampler=rows, collate_fn=as_it_is)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        label = inputs.get("label")
        with torch.autocast(self.args.device.type, enabled=False):
            embeddings = self.encoder(inputs["ids"], inputs["lengths"])
            if "copies" in inputs:
                embeddings = embeddings[inputs["copies"]]
            columns = embeddings.chunk(len(self.tokens.texts))
            loss = self.loss([{"sentence_embedding": column} for column in columns], label)
        return (loss, {}) if return_outputs else loss

    def rows_in_words(self, inputs: dict) -> str:
        return f"rows {', '.join(map(str, inputs['rows']))} of the training data"

    def _clip_grad_norm(self, model) -> torch.Tensor:
        """As the library does it, over the one buffer that holds all gradients of the encoder."""
        self.accelerator.unscale_gradients()
        gradients = self.encoder.gradients
        norm = gradient_norm(gradients)
        if norm > self.args.max_grad_norm:
            gradients.mul_(self.args.max_grad_norm / (norm + 1e-6))
        return norm


def has_dropout(model: nn.Module) -> bool:
    """Return whether any part of a model drops values at random while it trains."""
    return any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))


class PremisesTogether(Sampler):
    """The numbers of all rows: premises in random order, another one in each epoch, rows with one premise side by side.

    Args:
        premises: the first text column of the rows, n texts.
        seed: of the order.
    """

    def __init__(self, premises: pa.Array, seed: int):
        self.codes = torch.tensor(premises.dictionary_encode().indices.to_numpy(), dtype=torch.long)
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.codes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        place = torch.randperm(int(self.codes.max()) + 1, generator=generator)
        return iter(torch.argsort(place[self.codes], stable=True).tolist())


def premises_together(dataset: Dataset, seed: int, **options) -> DefaultBatchSampler:
    """Return batches of rows in the order of ``PremisesTogether``, for ``batch_sampler`` of the library's arguments."""
    premises = dataset.with_format("arrow")[:].column(0).combine_chunks()
    return DefaultBatchSampler(PremisesTogether(premises, seed), seed=seed, **options)


def as_it_is(batch: dict) -> dict:
    """A batch of ``TokenisedPairs`` comes whole: nothing is left to collate."""
    return batch


def keep_freed_memory() -> None:
    """On Linux, let freed memory stay with the process: a step frees and takes the same blocks again and again.

    Otherwise glibc hands large blocks back at once, and the system has to clear and map them anew: 5 % of a step here
    (``man mallopt``, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD).
    """
    if platform.libc_ver()[0] == "glibc":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


class ProgressBar(TrainerCallback):
    """A bar with step, loss and time left; off where ``TQDM_DISABLE=1``."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress.bar(
            total=state.max_steps, initial=state.global_step, unit="steps", desc="training", delay=0, leave=True,
            disable=not state.is_world_process_zero,
        )  # fmt: skip

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class StopAfter(TrainerCallback):
    """Ends a run early without touching its schedule, which ``max_steps`` of the library would reshape."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.steps:
            control.should_training_stop = control.should_log = control.should_save = True


def training_arguments(
    folder: Path, batch_size: int, recipe: Recipe, epochs: int, seed: int, log_every: int, save_every: int, device: str
):
    """The library's arguments for one run: what ``recipe`` decides beyond them is in its optimizer and schedule."""
    precision = best_precision(device)
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size // processes(),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        logging_steps=log_every,
        logging_nan_inf_filter=False,  # the default would log a loss that is not a number as zero
        save_steps=save_every,
        save_total_limit=KEPT,
        seed=seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        dataloader_drop_last=processes() > 1,  # so that all processes take the same number of steps
        batch_sampler=premises_together if recipe.together else BatchSamplers.BATCH_SAMPLER,
        report_to="none",
        disable_tqdm=True,  # ProgressBar draws the bar
    )


def processes() -> int:
    """How many processes train together: as many as torchrun or accelerate started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_trainer(
    loss: nn.Module, dataset: Dataset, args, recipe: Recipe, total_steps: int, last_step: int, engine: str, tokens: Path
) -> NLITrainer:
    """The trainer for one run. The loss is one of ``losses.make_loss``.

    ``tokens`` is the folder where the packed engine keeps the corpora it has tokenised.
    """
    model = loss.model
    callbacks = [ProgressBar()]
    if last_step < total_steps:
        callbacks.append(StopAfter(last_step))
    options = {
        "model": model,
        "args": args,
        "train_dataset": dataset,
        "loss": loss,
        "optimizers": make_optimizer(recipe, model, getattr(loss, "classifier", None), total_steps),
        "callbacks": callbacks,
    }
    if engine == "packed":
        with args.main_process_first(desc="tokenising"):
            name = f"{fingerprint(dataset)}-{tokenizer_key(model.tokenizer, model.max_seq_length)}.arrow"
            path = tokenise(dataset, model.tokenizer, model.max_seq_length, tokens / name)
        dtype = PRECISIONS[best_precision(args.device.type)]
        trainer = PackedTrainer(tokens=path, dtype=dtype, **options)
    else:
        trainer = NLITrainer(**options)
    trainer.remove_callback(PrinterCallback)
    return trainer
