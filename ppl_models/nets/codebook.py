"""A codebook: vectors that stand for those near them."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = 20  # batches that an entry may go unchosen before it is moved to where the data are
DECAY = 0.99  # of the moving averages


class Codebook(nn.Module):
    """`entries` (codes, d), and of vectors (..., d, height, width) the nearest entry at each place.

    It begins at vectors of the first training batch, drawn at random. Then it learns by gradient, from
    whatever loss it is in, or with `average` by moving averages of the vectors that chose each entry, and no
    gradient. An entry that no vector has chosen for so many batches is dead: it is moved onto one, at random.

    Van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning (arXiv 1711.00937),
    section 3.2 and appendix A.1 for the averages.
    """

    entries: Tensor
    initialized: Tensor
    unchosen: Tensor
    mass: Tensor

    def __init__(self, codes: int, d: int, average: bool = False):
        super().__init__()
        entries = torch.empty(codes, d).uniform_(-1 / codes, 1 / codes)
        if average:
            self.register_buffer("entries", entries)
            self.register_buffer("mass", torch.ones(codes))
        else:
            self.entries = nn.Parameter(entries)
        self.average = average
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.register_buffer("unchosen", torch.zeros(codes, dtype=torch.long))

    def forward(self, e: Tensor) -> Tensor:
        """The nearest entries, (..., d, height, width) both; a gradient goes to them, and none to e."""
        return self.look_up(self.nearest(e))

    def nearest(self, e: Tensor) -> Tensor:
        """The entry nearest to each vector, (..., height, width), by number: least |c|^2 - 2 e . c."""
        with torch.no_grad(), torch.autocast(e.device.type, enabled=False):
            c = self.entries
            return ((c**2).sum(-1) - 2 * e.movedim(-3, -1) @ c.T).argmin(-1)

    def look_up(self, index: Tensor) -> Tensor:
        """The entries of those numbers, (..., d, height, width)."""
        return self.entries[index].movedim(-1, -3)

    @torch.no_grad()
    def learn(self, e: Tensor) -> None:
        """Take in a training batch of vectors: the beginning, moving averages, and dead entries."""
        vectors = e.movedim(-3, -1).flatten(0, -2)
        codes, n = len(self.entries), len(vectors)
        # Some of the vectors, one an entry, without replacement as far as they go.
        order = torch.cat([torch.randperm(n, device=vectors.device) for _ in range(-(-codes // n))])
        drawn = _first(vectors[order[:codes]])
        self.entries.copy_(torch.where(self.initialized, self.entries, drawn))
        self.initialized.fill_(True)
        index = self.nearest(e).flatten()
        chosen = _joint(index.new_zeros(codes).index_add_(0, index, torch.ones_like(index)))
        if self.average:
            total = _joint(torch.zeros_like(self.entries).index_add_(0, index, vectors))
            mass = DECAY * self.mass + (1 - DECAY) * chosen
            moved = (DECAY * self.mass[:, None] * self.entries + (1 - DECAY) * total) / mass[:, None]
            self.entries.copy_(moved)
            self.mass.copy_(mass)
        self.unchosen.add_(1).masked_fill_(chosen > 0, 0)
        dead = self.unchosen >= PATIENCE
        self.entries.copy_(torch.where(dead[:, None], drawn, self.entries))
        self.unchosen.masked_fill_(dead, 0)
        if self.average:
            self.mass.masked_fill_(dead, 1.0)


def _joint(counts: Tensor) -> Tensor:
    """The sum over all processes that train together."""
    if dist.is_initialized():
        dist.all_reduce(counts)
    return counts


def _first(drawn: Tensor) -> Tensor:
    """What the first of all processes that train together has drawn."""
    if dist.is_initialized():
        dist.broadcast(drawn, 0)
    return drawn
