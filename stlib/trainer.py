"""The library's trainer, with what a head and several processes need, its arguments, and a bar."""

import functools
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers, DefaultBatchSampler
from torch import distributed, nn
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState

from stlib.errors import UsageError
from stlib.model import load_head, quiet_loading, save_head
from stlib.recipes import head_of
from stlib.runs import RunConfig
from stlib.settings import processes, progress_bar

KEPT = 2  # checkpoints


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
        """Take the library's step; stop at a loss that is no number, and average the gradients over all processes."""
        loss = super().training_step(model, inputs, *arguments, **options)
        if not torch.isfinite(loss):
            raise UsageError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}, on {self.rows_in_words(inputs)}: look at them, "
                "lower the learning rate, or set STLIB_PRECISION=fp32; the last checkpoint is from before"
            )
        if self.args.world_size > 1:
            gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
            for work in [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]:
                work.wait()
            torch._foreach_div_(gradients, self.args.world_size)
        return loss

    def rows_in_words(self, inputs: dict) -> str:
        """Return which pairs a batch holds. The library's batches keep no row numbers, so their first text has to do."""
        if "rows" in inputs:
            return f"rows {', '.join(map(str, inputs['rows']))} of the training data"
        ids = next(value for name, value in inputs.items() if name.endswith("input_ids"))
        text = self.model.tokenizer.decode(ids[0], skip_special_tokens=True)
        return f"the batch of {len(ids)} pairs that starts with {text!r}"

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        with quiet_loading():
            super()._save(output_dir, state_dict)
        if head_of(self.loss) is not None:
            folder = Path(output_dir or self.args.output_dir)
            save_head(self.loss.classifier, folder, multiply=self.loss.concatenation_sent_multiplication)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        super()._load_from_checkpoint(checkpoint_path)
        if head_of(self.loss) is not None:
            self.loss.classifier.load_state_dict(load_head(Path(checkpoint_path)).state_dict())

    def load_whole(self, checkpoint: str) -> None:
        """Load weights, head and log of a checkpoint that has nothing left to train."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def difference_between_processes(*modules: nn.Module) -> float:
    """Return the largest difference of any parameter between any two processes: 0.0 if training kept them the same."""
    if processes() == 1:
        return 0.0
    flat = torch.cat([parameter.detach().ravel() for module in modules for parameter in module.parameters()])
    extremes = torch.stack([flat, -flat])  # afterwards: the largest, and minus the smallest
    distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
    return float(extremes.sum(0).max())


class PremisesTogether(Sampler):
    """The numbers of all rows: premises in random order, another one in each epoch, rows with one premise side by side.

    ``premises`` is the first text column of the rows, n texts.
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


class ProgressBar(TrainerCallback):
    """A bar with step, of ``steps`` or all, loss and time left; off if ``TQDM_DISABLE=1``."""

    def __init__(self, steps: int | None = None):
        self.steps = steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress_bar(
            total=self.steps or state.max_steps, initial=state.global_step, unit="steps", desc="training", delay=0, leave=True,
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


def training_arguments(config: RunConfig, folder: Path) -> SentenceTransformerTrainingArguments:
    """Return the library's arguments for a run: what its recipe decides beyond them is in its optimizer and schedule."""
    recipe, every = config.recipe, config.log_every
    sampler = BatchSamplers.NO_DUPLICATES if recipe.no_duplicates else BatchSamplers.BATCH_SAMPLER
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=recipe.batch_size // config.processes,
        learning_rate=recipe.learning_rate,  # this and the next two are for the card: ``make_optimizer`` decides
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        logging_steps=every,
        logging_nan_inf_filter=False,  # the default would log a loss that is not a number as zero
        # Checkpoints fall on rows of the log, so that the first row after a resumed one averages over all of its steps.
        save_steps=max(1, min(1_000, config.last_step // 2 + every - 1) // every) * every,
        save_total_limit=KEPT,
        seed=config.seed,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        use_cpu=config.device == "cpu",
        dataloader_pin_memory=config.device == "cuda",
        dataloader_drop_last=config.processes > 1,  # so that all processes take the same number of steps
        batch_sampler=premises_together if recipe.together else sampler,
        report_to="none",
        disable_tqdm=True,  # ProgressBar draws the bar
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # two cards in one process would halve the number of steps
    return arguments
