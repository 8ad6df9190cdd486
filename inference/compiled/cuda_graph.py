"""A compiled program recorded as one CUDA graph, which the GPU runs without Python between its kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.backend.snapshots import RandomState, Snapshot
from inference.compiled.compiler import Compiled

WARM_UP = 2  # runs before the recording, in which the kernels are loaded and the libraries take their memory


def as_cuda_graph(run: Compiled, given: Sequence[Tensor]) -> Compiled:
    """Records a program as a CUDA graph.

    The graph has fixed addresses. It uses the memory of the tensors given here. A call with another tensor
    in the place of one of them copies its values there first. The graph draws the random numbers that the
    program would draw. Recording leaves the tensors and the RNG state unchanged.

    Args:
        run: a program on a CUDA device, which may change its inputs in place.
        given: its inputs.

    Returns:
        A function of the list of inputs. Each call overwrites the results of the last one.

    Raises:
        RuntimeError: the program does something that a graph cannot hold, such as waiting for the device.
    """
    places = list(given)
    device = places[0].device
    before, random = Snapshot(places), RandomState(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run(places)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(places)
    before.restore()
    random.restore()

    def replay(inputs: list[Tensor]) -> list[Tensor]:
        for place, value in zip(places, inputs, strict=True):
            if place.data_ptr() != value.data_ptr():
                place.copy_(value)
        graph.replay()
        return results

    return replay
