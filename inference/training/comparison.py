"""The comparison of a compiled training step with the eager one."""

import torch
from torch import Tensor

from inference.backend.snapshots import Snapshot
from inference.compiled.checks import TOLERANCES, norm
from inference.training.functional import FunctionalStep

NAMES = {
    "buffers": "buffers",
    "exp_avgs": "gradients",
    "exp_avg_sqs": "squared gradients",
    "total": "objectives",
    "parameters": "updates",
    "averages": "averages",
}
OF_UPDATE = {torch.float64: 1e-3, torch.float32: 5e-2, torch.bfloat16: 0.5}
PERTURBATION = 8  # of parameters, in units of the spacing of floating-point numbers
ROUNDINGS = 3  # largest difference, in units of the effect of the perturbation


def difference(
    program: FunctionalStep,
    objective: Tensor,
    before: Snapshot,
    expected: Snapshot,
    rounded: Snapshot | None,
    dtype: torch.dtype,
) -> str:
    """Says how the state after a compiled step differs from that after the eager step.

    The means of the gradients are compared, and their squares. An update of Adam has about the same size for
    each parameter, however small its gradient is. Rounding changes it where a gradient is almost zero, so its
    tolerance is larger.

    Rounding can change a gradient by more than its tolerance: if an input of a ReLU is almost zero, rounding
    decides whether the unit passes its gradient. An eager step from perturbed parameters measures this.

    Args:
        program: whose state the compiled step has changed.
        objective: of the eager step.
        before: the state before the step.
        expected: the state after the eager step.
        rounded: the state after the eager step from parameters that `perturb` has changed; None: only the
            tolerances count.
        dtype: of the networks.

    Returns:
        The first difference that is larger than rounding, or "".
    """
    of_value, of_gradient = TOLERANCES[dtype]
    found, start, end = (program.parts(x) for x in (program.state, before.copies, expected.copies))
    other = end if rounded is None else program.parts(rounded.copies)
    for what, tolerance in (
        ("buffers", of_gradient),
        ("exp_avgs", of_gradient),
        ("exp_avg_sqs", of_gradient),
        ("total", of_value),
        ("parameters", OF_UPDATE[dtype]),
        ("averages", OF_UPDATE[dtype]),
    ):
        theirs = [objective] if what == "total" else end[what]
        apart = _distance(found[what], theirs)
        size = _distance(theirs, start[what]) if what in ("parameters", "averages") else norm(theirs)
        if not apart <= max(tolerance * size, ROUNDINGS * _distance(other[what], end[what])):
            return f"its {NAMES[what]} differ from the eager step's by {apart:.1e} of {size:.1e}"
    return ""


def perturb(parameters: list[Tensor]) -> None:
    """Changes parameters in place by about the rounding error of a network. The RNG state is preserved."""
    generator = torch.Generator().manual_seed(0)
    for p in parameters:
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        p.mul_(1 + PERTURBATION * torch.finfo(p.dtype).eps * noise)


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    return norm([a.double() - b.double() for a, b in zip(some, others, strict=True)])
