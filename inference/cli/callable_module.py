"""Command modules that share their name with a public function, and can be called like it."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module whose call is a call of the public function of its name.

    `import inference.evaluate` binds the name `evaluate` of the package to the module. With this class
    `inference.evaluate(...)` and `from inference import evaluate` still work after it.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the public function with the module's name."""
        package, _, name = self.__name__.rpartition(".")
        return import_module(package).__getattr__(name)(*args, **kwargs)


def make_callable(name: str) -> None:
    """Makes a module callable.

    Args:
        name: of the module, its `__name__`.
    """
    sys.modules[name].__class__ = CallableModule
