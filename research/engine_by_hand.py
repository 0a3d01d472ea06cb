"""The packed encoder with its backward pass written out by hand, operation by operation, as ``engine_choice.py`` measures it.

It is what autograd is compared with: no operation too many, no memory taken twice.
"""

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, distributed, nn

from stlib.fast.packed import Masks, Packing, gradient_norm

aten = torch.ops.aten


def times_(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` times ``mask``, in place, where there is a mask."""
    return values if mask is None else values.mul_(mask)


class Weight:
    """Parameters that are used as one matrix or vector, stacked: query, key and value, or a single one.

    Attributes:
        product: the copy in the format of the products, where ``dtype`` is given.
        grad: their gradients, float32, a part of the encoder's one gradient buffer.
    """

    def __init__(self, parameters: list[nn.Parameter], flat: Tensor, dtype: torch.dtype | None = None):
        self.parameters = parameters
        shape = (sum(len(p) for p in parameters), *parameters[0].shape[1:])
        self.grad, self.touched = flat.view(shape), None
        self.product = torch.empty(shape, dtype=dtype, device=flat.device) if dtype else None

    def accumulate(self, grad: Tensor) -> None:
        """Add ``grad`` to the parameters' gradients, as autograd would, without new memory."""
        rows = [len(parameter) for parameter in self.parameters]
        for parameter, own, new in zip(self.parameters, self.grad.split(rows), grad.split(rows), strict=True):
            if not parameter.requires_grad:  # its part of the buffer stays zero, so the norm does not count it
                continue
            if parameter.grad is None:
                parameter.grad = own.copy_(new)
            else:
                parameter.grad.add_(new)

    def accumulate_rows(self, rows: Tensor, grad: Tensor) -> None:
        """Add row i of ``grad`` to the gradient of row ``rows[i]``. A fresh gradient of a whole vocabulary would take longer."""
        parameter = self.parameters[0]
        if not parameter.requires_grad:
            return
        if parameter.grad is None:  # last step's rows are all that is not zero, unless other processes added theirs
            alone = self.touched is not None and not (distributed.is_available() and distributed.is_initialized())
            parameter.grad = self.grad.index_fill_(0, self.touched, 0) if alone else self.grad.zero_()
            self.touched = rows[:0]
        parameter.grad.index_add_(0, rows, grad)
        self.touched = torch.cat([self.touched, rows])


class LayerWeights:
    """The weights of one BERT layer, and what else decides its output."""

    def __init__(self, layer: nn.Module, make):
        attention, output = layer.attention.self, layer.attention.output
        inputs = (attention.query, attention.key, attention.value)
        self.heads, self.scale = attention.num_attention_heads, attention.attention_head_size**-0.5
        self.qkv, self.qkv_bias = make([m.weight for m in inputs], True), make([m.bias for m in inputs], True)
        self.out, self.out_bias = make([output.dense.weight], True), make([output.dense.bias], True)
        up, down = layer.intermediate.dense, layer.output.dense
        self.up, self.up_bias = make([up.weight], True), make([up.bias], True)
        self.down, self.down_bias = make([down.weight], True), make([down.bias], True)
        self.norm1, self.norm2 = Norm(output.LayerNorm, make), Norm(layer.output.LayerNorm, make)


class Norm:
    """LayerNorm, forward and backward."""

    def __init__(self, module: nn.LayerNorm, make):
        self.module, self.weight, self.bias = module, make([module.weight]), make([module.bias])

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The normed values, and the mean and reciprocal deviation of each row, which ``backward`` needs."""
        module = self.module
        return torch.native_layer_norm(values, module.weight.shape, module.weight, module.bias, module.eps)

    def backward(self, grad: Tensor, values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        module = self.module
        grad, d_weight, d_bias = aten.native_layer_norm_backward(
            grad, values, module.weight.shape, mean, deviation, module.weight, module.bias, [True, True, True]
        )
        self.weight.accumulate(d_weight)
        self.bias.accumulate(d_bias)
        return grad


class Embed(torch.autograd.Function):
    """Word + position + type embeddings, LayerNorm, dropout: packed rows (rows, d), float32.

    ``anchor`` is there only so that autograd knows that the result has a gradient. Gradients of parameters go where
    ``Weight.accumulate`` puts them, here and in ``Layer``.
    """

    @staticmethod
    def forward(ctx, anchor, ids, positions, masks, encoder):
        word, position, kind = (w.parameters[0] for w in (encoder.word, encoder.position, encoder.kind))
        total = word[ids].add_(position[positions]).add_(kind[0])
        normed, mean, deviation = encoder.norm.forward(total)
        ctx.save_for_backward(ids, positions, total, mean, deviation)
        ctx.mask, ctx.encoder = None if masks.hidden is None else masks.hidden[0].float().mul_(masks.scale), encoder
        return times_(normed, ctx.mask)

    @staticmethod
    def backward(ctx, grad):
        ids, positions, *saved = ctx.saved_tensors
        encoder = ctx.encoder
        grad = encoder.norm.backward(grad if ctx.mask is None else grad * ctx.mask, *saved)
        encoder.word.accumulate_rows(ids, grad)
        encoder.position.accumulate_rows(positions, grad)
        encoder.kind.accumulate(nn.functional.pad(grad.sum(0, keepdim=True), (0, 0, 0, 1)))
        return None, None, None, None, None


class Layer(torch.autograd.Function):
    """One BERT layer on packed rows, (rows, d) to (rows, d), float32: attention and feed-forward network, each with residual and LayerNorm."""

    @staticmethod
    def forward(ctx, x, weights, packing, masks):
        w, size = weights, x.shape[1]
        dtype, head = w.qkv.product.dtype, x.shape[1] // w.heads
        attention_mask, attended_mask, fed_mask, scale = masks
        # attention, block by block
        xc = x.to(dtype)
        qkv = torch.addmm(w.qkv_bias.product, xc, w.qkv.product.t())
        # In blocks, attention runs in float32: its products are small, and softmax wants the digits.
        flat = qkv.view(-1, head).index_select(0, packing.qkv_to_blocks).float()
        probabilities = x.new_empty(packing.cells)
        kept = probabilities if attention_mask is None else x.new_empty(packing.cells)
        context = x.new_empty(packing.block_rows, head)
        for block in packing.blocks:
            q, k, v = (part[block.rows].view(-1, block.length, head) for part in flat.chunk(3))
            scores = torch.baddbmm(block.bias, q, k.transpose(1, 2), alpha=w.scale)
            torch.softmax(scores, dim=-1, out=probabilities[block.cells].view_as(scores))
            if attention_mask is not None:
                torch.mul(probabilities[block.cells], attention_mask[block.cells], out=kept[block.cells])
            torch.bmm(kept[block.cells].view_as(scores), v, out=context[block.rows].view_as(v))
        context = context.to(dtype).index_select(0, packing.to_tokens).view(-1, size)
        attended = times_(torch.addmm(w.out_bias.product, context, w.out.product.t()), attended_mask)
        sum1 = torch.add(x, attended, alpha=scale)
        h, *stats1 = w.norm1.forward(sum1)
        # the feed-forward network
        hc = h.to(dtype)
        z = torch.addmm(w.up_bias.product, hc, w.up.product.t())
        active = nn.functional.gelu(z)
        fed = times_(torch.addmm(w.down_bias.product, active, w.down.product.t()), fed_mask)
        sum2 = torch.add(h, fed, alpha=scale)
        y, *stats2 = w.norm2.forward(sum2)
        ctx.weights, ctx.packing, ctx.masks = weights, packing, masks
        ctx.save_for_backward(xc, flat, probabilities, kept, context, sum1, *stats1, hc, z, active, sum2, *stats2)
        return y

    @staticmethod
    def backward(ctx, dy):
        w, packing, (attention_mask, attended_mask, fed_mask, scale) = ctx.weights, ctx.packing, ctx.masks
        xc, flat, probabilities, kept, context, sum1, *stats1, hc, z, active, sum2, mean2, deviation2 = (
            ctx.saved_tensors
        )
        dtype, size, head = xc.dtype, xc.shape[1], flat.shape[1]
        # the feed-forward network
        d_sum2 = w.norm2.backward(dy, sum2, mean2, deviation2)
        d_fed = times_(torch.mul(d_sum2, scale, out=torch.empty_like(hc)), fed_mask)
        w.down.accumulate(d_fed.t() @ active)
        w.down_bias.accumulate(d_fed.sum(0))
        dz = aten.gelu_backward(d_fed @ w.down.product, z)
        w.up.accumulate(dz.t() @ hc)
        w.up_bias.accumulate(dz.sum(0))
        # the output of attention
        d_sum1 = w.norm1.backward(d_sum2.add_(dz @ w.up.product), sum1, *stats1)
        d_attended = times_(torch.mul(d_sum1, scale, out=torch.empty_like(hc)), attended_mask)
        w.out.accumulate(d_attended.t() @ context)
        w.out_bias.accumulate(d_attended.sum(0))
        d_context = (d_attended @ w.out.product).view(-1, head).index_select(0, packing.to_blocks).float()
        # attention, block by block
        d_flat = torch.empty_like(flat)
        for block in packing.blocks:
            q, k, v = (part[block.rows].view(-1, block.length, head) for part in flat.chunk(3))
            dq, dk, dv = (part[block.rows].view_as(q) for part in d_flat.chunk(3))
            d_out = d_context[block.rows].view_as(q)
            p = probabilities[block.cells].view(-1, block.length, block.length)
            torch.bmm(kept[block.cells].view_as(p).transpose(1, 2), d_out, out=dv)
            dp = torch.bmm(d_out, v.transpose(1, 2))
            times_(dp.view(-1), None if attention_mask is None else attention_mask[block.cells])
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype).mul_(w.scale)
            torch.bmm(ds, k, out=dq)
            torch.bmm(ds.transpose(1, 2), q, out=dk)
        d_qkv = d_flat.to(dtype).index_select(0, packing.qkv_to_tokens).view(-1, 3 * size)
        d_qkv[packing.tokens :] = 0  # the spare rows
        w.qkv.accumulate(d_qkv.t() @ xc)
        w.qkv_bias.accumulate(d_qkv.sum(0))
        return d_sum1.add_(d_qkv @ w.qkv.product), None, None, None


class EncoderByHand:
    """Embeds sentences with the weights of a ``SentenceTransformer``, packed, with gradients for its parameters.

    Args:
        model: as for ``PackedEncoder``.
        dtype: of the matrix products; the parameters themselves stay float32.

    Attributes:
        gradients: all gradients of the encoder in one flat float32 buffer. The parameters' ``grad`` are views of it.
    """

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype = torch.float32):
        bert = model[0].auto_model
        self.model, self.bert = model, bert
        embeddings, layers = bert.embeddings, bert.encoder.layer
        used = sum(p.numel() for module in (embeddings, layers) for p in module.parameters())
        self.gradients = torch.zeros(used, device=embeddings.word_embeddings.weight.device)
        self.anchor = torch.zeros((), device=self.gradients.device, requires_grad=True)
        self.weights, taken = [], 0

        def make(parameters: list[nn.Parameter], in_products: bool = False) -> Weight:
            nonlocal taken
            start, taken = taken, taken + sum(p.numel() for p in parameters)
            self.weights.append(Weight(parameters, self.gradients[start:taken], dtype if in_products else None))
            return self.weights[-1]

        self.word, self.position = (
            make([embeddings.word_embeddings.weight]),
            make([embeddings.position_embeddings.weight]),
        )
        self.kind, self.norm = make([embeddings.token_type_embeddings.weight]), Norm(embeddings.LayerNorm, make)
        self.layers = [LayerWeights(layer, make) for layer in layers]

    def clip(self, largest: float) -> Tensor:
        """Scale the gradients to the norm ``largest`` if theirs is larger, and return theirs."""
        norm = gradient_norm([self.gradients])
        if norm > largest:
            self.gradients.mul_(float(largest / (norm + 1e-6)))
        return norm

    def refresh(self) -> None:
        """Copy the parameters, which the optimizer has changed, into the format of the products."""
        pairs = [
            pair
            for weight in self.weights
            if weight.product is not None
            for pair in zip(weight.product.split([len(p) for p in weight.parameters]), weight.parameters, strict=True)
        ]
        with torch.no_grad():
            torch._foreach_copy_([copy for copy, _ in pairs], [parameter for _, parameter in pairs])

    def dropout(self) -> tuple[float, float]:
        """The probabilities of dropout, hidden and attention, as the model's modules have them; 0 in evaluation mode."""
        if not self.model.training:
            return 0.0, 0.0
        return self.bert.embeddings.dropout.p, self.bert.encoder.layer[0].attention.self.dropout.p

    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Embeddings (n, d) of n sentences.

        Args:
            ids: token ids of all sentences, one sentence after another, [CLS] and [SEP] included.
            lengths: tokens of each sentence, shape (n,).
        """
        device = self.gradients.device
        packing = Packing(lengths, self.layers[0].heads, device)
        self.refresh()
        with torch.autocast(device.type, enabled=False):
            dtype = self.layers[0].qkv.product.dtype
            masks = Masks(packing, len(self.layers), self.bert.config.hidden_size, self.dropout(), dtype)
            x = Embed.apply(self.anchor, packing.pack(ids), packing.positions, masks, self)
            for number, layer in enumerate(self.layers):
                x = Layer.apply(x, layer, packing, masks.of_layer(number))
            features = {"sentence_embedding": packing.means @ x}
            for module in list(self.model)[2:]:
                features = module(features)
        return features["sentence_embedding"]
