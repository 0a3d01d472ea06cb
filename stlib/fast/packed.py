"""The fast path: all sentences of a batch in one pass, without padding, in the processor's fastest number format.

The library pads every sentence to the longest of its column and runs one pass per column. Here the tokens of all
sentences lie one after another as the rows of one matrix, so that every matrix product works on real tokens only.
Attention is the one place where a token has to know its sentence: there, sentences of similar length are laid out as
blocks. The idea is that of variable-length attention (Zhai et al. 2022, ByteTransformer, arXiv 2210.03052).

The weights are the model's own parameters, and the backward pass is autograd's. One written by hand takes as long, give or
take 2 % (``stlib/records/engine_choice.json``), and a hundred lines more. ``tests/test_packed.py`` holds ours against the library.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from stlib.errors import UsageError
from stlib.settings import processes

# Attention blocks have a multiple of so many positions: softmax over other widths falls off torch's vectorised path.
BLOCK_MULTIPLE = 16
# Packed rows are filled up to a multiple of this with spare rows (under 2 % at batch 32): for each new number of rows,
# oneDNN first compiles kernels, which takes longer than to run them.
ROW_MULTIPLE = 32
NORM_BLOCK = 4_096  # numbers whose squares are summed in float32


class Block(NamedTuple):
    """Sentences whose attention is computed together: ``count`` of them, each on ``length`` positions."""

    count: int
    length: int
    rows: slice  # its part of the rows of one of query, key, value: count x heads x length
    cells: slice  # its part of the attention probabilities: count x heads x length x length
    bias: Tensor  # 0 at a sentence's own tokens, minus infinity elsewhere; (count x heads, 1, length)


class Packing:
    """Where each token of a batch lies: in the packed matrix, and in the blocks of attention of so many ``heads``.

    ``lengths`` are the tokens of each sentence, n whole numbers above zero; index tensors go to ``device``.
    """

    def __init__(self, lengths: Sequence[int], heads: int, device: torch.device | str = "cpu"):
        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

        lengths = np.asarray(lengths, dtype=np.int64)
        self.tokens = int(lengths.sum())
        self.rows = (self.tokens // ROW_MULTIPLE + 1) * ROW_MULTIPLE  # one spare row at least
        widths = -(-lengths // BLOCK_MULTIPLE) * BLOCK_MULTIPLE
        order = np.argsort(widths, kind="stable")  # sentences of one block lie side by side
        packed = lengths[order]
        starts = np.cumsum(packed) - packed
        positions = np.arange(self.tokens) - np.repeat(starts, packed)
        given = np.cumsum(lengths) - lengths  # where each sentence starts in the order given

        query, to_blocks, to_tokens = [], [], np.zeros((self.rows, heads), dtype=np.int64)
        self.blocks, row, cell, head = [], 0, 0, np.arange(heads)
        for width in np.unique(widths):
            members, place = np.flatnonzero(widths[order] == width), np.arange(width)
            inside = place < packed[members, None]  # (count, width)
            token = np.where(inside, starts[members, None] + place, self.tokens)  # a spare row if there is no token
            index = token[:, None, :] * heads + head[:, None]  # (count, heads, width)
            to_blocks.append(index.ravel())
            query.append((token[:, None, :] * 3 * heads + head[:, None]).ravel())
            here = row + np.arange(index.size).reshape(index.shape)
            to_tokens[token[inside]] = here.transpose(0, 2, 1)[inside]
            bias = np.where(inside, 0.0, -np.inf).astype(np.float32).repeat(heads, axis=0)[:, None, :]
            rows, cells = slice(row, row + index.size), slice(cell, cell + index.size * int(width))
            self.blocks.append(Block(len(members), int(width), rows, cells, tensor(bias)))
            row, cell = rows.stop, cells.stop
        self.block_rows, self.cells = row, cell

        query = np.concatenate(query)
        self.source = tensor(np.repeat(given[order], packed) + positions)  # packed token -> token in the order given
        self.positions = tensor(np.pad(positions, (0, self.rows - self.tokens)))
        self.qkv_to_blocks = tensor(np.concatenate([query, query + heads, query + 2 * heads]))
        self.to_blocks = tensor(np.concatenate(to_blocks))
        self.to_tokens = tensor(to_tokens.ravel())
        self.qkv_to_tokens = tensor((to_tokens[:, None, :] + np.arange(3)[:, None] * row).ravel())
        means, sentence = np.zeros((len(lengths), self.rows), dtype=np.float32), np.repeat(order, packed)
        means[sentence, np.arange(self.tokens)] = 1 / lengths[sentence]
        self.means = tensor(means)  # times the packed matrix: mean pooling, in the order given

    def pack(self, ids: Tensor) -> Tensor:
        """Return the token ids of the batch, one sentence after another, as packed rows; spare rows get id 0, [PAD]."""
        return nn.functional.pad(ids.index_select(0, self.source), (0, self.rows - self.tokens))


class Masks:
    """The dropout masks of one training step; None if the probability (of hidden values, of attention) is 0.

    On a processor, torch's own generator takes longer than a matrix product. numpy's SFC64 is ten times as fast; with
    16 random bits per value, p is exact to 1/65,536. It is seeded from torch's generator, so that a run is decided by
    torch's seed and resumes exactly.
    """

    def __init__(self, packing: Packing, layers: int, size: int, p: tuple[float, float], dtype: torch.dtype):
        device = packing.positions.device
        bits = np.random.SFC64(int(torch.randint(2**31, ()))) if device.type == "cpu" else None
        # For the embedding layer and the two outputs of each layer: 1, or 0 with probability p. What is kept is scaled
        # by 1 / (1 - p) later, where more digits are kept.
        self.hidden = draw((2 * layers + 1, packing.rows, size), p[0], dtype, device, bits)
        self.scale = 1 / (1 - p[0])
        # For the attention probabilities of each layer: 1 / (1 - p), or 0.
        self.attention = draw((layers, packing.cells), p[1], torch.float32, device, bits)
        if self.attention is not None:
            self.attention.mul_(1 / (1 - p[1]))

    def of_layer(self, number: int) -> tuple[Tensor | None, Tensor | None, Tensor | None, float]:
        """Return the dropout masks of one layer (attention, both outputs) and the scale of the outputs' masks."""
        attention = None if self.attention is None else self.attention[number]
        first, second = (None, None) if self.hidden is None else self.hidden[2 * number + 1 : 2 * number + 3]
        return attention, first, second, self.scale


