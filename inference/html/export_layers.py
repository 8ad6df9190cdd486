"""Export of a decoder as a list of layers that a page can run without torch.

Feature maps are (height, width, channels), as on a canvas; a vector is a map of one pixel. There is one kind
of layer: for each tap of a kernel, each input pixel is multiplied by a matrix and added to an output pixel. A
linear layer has one pixel and one tap. Batch norm in eval mode is folded into the layer before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_models.nets.activations import elu
from ppl_models.nets.conv import BatchedSequential, ToImage
from ppl_models.nets.mlp import MLP

Size = tuple[int, int]  # height and width of a map, a kernel or a stride


class UnsupportedModule(Exception):
    """A module that cannot be exported."""


@dataclass
class Layer:
    """out = activation(bias + sum over taps of in @ weight[tap]), from `size_in` to `size_out`.

    Along each side, tap a of the kernel connects input pixel i to output pixel o with
    o + padding = stride i + a if the convolution is transposed, and with i + padding = stride o + a if not.
    """

    weight: np.ndarray  # (taps, channels in, channels out), float32
    bias: np.ndarray  # (channels out,)
    size_in: Size = (1, 1)
    size_out: Size = (1, 1)
    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    transposed: bool = False
    activation: str = ""  # one of ACTIVATIONS
    slope: float = 0.0  # of "leaky" for negative inputs

    @property
    def products(self) -> int:
        """The number of multiplications per example."""
        taps, into, out = self.weight.shape
        return into * out * sum(len(self.pairs(tap)[0]) for tap in range(taps))

    def pairs(self, tap: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the input and output pixels that a tap connects, as indices in row-major order."""
        sides = []
        for side, a in enumerate(divmod(tap, self.kernel[1])):
            sizes = (self.size_in[side], self.size_out[side])
            near, far = sizes if self.transposed else sizes[::-1]
            begin = np.arange(near)
            end = self.stride[side] * begin + a - self.padding[side]
            inside = (end >= 0) & (end < far)
            begin, end = begin[inside], end[inside]
            sides.append((begin, end) if self.transposed else (end, begin))
        (rows_in, rows_out), (columns_in, columns_out) = sides
        return (
            (rows_in[:, None] * self.size_in[1] + columns_in).ravel(),
            (rows_out[:, None] * self.size_out[1] + columns_out).ravel(),
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Applies the layer to flattened maps, as the page does: `(n, values_in)` to `(n, values_out)`."""
        x = x.reshape(len(x), -1, self.weight.shape[1])
        out = np.tile(self.bias, (len(x), self.size_out[0] * self.size_out[1], 1))
        for tap, weight in enumerate(self.weight):
            i, o = self.pairs(tap)
            out[:, o] += x[:, i] @ weight
        return ACTIVATIONS[self.activation](out, self.slope).reshape(len(x), -1)


ACTIVATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "": lambda x, slope: x,
    "leaky": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, slope: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x, slope: 1 / (1 + np.exp(-x.clip(-60, 60))),
}
NAMES = {elu: "elu", F.relu: "leaky", nn.ReLU: "leaky", nn.LeakyReLU: "leaky", nn.Sigmoid: "sigmoid"}


class ExportedLayers:
    """The layers of a module that takes a vector.

    Args:
        module: linear layers, convolutions, activations and batch norm in eval mode, in sequence.

    Raises:
        UnsupportedModule: a part of the module cannot be exported.
    """

    def __init__(self, module: nn.Module):
        self.layers: list[Layer] = []
        self.size: Size = (1, 1)  # of the output map
        self._add(module)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Applies all layers: `(n, values_in)` to `(n, values_out)`."""
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def products(self) -> int:
        """The number of multiplications per example."""
        return sum(layer.products for layer in self.layers)

    def activate(self, name: str, slope: float = 0.0) -> None:
        """Appends an activation to the last layer."""
        last = self._last()
        last.activation, last.slope = name, slope

    def scale(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Appends scale * out + shift, per channel, to the last layer."""
        last = self._last()
        scale, shift = (np.resize(part, last.bias.shape) for part in (scale, shift))
        last.weight, last.bias = last.weight * scale, last.bias * scale + shift

    def to_map(self, channels: int, height: int, width: int) -> None:
        """Reshapes the output vector into an image `(channels, height, width)`, and that into a map."""
        last = self.layers[-1] if self.layers else None
        if last is None or last.size_out != (1, 1) or len(last.bias) != channels * height * width:
            raise UnsupportedModule("the reshaped output is not a vector of this size")
        order = np.arange(len(last.bias)).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        last.weight, last.bias, self.size = last.weight[..., order], last.bias[order], (height, width)

    def _last(self) -> Layer:
        if not self.layers or self.layers[-1].activation:
            raise UnsupportedModule("an activation or a scale without a linear layer before it")
        return self.layers[-1]

    def _add(self, module: Any) -> None:
        kind: Any = type(module)
        if kind is MLP:
            for i, layer in enumerate(module.layers):
                if i:
                    self._add_activation(module.activation)
                self._add(layer)
        elif isinstance(module, nn.Sequential) and kind.forward in (
            nn.Sequential.forward,
            BatchedSequential.forward,
        ):
            for part in module:
                self._add(part)
        elif kind is nn.Linear and self.size == (1, 1):
            self.layers.append(Layer(_array(module.weight).T[None], _array(module.bias)))
        elif kind in (nn.Conv2d, nn.ConvTranspose2d):
            self._add_convolution(module)
        elif kind is nn.BatchNorm2d and not module.training:
            scale = _array(module.weight) / np.sqrt(_array(module.running_var) + module.eps)
            self.scale(scale, _array(module.bias) - scale * _array(module.running_mean))
        elif kind is ToImage:
            self.to_map(*module.unflattened_size)
        else:
            self._add_activation(module)

    def _add_activation(self, activation: Any) -> None:
        name = NAMES.get(type(activation) if isinstance(activation, nn.Module) else activation)
        if name is None:
            raise UnsupportedModule(activation)
        self.activate(name, getattr(activation, "negative_slope", 0.0))

    def _add_convolution(self, module: Any) -> None:
        if module.groups > 1 or module.dilation != (1, 1) or isinstance(module.padding, str):
            raise UnsupportedModule(module)
        transposed = isinstance(module, nn.ConvTranspose2d)
        # torch's weights are (in, out, height, width) if transposed, else (out, in, height, width)
        weight = _array(module.weight).transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0))
        sides = zip(
            self.size, module.kernel_size, module.stride, module.padding, module.output_padding, strict=True
        )
        height, width = (
            (n - 1) * s - 2 * p + k + more if transposed else (n + 2 * p - k) // s + 1
            for n, k, s, p, more in sides
        )
        self.layers.append(
            Layer(
                weight.reshape(-1, *weight.shape[2:]),
                _array(module.bias),
                self.size,
                (height, width),
                module.kernel_size,
                module.stride,
                module.padding,
                transposed,
            )
        )
        self.size = (height, width)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().float().numpy()
