"""The trainer on packed batches."""

import contextlib
import ctypes
import platform
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from stlib.fast.packed import PackedEncoder
from stlib.fast.tokens import TokenisedPairs
from stlib.trainer import NLITrainer


class PackedTrainer(NLITrainer):
    """The same trainer on packed batches: all columns in one pass of ``PackedEncoder``, then the library's loss.

    Without dropout, equal sentences have equal embeddings: those of a batch are encoded once. With dropout, each has
    its own masks, as in the library. ``tokens`` is the file of ``stlib.fast.tokens.tokenise`` for ``train_dataset``, which
    itself is read for the model card only; ``dtype`` is that of the encoder's matrix products.
    """

    def __init__(self, *arguments, tokens: Path, dtype: torch.dtype, **options):
        super().__init__(*arguments, **options)
        drops = any(module.p > 0 for module in self.model.modules() if isinstance(module, nn.Dropout))
        self.tokens = TokenisedPairs(tokens, distinct=not drops)
        self.encoder = PackedEncoder(self.model, dtype)
        self.loss = self.override_model_in_loss(self.loss, nn.Identity())  # it is given embeddings already
        keep_freed_memory()

    def _build_dataloader(self, dataset: Dataset, batch_size: int, dataset_kind: str) -> DataLoader:
        rows = super()._build_dataloader(dataset, batch_size, dataset_kind).batch_sampler
        return DataLoader(self.tokens, batch_sampler=rows, collate_fn=dict)  # a batch comes whole

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch of token ids, a scalar."""
        label = inputs.get("label")
        with torch.autocast(self.args.device.type, enabled=False):
            embeddings = self.encoder(inputs["ids"], inputs["lengths"])
            if "copies" in inputs:
                # On a processor, an index in brackets adds up its gradient in several threads at once, in another order
                # each time; on a GPU, index_select does.
                copies = inputs["copies"]
                embeddings = embeddings[copies] if embeddings.is_cuda else embeddings.index_select(0, copies)
            columns = embeddings.chunk(len(self.tokens.texts))
            loss = self.loss([{"sentence_embedding": column} for column in columns], label)
        return (loss, {}) if return_outputs else loss

    def _clip_grad_norm(self, model) -> torch.Tensor:
        """Clip as the library does it, the encoder's gradients only, with a norm that is right on every processor."""
        self.accelerator.unscale_gradients()
        return self.encoder.clip(self.args.max_grad_norm)


def keep_freed_memory() -> None:
    """On Linux, let freed memory stay with the process: a step frees and takes the same blocks again and again.

    Otherwise glibc hands large blocks back at once, and the system has to clear and map them again: over 4,000 pages per
    step, 5 % of its time in short batches and 1 % in long ones (``man mallopt``, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD).
    """
    if platform.libc_ver()[0] == "glibc":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
