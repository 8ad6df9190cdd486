"""The codebook of a VQ-VAE, and what all its quantizers have in common."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

RESET_AFTER = 20  # batches without a nearest vector after which an entry is replaced
DECAY = 0.99  # of the moving averages


class Quantizer(nn.Module):
    """Finitely many entries of d dimensions, and the nearest entry to each vector."""

    entries: Tensor  # (codes, d)

    def forward(self, e: Tensor) -> Tensor:
        """Returns the nearest entries, `(..., d, height, width)` both; e gets no gradient."""
        return self.lookup(self.nearest(e))

    def nearest(self, e: Tensor) -> Tensor:
        """Returns the nearest entries' indices `(..., height, width)`."""
        raise NotImplementedError

    def lookup(self, index: Tensor) -> Tensor:
        """Returns the entries `(..., d, height, width)` of indices `(..., height, width)`."""
        return self.entries[index].movedim(-1, -3)

    def update(self, e: Tensor) -> None:
        """Learns from a training batch `(..., d, height, width)` without a gradient; by default nothing."""


class Codebook(Quantizer):
    """`codes` learned entries of d dimensions.

    The first training batch initialises the entries with a random sample of its vectors. Then they learn by
    gradient or, with `average`, as moving averages of the vectors that they are nearest to. An entry that is
    nearest to no vector for `RESET_AFTER` batches is replaced by a random vector.

    Van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning (arXiv 1711.00937),
    section 3.2, and appendix A.1 for the averages.

    Args:
        codes: the number of entries.
        d: the dimensions of an entry.
        average: whether the entries are moving averages, without a gradient.
    """

    initialized: Tensor  # ()
    unchosen: Tensor  # batches since an entry was last nearest to a vector, (codes,)
    mass: Tensor  # moving averages of the number of vectors per batch, (codes,)

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

    def nearest(self, e: Tensor) -> Tensor:
        """Returns the nearest entries' indices `(..., height, width)`, which minimise |c|^2 - 2 e . c."""
        with torch.no_grad(), torch.autocast(e.device.type, enabled=False):
            c = self.entries
            return ((c**2).sum(-1) - 2 * e.movedim(-3, -1) @ c.T).argmin(-1)

    @torch.no_grad()
    def update(self, e: Tensor) -> None:
        """Initialises, averages and replaces entries, given a training batch `(..., d, height, width)`."""
        vectors = e.movedim(-3, -1).flatten(0, -2)
        codes, n = len(self.entries), len(vectors)
        # One vector per entry, without replacement if there are enough.
        order = torch.cat([torch.randperm(n, device=vectors.device) for _ in range(-(-codes // n))])
        sampled = _broadcast_from_main(vectors[order[:codes]])
        self.entries.copy_(torch.where(self.initialized, self.entries, sampled))
        self.initialized.fill_(True)
        index = self.nearest(e).flatten()
        counts = _sum_over_processes(index.new_zeros(codes).index_add_(0, index, torch.ones_like(index)))
        if self.average:
            total = _sum_over_processes(torch.zeros_like(self.entries).index_add_(0, index, vectors))
            mass = DECAY * self.mass + (1 - DECAY) * counts
            averages = (DECAY * self.mass[:, None] * self.entries + (1 - DECAY) * total) / mass[:, None]
            self.entries.copy_(averages)
            self.mass.copy_(mass)
        self.unchosen.add_(1).masked_fill_(counts > 0, 0)
        dead = self.unchosen >= RESET_AFTER
        self.entries.copy_(torch.where(dead[:, None], sampled, self.entries))
        self.unchosen.masked_fill_(dead, 0)
        if self.average:
            self.mass.masked_fill_(dead, 1.0)


def _sum_over_processes(value: Tensor) -> Tensor:
    """Returns the sum over all training processes."""
    return sum_over_processes(value) if dist.is_initialized() else value


@torch.library.custom_op("ppl_models::sum_over_processes", mutates_args=())
def sum_over_processes(value: Tensor) -> Tensor:
    """Returns the sum over all training processes, as one operation that a recorded step can contain."""
    total = value.clone()
    dist.all_reduce(total)
    return total


@sum_over_processes.register_fake
def _like(value: Tensor) -> Tensor:
    return torch.empty_like(value)


def _broadcast_from_main(sampled: Tensor) -> Tensor:
    """Returns the tensor of the first process in all training processes; the others add zeros."""
    return _sum_over_processes(sampled * float(dist.get_rank() == 0)) if dist.is_initialized() else sampled
