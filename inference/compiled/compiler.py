"""Compilation of captured graphs by TorchInductor, and a cache of compiled programs on disk."""

import hashlib
import logging
import os
import platform
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

Compiled = Callable[[list[Tensor]], list[Tensor]]

MAX_PROGRAMS = 100  # in the cache; the oldest are deleted


def compiled(graph: GraphModule, given: Sequence[Tensor], path: Path | None = None) -> Compiled:
    """Compiles a graph. The compiled code uses torch's RNG, as the graph does.

    On the CPU the program is compiled ahead of time, so that it can be kept in a file. On a GPU
    `torch.compile` compiles it when it first runs, and keeps the kernels in a cache of its own: torch 2.11
    crashes when it loads a program that was compiled ahead of time for a GPU.

    Args:
        graph: a recorded graph. It may change its inputs in place.
        given: its inputs.
        path: file to keep the compiled program in; by default a temporary one.

    Returns:
        A function of the list of inputs.

    Raises:
        Exception: the graph cannot be compiled.
    """
    # The user cannot do anything about a missing CUDA compiler or torch's own deprecations.
    for name in ("torch.utils.cpp_extension", "torch._inductor", "torch._export", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fold_uniform_tensors(graph)
    # reorder_for_peak_memory: torch 2.10 changes the order of the random numbers with it.
    settings: dict[str, Any] = {"fallback_random": True, "reorder_for_peak_memory": False}
    if any(value.is_cuda for value in given):
        return _compiled_when_run(graph, settings)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = str(Path(folder) / "step.pt2")
        with torch.no_grad():
            exported = torch.export.export(graph, tuple(given), strict=False)
        # vec_isa_ok: trust the processor's flags. Trying each of its vector instructions takes 6 seconds.
        settings["cpp.vec_isa_ok"] = True
        torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=settings)
        if path:
            _keep(Path(package), path)
        return load_program(Path(package))


def _compiled_when_run(graph: GraphModule, settings: dict[str, Any]) -> Compiled:
    program = torch.compile(graph, fullgraph=True, dynamic=False, options=settings)
    return lambda inputs: program(*inputs)


def load_program(path: Path) -> Compiled:
    """Loads a compiled program from a file. Takes milliseconds and does not import the compiler.

    Raises:
        RuntimeError: the file is not a program of this version of torch.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return loader.run


def cached_program(path: Path) -> Compiled | None:
    """Loads a program from the cache, or returns None if it is not there or damaged."""
    try:
        with zipfile.ZipFile(path) as package:
            if package.testzip():
                return None
        program = load_program(path)
        os.utime(path)
    except (OSError, RuntimeError, zipfile.BadZipFile):
        return None
    return program


def cache_path(key: str) -> Path:
    """Returns the file of a program in the cache: in $PPL_MODELS_CACHE, by default ~/.cache/ppl-models.

    Args:
        key: everything that the program depends on, apart from the versions and the machine, which are added.
    """
    machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    versions = (torch.__version__, torch.get_default_dtype(), torch.get_float32_matmul_precision())
    digest = hashlib.sha256(repr((key, machine, versions, _sources())).encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PPL_MODELS_CACHE") or home / "ppl-models") / f"{digest}.pt2"


def _sources() -> str:
    """A digest of the source files of the models, the estimators and the training."""
    root = Path(__file__).parents[2]
    files = [*root.glob("ppl_models/**/*.py"), *root.glob("inference/*/*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def _keep(package: Path, path: Path) -> None:
    """Copies a program into the cache, whole or not at all. Does nothing if it cannot be written to."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(package.read_bytes())
        os.replace(name, path)
        programs = sorted(path.parent.glob("*.pt2"), key=lambda program: program.stat().st_mtime)
        for program in programs[:-MAX_PROGRAMS]:
            program.unlink()


def fold_uniform_tensors(graph: GraphModule) -> None:
    """Replaces expanded constants by `full`: TorchInductor 2.14 fails at two `expand` of one in a row."""
    aten = torch.ops.aten
    values: dict[Any, Any] = {}
    for node in list(graph.graph.nodes):
        if node.target in (
            aten.ones.default,
            aten.zeros.default,
            aten.new_zeros.default,
            aten.new_ones.default,
        ):
            values[node] = float(node.target in (aten.ones.default, aten.new_ones.default))
        elif node.target is aten.full.default:
            values[node] = node.args[1]
        elif node.target is aten.lift_fresh_copy.default and node.args[0].op == "get_attr":
            constant = getattr(graph, node.args[0].target)
            if constant.numel() == 1:
                values[node] = constant.item()
        elif node.target is aten.expand.default and node.args[0] in values:
            like, value = node.meta["val"], values[node.args[0]]
            with graph.graph.inserting_before(node):
                settings = {"dtype": like.dtype, "device": like.device}
                full = graph.graph.call_function(aten.full.default, (list(like.shape), value), settings)
            full.meta = dict(node.meta)
            node.replace_all_uses_with(full)
            graph.graph.erase_node(node)
            values[full] = value
    graph.graph.eliminate_dead_code()
    graph.recompile()
