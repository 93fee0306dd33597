"""Run training steps eagerly, compiled, or as captured CUDA graphs."""

import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sam.config import ConfigError
from sam.core.passes import are_stochastic
from sam.optimizers.base import Method
from sam.settings import TrainConfig
from sam.training.objective import Objective

WARM = 2  # eager steps before a capture: they allocate what lives on (momentum, room for w), and settle the libraries' choices


def compiled(model: nn.Module, mode: str, device: torch.device) -> nn.Module:
    """`model` itself for "none"; else its compiled twin (a mode of `torch.compile`), which shares every parameter and buffer: state_dict,
    evaluation and hooks stay those of the plain model. One graph for each batch shape. ConfigError on a CPU without a C++ compiler."""
    if mode == "none":
        return model
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(f"compile={mode}: compiling for a CPU needs g++ or clang++, and neither is here; allowed without: compile=none.")
    import torch._dynamo  # here: it takes a second that no other run should wait

    # A sweep may compile many networks in one process. After the eighth torch would go on with eager ones, and say so in a log only.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    twin: nn.Module = torch.compile(model, mode=None if mode == "default" else mode, dynamic=False)  # type: ignore[assignment]  # given a module, it returns one
    return twin


class Steps:
    """Takes steps: `steps(images, labels, rate, diagnose)`."""

    def __init__(self, optimizer: Method, objective: Objective) -> None:
        self.optimizer, self.objective = optimizer, objective

    def __call__(self, images: Tensor, labels: Tensor, rate: float, diagnose: bool) -> None:
        self._take(images, labels, rate, diagnose)

    def forget(self) -> None:
        """Drop everything that points at the optimizer's state, which was replaced."""

    def _take(self, images: Tensor, labels: Tensor, rate: float | Tensor, diagnose: bool) -> None:
        self._prepare(rate, diagnose)
        closures, weights = self.objective.closures(images, labels)
        self.optimizer.step(closures, weights=weights)

    def _prepare(self, rate: float | Tensor, diagnose: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.diagnose = diagnose


class CudaGraphs:
    """Capture work on a separate stream. All graphs share their memory, and so never run at the same time."""

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._stream, self._pool, self._generators = torch.cuda.Stream(device), torch.cuda.graph_pool_handle(), generators

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do work now, on the stream of the captures: the nodes that accumulate gradients belong to where they first ran."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` launches, without doing it; returns the function that does it, on the current stream. RuntimeError."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:  # or a replay would draw what was drawn before
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph.replay


class GraphedSteps(Steps):
    """Steps as CUDA graphs: one for every batch size and phase of the method, with and without diagnostics; the same arithmetic in the
    same order. A graph repeats what was launched, at the same addresses: the weights stay where they are; the batch, the learning rate and
    XSAM's alpha are written to where the graph reads them; random streams are registered with it. Steps in which the host decides (XSAM's
    searches), and the first `WARM` of each kind, run eagerly, on the stream of the capture."""

    def __init__(self, optimizer: Method, objective: Objective, graphs: CudaGraphs) -> None:
        super().__init__(optimizer, objective)
        self.graphs = graphs
        self.rate = torch.zeros((), device=optimizer.parameters[0].device)
        self.forget()

    def forget(self) -> None:
        self._seen: dict[Hashable, int] = {}
        self._captured: dict[Hashable, Callable[[Tensor, Tensor], None]] = {}

    def __call__(self, images: Tensor, labels: Tensor, rate: float, diagnose: bool) -> None:
        kind = (len(labels), diagnose, self.optimizer.phase)
        seen = self._seen.get(kind, 0)
        if not self.optimizer.repeats or seen < WARM:
            self._seen[kind] = seen + self.optimizer.repeats
            with self.graphs.aside():
                self._take(images, labels, rate, diagnose)
            return
        self.rate.fill_(rate)
        if kind not in self._captured:
            self._captured[kind] = self._capture(images, labels, diagnose)
        self._captured[kind](images, labels)
        self._prepare(rate, diagnose)

    def _capture(self, images: Tensor, labels: Tensor, diagnose: bool) -> Callable[[Tensor, Tensor], None]:
        """Capture a step on these inputs, without taking it; returns the function that takes it on others."""
        optimizer, noted, already = self.optimizer, self.objective.noted, len(self.objective.noted)
        x, y = (t.clone(memory_format=torch.preserve_format) for t in (images, labels))
        before = optimizer.forwards, optimizer.backwards, optimizer.steps_taken
        try:
            replay = self.graphs.capture(lambda: self._take(x, y, self.rate, diagnose))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"cuda_graph=true: a step of this run cannot be captured ({reason}); allowed: false.") from error
        forwards, backwards = optimizer.forwards - before[0], optimizer.backwards - before[1]
        optimizer.forwards, optimizer.backwards, optimizer.steps_taken = before  # nothing was done yet
        own, noted[already:] = noted[already:], []
        stats, bad = dict(optimizer.stats), optimizer.bad

        def take(images: Tensor, labels: Tensor) -> None:
            x.copy_(images)
            y.copy_(labels)
            replay()
            optimizer.stats, optimizer.bad = dict(stats), bad
            optimizer.forwards += forwards
            optimizer.backwards += backwards
            optimizer.steps_taken += 1
            noted.extend(own)

        return take


def steps_for(config: TrainConfig, model: nn.Module, optimizer: Method, objective: Objective) -> Steps:
    """The steps of a run as configured. ConfigError where they cannot be captured."""
    if not config.cuda_graph:
        return Steps(optimizer, objective)
    device = optimizer.parameters[0].device
    if device.type != "cuda":
        raise ConfigError(f"cuda_graph=true: this run is on {device}; a CUDA device is needed; allowed: false.")
    if are_stochastic(model.train().modules()):
        raise ConfigError("cuda_graph=true: this model drops out at random, and its passes share a mask by the host; allowed: false.")
    return GraphedSteps(optimizer, objective, CudaGraphs(device, optimizer.generators))