def draw(shape: tuple[int, ...], p: float, dtype: torch.dtype, device: torch.device, bits) -> Tensor | None:
    """Return a tensor of 0 with probability p, else 1: from the bit generator ``bits``, or torch's own if that is None."""
    if p == 0:
        return None
    keep = torch.empty(shape, dtype=dtype, device=device)
    if bits is None:
        return keep.bernoulli_(1 - p)
    values = math.prod(shape)
    random = torch.from_numpy(bits.random_raw(-(-values // 4)).view(np.int16)[:values]).view(shape)
    return torch.lt(random, round((1 - p) * 65_536) - 32_768, out=keep)


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all numbers of float32 tensors, a scalar tensor, float64.

    One float32 sum over 22.7 million squares loses up to four digits, depending on the processor's kernel. So blocks
    are summed in float32, and their norms in float64.
    """
    norms = []
    for flat in (gradient.ravel() for gradient in gradients):
        whole = flat[: len(flat) // NORM_BLOCK * NORM_BLOCK].view(-1, NORM_BLOCK)
        norms += [torch.linalg.vector_norm(whole, dim=1), torch.linalg.vector_norm(flat[whole.numel() :])[None]]
    return torch.linalg.vector_norm(torch.cat(norms).cpu().double())  # on the processor: some GPUs have no float64


class Words(torch.autograd.Function):
    """Rows of the word embeddings. Autograd would make a fresh gradient of the whole vocabulary in each step, 47 MB."""

    @staticmethod
    def forward(ctx, weight, ids, encoder):
        ctx.ids, ctx.encoder = ids, encoder
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        ctx.encoder.add_to_words(ctx.ids, grad)
        return None, None, None


class Take(torch.autograd.Function):
    """Rows of a matrix by the numbers ``there``. Its gradient is gathered by the numbers ``back``; from row ``stop`` on it is 0.

    Autograd would add it up row by row, which takes several times as long.
    """

    @staticmethod
    def forward(ctx, values, there, back, stop):
        ctx.back, ctx.stop = back, stop
        return values.index_select(0, there)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.index_select(0, ctx.back)
        grad[ctx.stop :] = 0
        return grad, None, None, None


class PackedEncoder:
    """Embeds sentences with the weights of a ``SentenceTransformer``, packed, with gradients for its parameters.

    The model is a BERT encoder with mean pooling (UsageError for others); modules after the pooling, such as Normalize,
    run as they are. ``dtype`` is that of the matrix products; the parameters themselves stay float32.
    """

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype = torch.float32):
        self.check(model)
        bert = model[0].auto_model
        self.model, self.embeddings, self.layers, self.dtype = model, bert.embeddings, bert.encoder.layer, dtype
        self.heads, self.size = bert.config.num_attention_heads, bert.config.hidden_size
        self.word, self.touched = self.embeddings.word_embeddings.weight, None
        self.word_blocks = self.word.new_zeros(-(-self.word.numel() // NORM_BLOCK), NORM_BLOCK)  # its gradient

    @staticmethod
    def check(model: SentenceTransformer) -> None:
        """Raise UsageError for a model that this engine is not proven on."""
        bert = getattr(model[0], "auto_model", None)
        if type(bert).__name__ != "BertModel" or bert.config.hidden_act != "gelu" or bert.config.is_decoder:
            raise UsageError("the packed engine knows BERT encoders with gelu only: use --engine stock for this model")
        pooling = model[1] if len(model) > 1 else None
        if not isinstance(pooling, Pooling) or pooling.pooling_mode != "mean":
            raise UsageError("the packed engine knows mean pooling only: use --engine stock for this model")

    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the embeddings (n, d) of n sentences of so many tokens: ``ids``, one after another, [CLS] and [SEP] included."""
        packing = Packing(lengths, self.heads, ids.device)
        with torch.autocast(ids.device.type, enabled=False):
            drops = (self.embeddings.dropout, self.layers[0].attention.self.dropout)
            p = tuple(part.p if self.model.training else 0.0 for part in drops)  # of hidden values, of attention
            masks = Masks(packing, len(self.layers), self.size, p, self.dtype)
            x = self.embed(packing.pack(ids), packing.positions, masks)
            for number, layer in enumerate(self.layers):
                x = self.layer(x, layer, packing, masks.of_layer(number))
            features = {"sentence_embedding": packing.means @ x}
            for module in list(self.model)[2:]:
                features = module(features)
        return features["sentence_embedding"]

    def add_to_words(self, ids: Tensor, grad: Tensor) -> None:
        """Add row i of ``grad`` to the gradient of word ``ids[i]``, and keep which rows of it are not zero."""
        if self.word.grad is None:  # last step's rows are all that is not zero, unless other processes added theirs
            known = self.touched is not None and processes() == 1
            buffer = self.word_blocks.view(-1)[: self.word.numel()].view_as(self.word)
            self.word.grad = buffer.index_fill_(0, self.touched, 0) if known else buffer.zero_()
            self.touched = ids[:0]
        self.word.grad.index_add_(0, ids, grad)
        self.touched = torch.cat([self.touched, ids])

    def clip(self, largest: float) -> Tensor:
        """Scale the gradients to the norm ``largest`` if theirs is larger, as the library does; return theirs, a scalar."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None and p is not self.word]
        blocks = self.touched_blocks()
        norm = gradient_norm([*gradients, words := self.word_blocks[blocks]])
        if norm > largest:
            torch._foreach_mul_([*gradients, words], float(largest / (norm + 1e-6)))
            self.word_blocks[blocks] = words
        return norm

    def touched_blocks(self) -> Tensor:
        """Return which blocks of the words' gradient may be other than zero: a few hundred of thousands after most batches."""
        if self.word.grad is None:
            return torch.empty(0, dtype=torch.long)
        if processes() > 1:
            return torch.arange(len(self.word_blocks))
        width = self.word.shape[1]
        numbers = torch.tensor([*range(0, width, NORM_BLOCK), width - 1], device=self.touched.device)
        return ((self.touched[:, None] * width + numbers) // NORM_BLOCK).unique()

    def embed(self, ids: Tensor, positions: Tensor, masks: Masks) -> Tensor:
        """Return word + position + type embeddings after LayerNorm and dropout: packed rows (rows, d), float32."""
        parts = self.embeddings
        x = Words.apply(self.word, ids, self) + parts.position_embeddings(positions)
        x = parts.LayerNorm(x + parts.token_type_embeddings.weight[0])
        return x if masks.hidden is None else x * masks.hidden[0].float().mul_(masks.scale)

    def layer(self, x: Tensor, layer: nn.Module, packing: Packing, masks: tuple) -> Tensor:
        """Return one BERT layer of packed rows, (rows, d) to (rows, d), float32."""
        attention, output = layer.attention.self, layer.attention.output
        attention_mask, attended_mask, fed_mask, scale = masks
        # attention, block by block
        head, count = self.size // self.heads, len(packing.blocks)
        qkv = self.linear(x, attention.query, attention.key, attention.value).view(-1, head)
        flat = Take.apply(qkv, packing.qkv_to_blocks, packing.qkv_to_tokens, 3 * self.heads * packing.tokens)
        # In blocks, attention runs in float32: its products are small, and softmax wants the digits.
        parts = flat.float().split([block.rows.stop - block.rows.start for block in packing.blocks] * 3)
        contexts = []
        for number, block in enumerate(packing.blocks):
            q, k, v = (part.view(-1, block.length, head) for part in parts[number::count])
            scores = torch.baddbmm(block.bias, q, k.transpose(1, 2), alpha=head**-0.5)
            mask = None if attention_mask is None else attention_mask[block.cells].view_as(scores)
            contexts.append(torch.bmm(dropped(scores.softmax(-1), mask), v).view(-1, head))
        context = torch.cat(contexts).to(self.dtype)
        context = Take.apply(context, packing.to_tokens, packing.to_blocks, packing.block_rows).view(-1, self.size)
        attended = self.linear(context, output.dense)
        h = output.LayerNorm(torch.add(x, dropped(attended, attended_mask), alpha=scale))
        # the feed-forward network
        active = nn.functional.gelu(self.linear(h, layer.intermediate.dense))
        fed = self.linear(active, layer.output.dense)
        return layer.output.LayerNorm(torch.add(h, dropped(fed, fed_mask), alpha=scale))

    def linear(self, x: Tensor, *modules: nn.Linear) -> Tensor:
        """Return the products of ``x`` with the weights of all ``modules``, stacked, in the number format of products."""
        weights = [module.weight.to(self.dtype) for module in modules]
        biases = [module.bias.to(self.dtype) for module in modules]
        if len(modules) > 1:
            weights, biases = [torch.cat(weights)], [torch.cat(biases)]
        return nn.functional.linear(x.to(self.dtype), *weights, *biases)


def dropped(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``values`` times ``mask``; as they are without a mask."""
    return values if mask is None else values * mask
