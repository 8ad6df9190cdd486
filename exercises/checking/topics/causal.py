"""Exercise 30: causal convolutions and causal attention."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import scaled_dot_product_attention

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import leaf
from ppl_models.nets.pixelcnn import PixelCNN

LAYERS, SIDE = 2, 7


@exercise(
    "30",
    "causal convolutions and causal attention",
    "24-causal-networks.md",
    "in_field",
    "shifted",
    "attention",
    "log_probability",
)
def causal(given: Any) -> Iterator[Row]:
    """The field against the Jacobian of `PixelCNN`, attention and probabilities against torch."""
    yield field_row(given)
    yield row(
        "input of a Transformer",
        given.shifted,
        (leaf(2, 5, 3), leaf(3)),
        lambda x, start: torch.cat([start.expand(2, 1, 3), x], 1)[:, :5],
        {
            "Position i would get x_i, which it has to predict.": lambda x, start: x,
            "The sequence is shifted the other way: position i would get x_{i+1}.": lambda x, start: (
                torch.cat([x[:, 1:], start.expand(2, 1, 3)], 1)
            ),
            "The first position gets the start token, not the last x.": lambda x, start: x.roll(1, 1),
            "The start token replaces x_1, but the sequence is not shifted.": lambda x, start: torch.cat(
                [start.expand(2, 1, 3), x[:, 1:]], 1
            ),
            "The first position gets the start token, not zeros.": lambda x, start: torch.cat(
                [torch.zeros(2, 1, 3), x[:, :-1]], 1
            ),
        },
    )
    yield attention_row(given)
    codes = torch.randint(4, (7, 5))
    chosen = codes[..., None]
    yield row(
        "log p(x)",
        lambda logits: given.log_probability(logits, codes),
        (leaf(7, 5, 4),),
        lambda logits: Categorical(logits=logits).log_prob(codes).sum(-1),
        {
            "The logits are not normalised. Each position needs a log-softmax.": lambda logits: logits.gather(
                -1, chosen
            )[..., 0].sum(-1),
            "The softmax is over the codes, the last axis.": lambda logits: (
                logits.log_softmax(1).gather(-1, chosen)[..., 0].sum(-1)
            ),
            "You gave p(x), and log p(x) is needed.": lambda logits: (
                Categorical(logits=logits).log_prob(codes).sum(-1).exp()
            ),
            "You summed over all codes. Take the log probability of the given code.": lambda logits: (
                logits.log_softmax(-1).sum((-1, -2))
            ),
            "The chain rule multiplies probabilities. You added them.": lambda logits: (
                Categorical(logits=logits).log_prob(codes).exp().sum(-1)
            ),
        },
        {"positions": 5},
    )


def field_row(given: Any) -> Row:
    """Returns the row of the field of the middle pixel's output, from the Jacobian of a PixelCNN."""
    index = torch.arange(SIDE).double() - SIDE // 2
    rows, columns = torch.meshgrid(index, index, indexing="ij")

    def seen(rows: Tensor, columns: Tensor) -> Tensor:
        x = torch.randn(1, 1, SIDE, SIDE, requires_grad=True)
        out = PixelCNN(1, 6, 1, LAYERS).double()(x)[0, :, SIDE // 2, SIDE // 2].sum()
        return (torch.autograd.grad(out, x)[0][0, 0] != 0).double()

    def near(rows: Tensor, columns: Tensor) -> Tensor:
        return (rows.abs() <= LAYERS) & (columns.abs() <= LAYERS)

    return row(
        "field, 2 layers",
        lambda rows, columns: given.in_field(rows, columns, LAYERS),
        (rows, columns),
        seen,
        {
            "The output depends on the pixel that it predicts. Leave it out.": lambda a, b: (
                near(a, b) & ((a < 0) | ((a == 0) & (b <= 0)))
            ).double(),
            "The pixels to the left in the output's own row are missing.": lambda a, b: (
                near(a, b) & (a < 0)
            ).double(),
            "All pixels above are in your field. Each layer reaches one row and one column "
            "further.": lambda a, b: ((a < 0) | ((a == 0) & (b < 0))).double(),
            "The rows above have the same number of columns on both sides.": lambda a, b: (
                near(a, b) & (a <= 0) & (b <= 0) & ((a < 0) | (b < 0))
            ).double(),
            "This is the field of a single masked stack, with its blind spot. Two stacks have "
            "none.": lambda a, b: (near(a, b) & (b <= -a) & ((a < 0) | ((a == 0) & (b < 0)))).double(),
            "Pixels to the right or below come later. They must not be in the field.": lambda a, b: (
                near(a, b) & ((a != 0) | (b != 0))
            ).double(),
        },
    )


def attention_row(given: Any) -> Row:
    """Returns the row of causal attention, against torch's."""
    later = torch.ones(5, 5).triu(1).bool()

    def weighted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, divisor: float = math.sqrt(3)) -> Tensor:
        scores = q @ k.transpose(-1, -2) / divisor
        return scores.masked_fill(mask, -math.inf).softmax(-1) @ v

    def after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.transpose(-1, -2) / math.sqrt(3)).softmax(-1) * ~later) @ v

    return row(
        "attention",
        given.attention,
        (leaf(2, 5, 3), leaf(2, 5, 3), leaf(2, 5, 3)),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
        {
            "The mask is missing: a position sees what comes later.": lambda q, k, v: weighted(
                q, k, v, torch.zeros_like(later)
            ),
            "The mask is reversed: a position sees itself and what comes later only.": lambda q, k, v: (
                weighted(q, k, v, later.T)
            ),
            "The mask is applied after the softmax, so that the weights do not sum to one.": after,
            "The scores are divided by the root of d.": lambda q, k, v: weighted(q, k, v, later, 1.0),
            "The scores are divided by the root of d, not by d.": lambda q, k, v: weighted(
                q, k, v, later, 3.0
            ),
            "Queries and keys are exchanged.": lambda q, k, v: weighted(k, q, v, later),
        },
    )
