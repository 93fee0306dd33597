"""Gradient evaluations a second of two small networks on a GPU, as captured CUDA graphs: one, several on streams, channels-last, eager; and
of several processes that share the card. fp32 without TF32, cuDNN's deterministic algorithms, random images. The output is layouts.txt.

    python results/gpu/layouts.py alone              # one process
    python results/gpu/layouts.py profile            # the kernels of one evaluation, by time
    python results/gpu/layouts.py worker resnet20 START SECONDS    # of several that begin at the same second (time.time()); sum their rates
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import models

torch.backends.cudnn.deterministic = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
NETS = {"resnet20": ("resnet20", 128, 32, {}), "wrn": ("wide_resnet", 64, 16, {"depth": 10, "width": 1})}
Graph = tuple[torch.cuda.CUDAGraph, Any]


def step_of(net: str, channels_last: bool = False) -> Callable[[], object]:
    name, batch, size, options = NETS[net]
    torch.manual_seed(0)
    model, x = (
        models.build(name, classes=10, channels=3, image_size=size, **options).cuda(),
        torch.randn(batch, 3, size, size, device="cuda"),
    )
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y, weights = torch.randint(10, (batch,), device="cuda"), list(model.parameters())
    return lambda: torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), weights)


def capture(step: Callable[[], object]) -> Graph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph, stream


def rate(graphs: list[Graph], seconds: float = 0.6) -> float:
    """Evaluations a second of all graphs together, each on a stream of its own."""
    began, done = time.time(), 0
    while time.time() - began < seconds:
        for _ in range(4):
            for graph, stream in graphs:
                with torch.cuda.stream(stream):
                    graph.replay()
                done += 1
        torch.cuda.synchronize()
    return done / (time.time() - began)


def alone() -> None:
    for net in NETS:
        graphs = [capture(step_of(net))]
        print(net, "one stream", round(rate(graphs)), flush=True)
        for count in (4, 16):
            graphs += [capture(step_of(net)) for _ in range(count - len(graphs))]
            print(net, count, "streams", round(rate(graphs)), flush=True)
        print(net, "channels_last", round(rate([capture(step_of(net, channels_last=True))])), flush=True)
        step = step_of(net)
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        began = time.time()
        for _ in range(40):
            step()
        torch.cuda.synchronize()
        print(net, "eager", round(40 / (time.time() - began)), flush=True)


def profiled() -> None:
    from torch.profiler import ProfilerActivity, profile

    for net in NETS:
        step = step_of(net)
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            step()
            torch.cuda.synchronize()
        seen.export_chrome_trace("/tmp/layouts.json")
        found: dict[tuple[str, str], list[float]] = {}
        for event in json.loads(Path("/tmp/layouts.json").read_text("utf-8"))["traceEvents"]:
            if event.get("cat") == "kernel":
                found.setdefault((event["name"][:90], str(event["args"].get("grid"))), []).append(event["dur"])
        print(net, "kernels", sum(map(len, found.values())), "us", round(sum(map(sum, found.values()))))
        for (name, grid), times in sorted(found.items(), key=lambda one: -sum(one[1]))[:14]:
            print("  ", len(times), round(sum(times)), name, grid)


def worker(net: str, start: float, seconds: float) -> None:
    graphs = [capture(step_of(net))]
    while time.time() < start:
        time.sleep(0.001)
    print("rate", round(rate(graphs, seconds), 1), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    else:
        {"alone": alone, "profile": profiled}[sys.argv[1]]()
