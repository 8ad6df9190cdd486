"""The registered models by name, and models from the content of a file."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ppl_models.base import FORMAT, LatentVariableModel

MODELS: dict[str, type[LatentVariableModel]] = {}  # in the order in which tables and help texts list them

Model = TypeVar("Model", bound=LatentVariableModel)


@overload
def register(name: str) -> Callable[[type[Model]], type[Model]]: ...
@overload
def register(name: str, cls: type[Model]) -> type[Model]: ...
def register(name: str, cls: type[Model] | None = None) -> Any:
    """Registers a model class under a name, for the command line, the tests and `from_saved`.

    Use it as a decorator, `@register("my_vae")`, or as a function, `register("my_vae", MyVAE)`. A class that
    is defined again, as in a notebook, replaces its earlier definition.

    Args:
        name: a lower-case identifier.
        cls: a subclass of `LatentVariableModel`.

    Returns:
        The class.

    Raises:
        ValueError: The name is malformed or belongs to another class, or `cls` is not a model class.
    """
    if cls is None:
        return lambda decorated: register(name, decorated)
    if not (name.isidentifier() and name == name.lower()):
        raise ValueError(f"{name!r} is not a lower-case identifier. Choose a name such as 'my_vae'.")
    if not (isinstance(cls, type) and issubclass(cls, LatentVariableModel)):
        raise ValueError(f"{cls!r} is not a subclass of LatentVariableModel. Register a model class.")
    taken = MODELS.get(name, cls)
    if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{name!r} is the name of {taken.__qualname__}. Choose another name.")
    MODELS[name] = cls
    cls.registered_name = name
    return cls


def description(cls: type[LatentVariableModel]) -> str:
    """Returns a model's description in one line: the first of its file's docstring, or else of its own.

    The file of a script or a notebook is not about one model. There the class's docstring comes first.
    """
    words = [getattr(sys.modules.get(cls.__module__), "__doc__", None), cls.__doc__]
    if cls.__module__ == "__main__":
        words.reverse()
    return next((text.strip().partition("\n")[0] for text in words if text and text.strip()), "")


def from_saved(content: Mapping[str, Any]) -> LatentVariableModel:
    """Builds a model from the content of a file that `LatentVariableModel.save` wrote.

    Args:
        content: the dictionary that `torch.load(path, weights_only=True)` returns.

    Returns:
        The model in evaluation mode, in the precision in which it was saved, on the CPU.

    Raises:
        ValueError: The content is not a saved model, or no registered class fits it.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"The content is not a model of format {FORMAT}. Write it with model.save(path).")
    name = content.get("model")
    cls = next((cls for key, cls in MODELS.items() if name in (key, cls.__name__)), None)
    if cls is None:
        raise ValueError(f"{name!r} is not a registered model. Register its class first.")
    try:
        model = cls(tuple(content["shape"]), content["classes"], **content["options"])
        parameters = content["parameters"]
        floating = [value.dtype for value in parameters.values() if value.is_floating_point()]
        model = model.to(floating[0]) if floating else model
        model.load_state_dict(parameters)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The content does not fit {name}: {reason}") from error
    return model.eval()
