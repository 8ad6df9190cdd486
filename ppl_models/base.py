"""The contract of a model: two Pyro programs, `model` and `guide`, and the bound derived by hand."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ppl_models.elbo_terms import ELBOTerms
from ppl_models.programs import ProgramPair

FORMAT = 1  # of the files that `save` writes


def _records_options(init: Callable[..., None]) -> Callable[..., None]:
    """Makes a constructor record its keyword-only options, unless it runs as part of a subclass's."""
    signature = inspect.signature(init)

    @wraps(init)
    def recorded(self: "LatentVariableModel", *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is recorded:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.constructor_options = {
                name: bound.arguments[name]
                for name, parameter in signature.parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY
            }

    return recorded


class LatentVariableModel(ProgramPair):
    """The contract of a model: `model`, `guide` and `bound` in one file.

    `model` and `guide` are Pyro programs over one `pyro.plate("data", batch)`. `bound` takes the guide's
    samples and computes the same objective from `ppl_models.densities` and the networks only. All three take
    the inputs that `inputs` names. Every other method follows from the pair.

    `pyro.infer.SVI(model.model, model.guide, optimizer, loss)` trains every parameter, for any number of
    instances in a process: the programs register the parameters under a prefix per instance.

    A constructor takes `shape` and `classes`, then keyword-only options with defaults, each `Annotated` with
    a help text: the command line is generated from this signature.

    Args:
        shape: the shape of a data point, `(channels, height, width)` of images, `(d,)` of points, `(length,)`
            of sequences.
        classes: the number of classes of the labels; 0 if the data have none.

    Attributes:
        constructor_options: the keyword-only options of the constructor with their values.
    """

    # Declarations that the framework relies on. A subclass overrides those that differ.
    inputs: ClassVar[tuple[str, ...]] = ("x",)  # the arguments of `model`, `guide` and `bound`
    # The estimators that apply, the default first. "mean_field" requires that the guide samples the latents
    # in the model's order: otherwise the closed KL term of a latent can depend on a later sample.
    estimators: ClassVar[tuple[str, ...]] = ("trace",)
    # How grey levels become x: "binary", sampled zeros and ones; "unit", 0 to 1; "shifted", the same
    # with random shifts in training; "centred", -1 to 1;
    # "dequantised", -1 to 1 with uniform noise of one level's width. "points" and "codes" are not images.
    # "bits" are vectors of zeros and ones, "tokens" sequences of numbers of words or characters. A kind of
    # your own: see `inference.data.register_observation`.
    observation: str = "binary"
    # The kind of observation for vectors (d,), "points"; None: the model accepts only data of `observation`.
    vector_observation: ClassVar[str | None] = None
    has_latents: ClassVar[bool] = True  # if not, the bound is the exact -log p(x) and the guide is empty
    has_label: ClassVar[bool] = False  # whether x is generated from a label y, which `sample` accepts
    label_latents: ClassVar[tuple[str, ...]] = ("y",)  # a latent label, and the latents that depend on it
    has_mean: ClassVar[bool] = True  # whether p(x | latents) has a mean; if not, `decode` samples x
    has_kl_weight: ClassVar[bool] = False  # whether an option `beta` scales the KL terms of the objective
    has_tokens: ClassVar[bool] = False  # whether x is a sequence; then `bound` has the metric `tokens`
    values_option: ClassVar[str | None] = None  # the option that is the number of values that x can have
    has_codebook: ClassVar[bool] = False  # whether z is discrete: `code_counts`, `codes` and `decode_codes`
    code_priors: ClassVar[tuple[str, ...]] = ()  # models `code_NAME` that can learn a prior on its codes
    default_dataset: ClassVar[str | None] = None  # the default data set; None: MNIST, or else digits
    example_shape: ClassVar[tuple[int, ...]] = (1, 28, 28)  # the shape of examples without a data set
    # Images that are smaller in height and width are zero-padded to this size; None: no padding.
    smallest_size: ClassVar[int | None] = None
    # Height and width of larger images are multiples of this number; None: there are no larger images.
    size_divisor: ClassVar[int | None] = 1
    interpolation_pairs: ClassVar[int] = 10  # pairs of test images in the interpolation figure
    defaults: ClassVar[dict[str, Any]] = {"steps": 20_000, "batch_size": 97, "lr": 1e-3}
    small_image_defaults: ClassVar[dict[str, Any]] = {}  # overrides for images of at most 16 x 16
    registered_name: ClassVar[str | None] = None  # set by `register`

    constructor_options: dict[str, Any]
    beta: float | Tensor

    def __init__(self, shape: tuple[int, ...], classes: int = 0):
        super().__init__(shape, classes)
        self.observation = self.observation_of(self.shape)
        self.check_image_size(self.shape)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = None
        if "__init__" in vars(cls):
            cls.__init__ = _records_options(cls.__init__)  # type: ignore[method-assign]

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> ELBOTerms:
        """Computes the negative ELBO by hand from the guide's samples.

        Args:
            x: the observations, `(batch, *shape)`.
            latents: the samples by site name in the shapes that Pyro gives them, `(particles, batch, *event)`
                with particles. The values of an enumerated latent add a first dimension, over which the bound
                sums.
            *args: the other inputs of `model`.
            **kwargs: the other inputs, and `kl`: "closed" computes KL terms in closed form where one exists,
                as `TraceMeanField_ELBO` does; "sampled" computes them from the samples, as `Trace_ELBO` does.
        """
        raise NotImplementedError

    @property
    def kl_weight(self) -> float | Tensor:
        """The weight of the KL terms in the training objective: `beta` if `has_kl_weight`, else 1."""
        return self.beta if self.has_kl_weight else 1.0

    @kl_weight.setter
    def kl_weight(self, weight: float | Tensor) -> None:
        if not self.has_kl_weight:
            raise AttributeError(f"{type(self).__name__} has no KL weight. Its KL terms are not scaled.")
        self.beta = weight

    @property
    def has_penalties(self) -> bool:
        """Whether the objective has penalties in addition to the bound with this instance's options."""
        return False

    @property
    def levels(self) -> int:
        """The number of values that one pixel or code of the data can take."""
        return 256

    @property
    def labelled_images(self) -> int:
        """The number of labelled images that a semi-supervised model trains on; 0 for other models."""
        return 0

    @property
    def decoder_network(self) -> nn.Module | None:
        """The submodule `decoder`, which maps z, and a one-hot label if any; None if there is none."""
        return self._modules.get("decoder")

    def classify(self, x: Tensor) -> Tensor | None:
        """Returns the logits of q(y | x), `(batch, classes)`; None if the guide has no such factor."""
        return None

    def log_likelihood(self, x: Tensor) -> Tensor | None:
        """Returns log p(x) of `(batch, *shape)` in closed form, `(batch,)`; None if it is intractable."""
        return None

    def code_counts(self, latents: Mapping[str, Tensor]) -> Tensor | None:
        """Counts how often the latents use each codebook entry, `(codes,)`; None without a codebook."""
        return None

    def initialize(self, x: Tensor) -> None:
        """Sets initial values that depend on the training data, before the first step; by default none.

        A model that has been trained, or has these values already, must not change.

        Args:
            x: training data in the range of the observations, without noise, `(n, *shape)`.
        """

    def note(self) -> str | None:
        """Returns one line about the model's options to print when training begins, or None."""
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model in one file that `torch.load(path, weights_only=True)` and `from_saved` read.

        The file is written next to `path` and then renamed, so that `path` never holds a part of a model.

        Args:
            path: the file; an existing file is replaced.

        Raises:
            TypeError: An option of the constructor is not a plain value (a number, a string, a list, ...).
        """
        content = {
            "format": FORMAT,
            "model": self.registered_name or type(self).__name__,
            "shape": [int(size) for size in self.shape],
            "classes": int(self.classes),
            "options": json.loads(json.dumps(self.constructor_options)),
            "parameters": dict(self.state_dict()),
        }
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            torch.save(content, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def observation_of(cls, shape: tuple[int, ...]) -> str:
        """Returns the kind of observation for data of a shape; see `observation`."""
        return cls.vector_observation if cls.vector_observation and len(shape) == 1 else cls.observation

    @classmethod
    def padded(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of x for data of a shape; `example_shape` if the model accepts no such shape.

        Raises:
            ValueError: The networks do not take images of this size.
        """
        if cls.vector_observation and len(shape) == 1:
            return tuple(shape)
        if len(shape) != len(cls.example_shape):
            return cls.example_shape
        if cls.smallest_size is not None and max(shape[1:]) <= cls.smallest_size:
            return (shape[0], cls.smallest_size, cls.smallest_size)
        cls.check_image_size(shape)
        return tuple(shape)

    @classmethod
    def check_image_size(cls, shape: tuple[int, ...]) -> None:
        """Raises ValueError, which names the nearest sizes, if the networks do not take images of a shape."""
        divisor, smallest = cls.size_divisor, cls.smallest_size
        if len(shape) != 3 or divisor == 1:
            return
        name, (height, width) = cls.registered_name or cls.__name__, shape[1:]
        if divisor is None:
            if (height, width) == (smallest, smallest):
                return
            needs, nearest = f"a height and width of {smallest}", [(smallest, smallest)]
        else:
            if min(height, width) > 0 and height % divisor == width % divisor == 0:
                return
            needs = f"height and width divisible by {divisor}"
            rounded = [(side // divisor * divisor, -(-side // divisor) * divisor) for side in (height, width)]
            nearest = [size for size in zip(*rounded, strict=True) if min(size) > 0]
        sizes = " or ".join(f"{height}x{width}" for height, width in nearest)
        raise ValueError(f"images of {height}x{width}: {name} needs {needs}: resize to {sizes}")

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Returns the keyword-only parameters of the constructor by name, with default and annotation."""
        parameters = inspect.signature(cls, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
