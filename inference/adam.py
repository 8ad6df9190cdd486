"""Adam in one pass over all parameters."""

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's own fused Adam, with lists of what it goes through that are made once, not at every step.

    The same numbers and the same state; in a small model's step, making the lists takes longer than Adam.
    Every parameter that has a gradient at the first step is taken to have one at all others.
    """

    def __init__(self, parameters: Any, lr: float):
        super().__init__(parameters, lr=lr, fused=True)
        self.lists: tuple[list[Tensor], ...] = ()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the lists are made anew."""
        super().load_state_dict(state_dict)
        self.lists = ()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, from the gradients at the parameters."""
        (group,) = self.param_groups
        if not self.lists:
            super().step()  # which makes the state
            reached = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] for p in reached]
            kept = ("exp_avg", "exp_avg_sq", "step")
            self.lists = (reached, *([state[name] for state in states] for name in kept))
            return
        reached, averages, squares, steps = self.lists
        gradients: list[Any] = [p.grad for p in reached]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            *(reached, gradients, averages, squares, [], steps),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
