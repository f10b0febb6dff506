"""The gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328): an exact distribution over grids of discrete values,
with causal self-attention between its layers where it is asked for (PixelSNAIL: Chen et al. 2018, arXiv 1712.09763)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from tasvir.config import Refused

FIRST_KERNEL = 7
"""Size of the first layer's kernels, as in the paper."""


class GatedPixelCNN(nn.Module):
    """p(x) = ∏ p(x_i | x_1 … x_(i-1)) over a square of `side`² positions, row by row, `variables` values at each.

    Every value is one of `levels`. A vertical stack sees the rows above, a horizontal one the row to the left and the
    vertical stack, so that together they see all that came before within reach and nothing else (section 2.2).
    Convolutions are cropped to what they may see, not masked. The variables of one position follow each other: the
    head of each sees the shared features and the values of those before it.

    `embedded` values are codes without order, and enter by a learned vector each; others enter as numbers in [-1,1].
    `kernel` is that of all layers but the first. `output` is the width of the head's hidden layer. `classes` and
    `condition` (channels of a map) bias every gate (equations 4 and 5). `attention` layers lie between blocks of causal
    self-attention with `heads` heads; 0 has none. Raises `Refused` for an even kernel, or heads that do not divide
    the width.
    """

    def __init__(
        self,
        variables: int,
        levels: int,
        side: int,
        *,
        width: int,
        layers: int,
        kernel: int = 5,
        output: int,
        embedded: bool,
        classes: int = 0,
        condition: int = 0,
        attention: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise Refused(f"A PixelCNN's kernel has a middle, so its size is odd; {kernel} is even.")
        if attention and width % heads:
            raise Refused(f"A width of {width} cannot be shared out evenly to {heads} heads of attention.")
        self.variables, self.levels, self.side, self.width = variables, levels, side, width
        self.embedding = nn.Embedding(variables * levels, width) if embedded else None
        depth = width if embedded else 1
        self.depth = depth
        """Channels in which one value enters."""
        self.layers = nn.ModuleList(
            GatedLayer(
                width if position else variables * depth,
                width,
                kernel if position else FIRST_KERNEL,
                first=position == 0,
                classes=classes,
                condition=condition,
                dropout=dropout,
            )
            for position in range(layers)
        )
        every = range(attention, layers + 1, attention) if attention else ()
        self.attentions = nn.ModuleDict({str(count - 1): CausalAttention(width, side, heads) for count in every})
        self.hidden = nn.Conv2d(width, variables * output, 1)
        self.earlier = nn.ModuleList(nn.Conv2d(v * depth, output, 1, bias=False) for v in range(1, variables))
        self.logits = nn.ModuleList(nn.Conv2d(output, levels, 1) for _ in range(variables))

    def encode(self, values: Tensor) -> Tensor:
        """[B,V,...] int64 → [B,V·depth,...] float32: what the layers see of values."""
        if self.embedding is None:
            return values.float() * (2 / max(1, self.levels - 1)) - 1
        start = torch.arange(self.variables, device=values.device) * self.levels
        index = values + start.view(-1, *[1] * (values.dim() - 2))
        return embedding(index, self.embedding.weight).movedim(-1, 2).flatten(1, 2)

    def forward(self, values: Tensor, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Values [B,V,S,S] int64, label [B] int64, condition [B,Cc,S,S] → logits [B,levels,V,S,S] float32.

        The logits of a value depend on the values before it only, on the label, and on the whole condition.
        """
        encoded = self.encode(values)
        vertical = horizontal = encoded
        for position, layer in enumerate(self.layers):
            vertical, horizontal = layer(vertical, horizontal, label, condition)
            if str(position) in self.attentions:
                horizontal = self.attentions[str(position)](horizontal)
        found = []
        for v, part in enumerate(self.hidden(horizontal.relu()).chunk(self.variables, 1)):
            if v:
                part = part + self.earlier[v - 1](encoded[:, : v * self.depth])
            found.append(self.logits[v](part.relu()).float())
        return torch.stack(found, 2)

    @torch.no_grad()
    def sample(self, uniform: Tensor, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Values [B,V,S,S] int64, each by the inverse distribution function of its own number [B,V,S,S] in [0,1).

        The same as `sample_naive` but for rounding, and nothing is computed twice: the vertical stack is computed a row
        at a time, when the row above is complete, with all that the row's horizontal gates get from it; the horizontal
        stack a position at a time, from what the layers kept of the positions to the left. In float32; there is no
        dropout, also in training mode.
        """
        with torch.autocast(uniform.device.type, enabled=False):
            return Sampler(self, uniform.float(), label, condition).run()

    @torch.no_grad()
    def sample_naive(
        self,
        uniform: Tensor,
        label: Tensor | None = None,
        condition: Tensor | None = None,
        positions: int | None = None,
    ) -> Tensor:
        """As `sample`, with a whole forward pass for every value; only the first `positions`, where they are given.

        In training mode dropout would change what it draws.
        """
        values = torch.zeros(uniform.shape, dtype=torch.int64, device=uniform.device)
        with torch.autocast(uniform.device.type, enabled=False):
            for position in range(self.side**2 if positions is None else positions):
                i, j = divmod(position, self.side)
                for v in range(self.variables):
                    logits = self(values, label, condition)[:, :, v, i, j]
                    values[:, v, i, j] = inverse(logits, uniform[:, v, i, j])
        return values


def inverse(logits: Tensor, uniform: Tensor) -> Tensor:
    """Logits [B,levels], numbers [B] in [0,1) → the first levels [B] int64 whose distribution function exceeds them."""
    below = logits.softmax(1).cumsum(1)[:, :-1]
    return (below <= uniform[:, None]).sum(1)


def gate(inputs: Tensor) -> Tensor:
    """[B,2w,...] → tanh of the first half times the logistic function of the second, [B,w,...]; equation 2."""
    value, opening = inputs.chunk(2, 1)
    return value.tanh() * opening.sigmoid()


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2). The features at a position have seen only values strictly before it.

    The first layer takes encoded values, and sees neither its own row in the vertical nor its own position in the
    horizontal stack; what the others take has not seen them, so they do. Both stacks are residual: the
    paper's is the horizontal one alone, which learns more slowly.
    """

    def __init__(
        self, channels: int, width: int, kernel: int, *, first: bool, classes: int, condition: int, dropout: float
    ):
        super().__init__()
        self.reach, self.first = kernel // 2, first
        extent = self.reach + (not first)
        self.vertical = nn.Conv2d(channels, 2 * width, (extent, kernel))
        self.horizontal = nn.Conv2d(channels, 2 * width, (1, extent), bias=False)
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.label = nn.Embedding(classes, 4 * width) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.1)
        self.condition = nn.Conv2d(condition, 4 * width, 1, bias=False) if condition else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, vertical: Tensor, horizontal: Tensor, label: Tensor | None, condition: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        reach, own = self.reach, -1 if self.first else 0
        above = self.vertical(pad(vertical, (reach, reach, reach, own)))
        left = self.horizontal(pad(horizontal, (reach, own, 0, 0)))
        for bias in self.biases(label, condition):
            to_vertical, to_horizontal = bias.chunk(2, 1)
            above, left = above + to_vertical, left + to_horizontal
        mixed = self.mix(self.dropout(gate(left + self.across(above))))
        gated = gate(above)
        return (gated, mixed) if self.first else (vertical + gated, horizontal + mixed)

    def biases(self, label: Tensor | None, condition: Tensor | None) -> list[Tensor]:
        """What label and condition add to the gates, [B,4w,1,1] and [B,4w,S,S]: vertical first, then horizontal."""
        found = []
        if self.label is not None and label is not None:
            found.append(self.label(label)[:, :, None, None])
        if self.condition is not None and condition is not None:
            found.append(self.condition(condition))
        return found


class CausalAttention(nn.Module):
    """Every position looks at itself and all before it, [B,w,S,S] → the same; their features have seen less still."""

    def __init__(self, width: int, side: int, heads: int):
        super().__init__()
        self.heads = heads
        self.place = nn.Parameter(torch.randn(side**2, width) * 0.1)
        """What is added to the features at each position."""
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        query, key, value = self.projected(tokens, self.place)
        found = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        return features + self.mix(found).transpose(1, 2).unflatten(2, features.shape[2:])

    def projected(self, tokens: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """[B,T,w] at places [T,w] → queries, keys and values, [B,heads,T,w/heads] each."""
        together = self.project(self.norm(tokens + place))
        return together.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Sampler:
    """One call of `GatedPixelCNN.sample`: weights as matrices, and what every layer keeps of rows and positions."""

    def __init__(self, network: GatedPixelCNN, uniform: Tensor, label: Tensor | None, condition: Tensor | None):
        self.network, self.uniform = network, uniform.permute(2, 3, 1, 0).contiguous()  # [S,S,V,B]
        pictures, side = len(uniform), network.side
        self.caches = [LayerCache(layer, pictures, side, label, condition) for layer in network.layers]
        self.features = uniform.new_zeros(pictures, network.width)
        """What the horizontal stack says at the present position, [B,w]."""
        after = [cache.slots for cache in self.caches[1:]] + [[self.features] * side]
        attended = {int(k): AttentionCache(block, pictures) for k, block in network.attentions.items()}
        self.columns = [
            [(*cache.at(j), after[k][j], attended.get(k)) for k, cache in enumerate(self.caches)] for j in range(side)
        ]
        self.hidden = _affine(network.hidden)
        self.logits = [_affine(layer) for layer in network.logits]
        self.earlier = [_matrix(layer) for layer in network.earlier]

    def run(self) -> Tensor:
        side, pictures = self.network.side, self.uniform.shape[-1]
        values = torch.empty(*self.uniform.shape, dtype=torch.int64, device=self.uniform.device)
        first = self.caches[0]
        for i in range(side):
            incoming: Tensor | None = None
            for cache in self.caches:
                incoming = cache.advance(i, incoming)
            first.left.zero_()
            for cache in self.caches[1:]:
                cache.left.zero_()
            for j, column in enumerate(self.columns):
                self._step(i * side + j, column)
                first.slots[j].copy_(self._draw(self.uniform[i, j], values[i, j]))
            first.keep(i, first.left.view(pictures, -1, first.channels)[:, first.reach :].transpose(0, 1))
        return values.permute(3, 2, 0, 1).contiguous()

    def _step(self, position: int, column: list) -> None:
        """The horizontal stack at one position; its last output is `features`."""
        for bias, window, weight, inputs, value, opening, gated, mix, before, after, attended in column:
            torch.addmm(bias, window, weight, out=inputs)
            value.tanh_()
            opening.sigmoid_()
            torch.mul(value, opening, out=gated)
            if before is None:
                torch.mm(gated, mix, out=after)
            else:
                torch.addmm(before, gated, mix, out=after)
            if attended is not None:
                after += attended.step(position, after)

    def _draw(self, uniform: Tensor, values: Tensor) -> Tensor:
        """Fill `values` [V,B] from numbers [V,B]; returns them encoded, [B,V·depth]."""
        network = self.network
        hidden = torch.addmm(self.hidden[0], self.features.relu(), self.hidden[1])
        values.zero_()
        for v, part in enumerate(hidden.chunk(network.variables, 1)):
            if v:
                part = torch.addmm(part, network.encode(values.T)[:, : v * network.depth], self.earlier[v - 1])
            bias, weight = self.logits[v]
            values[v] = inverse(torch.addmm(bias, part.relu(), weight), uniform[v])
        return network.encode(values.T)


class LayerCache:
    """A gated layer while pictures are drawn: positions before pictures before channels, so that all is products."""

    def __init__(self, layer: nn.Module, pictures: int, side: int, label: Tensor | None, condition: Tensor | None):
        assert isinstance(layer, GatedLayer)
        channels, width = layer.vertical.in_channels, layer.mix.out_channels
        self.layer, self.reach, self.channels, self.side, self.width = layer, layer.reach, channels, side, width
        self.taps = layer.vertical.weight.permute(2, 3, 1, 0).contiguous()  # [rows,kernel,channels,2w]
        self.window = layer.horizontal.weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.across, self.mix = _matrix(layer.across), _matrix(layer.mix)
        new: Callable[..., Tensor] = layer.mix.weight.new_zeros
        self.above = new(len(self.taps), side + 2 * self.reach, pictures, channels)
        """The last rows of what the vertical stack takes, row q at q modulo their number."""
        self.left = new(pictures, (side + self.reach) * channels)
        """This row of what the horizontal stack takes, after `reach` empty positions."""
        self.row = new(side, pictures, 2 * width)
        """What the horizontal gates of this row get from all but the row itself."""
        self.inputs, self.gated = new(pictures, 2 * width), new(pictures, width)
        self.slots = list(self.left.unflatten(1, (-1, channels))[:, self.reach :].unbind(1))
        biases = layer.biases(label, None)
        own = torch.cat([_bias(layer.vertical), _bias(layer.across)])
        self.bias = own + (biases[0].flatten(1) if biases else new(pictures, 4 * width))
        self.condition: tuple[Tensor, Tensor] | None = None
        """The map, [S,S,B,Cc], and the matrix that takes it to the gates, [Cc,4w]."""
        if layer.condition is not None and condition is not None:
            self.condition = condition.float().permute(2, 3, 0, 1).contiguous(), _matrix(layer.condition)

    def at(self, j: int) -> tuple:
        """Views of everything that column j needs, made once for all rows."""
        window = self.left[:, j * self.channels : j * self.channels + len(self.window)]
        value, opening = self.inputs.chunk(2, 1)
        before = None if self.layer.first else self.slots[j]
        return self.row[j], window, self.window, self.inputs, value, opening, self.gated, self.mix, before

    def keep(self, i: int, row: Tensor) -> None:
        """Remember row i, [S,B,channels], of what the vertical stack takes."""
        self.above[i % len(self.above), self.reach : self.reach + self.side] = row

    def advance(self, i: int, incoming: Tensor | None) -> Tensor:
        """The vertical stack at row i: takes its input, [S,B,channels], gives its output, [S,B,w], and fills `row`."""
        if incoming is not None:
            self.keep(i, incoming)
        bias = self.bias
        if self.condition is not None:
            bias = bias + self.condition[0][i] @ self.condition[1]
        above = bias[..., : 2 * self.width].expand(self.row.shape).contiguous()
        flat = above.flatten(0, 1)
        for r, taps in enumerate(self.taps):
            q = i - self.reach + r
            if q < 0:
                continue
            kept = self.above[q % len(self.above)]
            for c, tap in enumerate(taps):
                flat.addmm_(kept[c : c + self.side].flatten(0, 1), tap)
        torch.add(above @ self.across, bias[..., 2 * self.width :], out=self.row)
        gated = gate(flat).view(self.side, -1, self.width)
        return gated if incoming is None else gated + incoming


class AttentionCache:
    """Causal attention while pictures are drawn: the keys and values of all positions so far."""

    def __init__(self, attention: nn.Module, pictures: int):
        assert isinstance(attention, CausalAttention)
        self.attention = attention
        positions, width = attention.place.shape
        self.key = attention.place.new_empty(pictures, attention.heads, positions, width // attention.heads)
        self.value = torch.empty_like(self.key)

    def step(self, position: int, features: Tensor) -> Tensor:
        """What attention adds to the features [B,w] of this position."""
        place = self.attention.place[position : position + 1]
        query, key, value = self.attention.projected(features[:, None], place)
        self.key[:, :, position], self.value[:, :, position] = key[:, :, 0], value[:, :, 0]
        so_far = slice(0, position + 1)
        found = scaled_dot_product_attention(query, self.key[:, :, so_far], self.value[:, :, so_far])
        return self.attention.mix(found.flatten(1))


def _matrix(convolution: nn.Module) -> Tensor:
    """The weight of a 1×1 convolution as [inputs,outputs]."""
    assert isinstance(convolution, nn.Conv2d)
    return convolution.weight[:, :, 0, 0].T.contiguous()


def _bias(convolution: nn.Module) -> Tensor:
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    return convolution.bias


def _affine(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    """The bias of a 1×1 convolution, and its weight as [inputs,outputs]."""
    return _bias(convolution), _matrix(convolution)
