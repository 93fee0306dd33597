"""What a step of each method costs, in steps of plain torch.optim.SGD, and how near the passes run to the machine's limit.

    python scripts/benchmark.py preset=cpu                                     # WRN-16-4, batch 32, one thread: three to six minutes
    python scripts/benchmark.py preset=gpu                                     # WRN-28-10, batch 128, bf16
    python scripts/benchmark.py preset=cpu precision=bf16 batch=128 rounds=5
    python scripts/benchmark.py preset=cpu parts=profile                       # where the time of a step goes
    python scripts/benchmark.py preset=tiny parts=methods,precision            # seconds; only to see that it works

Every round times one step of every method on the same batch, in random order; a score is the median over rounds of t(method) / t(SGD)
with its quartiles, in process CPU time with one thread (on a GPU: CUDA events). SGD is timed twice: how far the second is from 1 is the
resolution. With the package of requirements-bench.txt a peer's SAM takes part. The options are the fields of `Setting` below.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import models
from data.augment import Augment
from data.image_data import normalize
from sam.config import DEFAULT_ALPHAS, PRECISIONS, ConfigError, OptimizerConfig
from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.device import autocast, loss_scale, number_format, pick_device
from sam.core.scaling import LossScale
from sam.optimizers.base import Method
from sam.optimizers.build import build
from sam.results.records import plain, write_atomic
from sam.sharpness import ascent
from sam.sharpness.dataset_loss import DatasetLoss
from sam.training.environment import environment
from sam.training.graphs import CudaGraphs, GraphedSteps
from sam.training.loop import DIAGNOSE_EVERY
from sam.training.progress import clock

ROOT = Path(__file__).resolve().parents[1]
Step = Callable[[], object]
IMAGES = 50_000  # an epoch of CIFAR, over which XSAM's search is spread


@dataclass(frozen=True)
class Setting:
    """depth, width: of the WideResNet; size: of the images; steps: timed together in a round (a tiny net needs several);
    search_every: rounds between XSAM's search steps; matmul: side of the matrices whose product is the ceiling; images: in the evaluator's
    set, in two batches; parts: which reports to make; out: the JSON file.

    arithmetic: what torch.compile or flat buffers make of a step's vector arithmetic. graphs: the steps as CUDA graphs. seeds: several
    runs of a small model side by side on one GPU, each a graph on a stream of its own."""

    preset: str = "cpu"
    device: str = "cpu"
    depth: int = 16
    width: int = 4
    size: int = 32
    batch: int = 32
    precision: str = "fp32"
    rounds: int = 9
    steps: int = 1
    search_every: int = 3
    matmul: int = 1024
    images: int = 64
    parts: str = "methods,ceiling,evaluator,memory,start,precision,profile"
    peak: str = ""  # internal: take steps of this method alone, and print the peak of memory and the seconds a step
    out: str = "runs/benchmark-{preset}.json"


PRESETS = {
    "cpu": Setting(),
    "gpu": Setting(
        "gpu",
        "cuda",
        depth=28,
        width=10,
        batch=128,
        precision="bf16",
        rounds=21,
        steps=10,
        matmul=8192,
        images=4000,
        parts=f"{Setting.parts},arithmetic,graphs,seeds",
    ),
    "tiny": Setting("tiny", depth=10, width=1, size=8, batch=8, rounds=3, search_every=2, matmul=64, images=16),
}

# name -> (optimizer settings, gradient evaluations a step, what a step may cost at most in steps of SGD)
METHODS: dict[str, tuple[dict[str, Any], int, float]] = {
    "sgd": ({"method": "sgd"}, 1, 1.02),
    "rand_sam": ({"method": "rand_sam"}, 1, 1.10),
    "sam": ({"method": "sam"}, 2, 2.04),
    "sam_n3": ({"method": "sam", "ascent_steps": 3}, 4, 4.08),
    "xsam": ({"method": "xsam", "alpha": 0.7}, 2, 2.07),
    "xsam_search": ({"method": "xsam", "alpha_refresh": 1e-9}, 2, 9.3),
}
BASE = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
DECAY = 5e-4


class Bench:
    """One model for each contender, the same weights and the same batch for all."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.device = setting, pick_device(setting.device)
        self.autocast = autocast(setting.precision, self.device)
        draw = torch.Generator().manual_seed(0)
        shape = (setting.batch, 3, setting.size, setting.size)
        pixels = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        self.pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (setting.batch,), generator=draw).to(self.device)
        self.mean, self.std = (torch.full((3,), value, device=self.device) for value in (0.5, 0.25))
        self.images = normalize(self.pixels, self.mean, self.std)

    def model(self) -> nn.Module:
        s = self.setting
        torch.manual_seed(0)
        network = models.build("wide_resnet", classes=10, channels=3, image_size=s.size, depth=s.depth, width=s.width)
        return network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def closure(
        self, model: nn.Module, images: Callable[[], Tensor] | None = None, scaling: LossScale | None = None
    ) -> Callable[..., Tensor]:
        def evaluate(backward: bool = True) -> Tensor:
            with self.autocast():
                loss = functional.cross_entropy(model(images() if images else self.images), self.labels)
            if backward:
                (loss if scaling is None else loss * scaling.value).backward()
            return loss

        return evaluate

    def plain_sgd(self) -> Step:
        model = self.model()
        optimizer = torch.optim.SGD(model.parameters(), weight_decay=DECAY, fused=True, **BASE)  # type: ignore[arg-type]
        closure = self.closure(model)

        def step() -> None:
            optimizer.zero_grad()
            closure()
            optimizer.step()

        return step

    def passes_alone(self) -> Step:
        model = self.model()
        closure = self.closure(model)

        def step() -> None:
            model.zero_grad()
            closure()

        return step

    def forward_alone(self) -> Step:
        """As in XSAM's probes: train mode, no graph."""
        closure = self.closure(self.model())
        return lambda: torch.no_grad()(closure)(backward=False)

    def optimizer(self, name: str, model: nn.Module, **other: Any) -> Method:
        config = OptimizerConfig(rho=0.05, weight_decay=DECAY, **BASE, **METHODS[name][0], **other)  # type: ignore[arg-type]
        generator = torch.Generator(self.device).manual_seed(0)
        scaling = loss_scale(self.setting.precision, self.device)
        return build(model, config, steps_per_epoch=1_000_000, generator=generator, scaling=scaling)

    def ours(self, name: str, loader: bool = False, **other: Any) -> Step:
        """A step as the training loop takes it, with its diagnostics in every tenth; `loader`: with indexing and augmentation too; `other`:
        settings of the optimizer."""
        model, count = self.model(), [0]
        optimizer = self.optimizer(name, model, **other)
        augment, draws = Augment(crop_padding=4 if self.setting.size > 8 else 1, flip=True), torch.Generator(self.device).manual_seed(0)
        order = torch.randperm(self.setting.batch)

        def fresh() -> Tensor:
            return augment(self.pixels[order.to(self.device)], draws, self.mean, self.std)

        closure = self.closure(model, fresh if loader else None, optimizer.scaling)

        def step() -> None:
            optimizer.diagnose = count[0] % DIAGNOSE_EVERY == 0
            count[0] += 1
            optimizer.step(closure)

        return step

    def peer(self) -> Step | None:
        """SAM of pytorch_optimizer (kozistr), around the same fused SGD; None if it is not installed."""
        try:
            from pytorch_optimizer import SAM as PeerSAM
        except ImportError:
            return None
        model = self.model()
        make: Any = PeerSAM  # its annotations allow neither SGD's keywords nor a closure that returns a tensor
        optimizer = make(model.parameters(), torch.optim.SGD, rho=0.05, weight_decay=DECAY, fused=True, **BASE)
        evaluate = self.closure(model)

        def closure() -> Tensor:
            optimizer.zero_grad()
            return evaluate()

        def step() -> None:
            closure()
            optimizer.step(closure)

        return step

    def stream(self) -> AbstractContextManager[object]:
        """A stream of its own for what is launched inside."""
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else nullcontext()

    def graphed(self, name: str) -> Step:
        """`ours` with `cuda_graph=true`."""
        model, count = self.model(), [0]
        optimizer = self.optimizer(name, model)
        closure = self.closure(model, scaling=optimizer.scaling)
        take = GraphedSteps(optimizer, lambda x, y: ([closure], [1.0]), [], CudaGraphs(self.device, optimizer.generators))

        def step() -> None:
            count[0] += 1
            take(self.images, self.labels, BASE["lr"], diagnose=count[0] % DIAGNOSE_EVERY == 0)

        return repeat(step, 4 * DIAGNOSE_EVERY)  # both kinds of step are captured

    def graphed_sgd(self) -> Step:
        """`plain_sgd` as one CUDA graph."""
        step, graphs = self.plain_sgd(), CudaGraphs(self.device, [])
        with graphs.aside():
            repeat(step, 3)
        return graphs.capture(step)  # type: ignore[arg-type]

    def beside(self, name: str) -> Callable[[], float]:
        """Seconds of one step whose gradients are handed over ready: what a method does beside its passes."""
        model = self.model()
        optimizer, parameters = self.optimizer(name, model), list(model.parameters())
        optimizer.diagnose = False
        passes = METHODS[name][1]
        kept = [torch.randn_like(p) * 1e-3 for p in parameters]
        rooms = [[torch.empty_like(p) for p in parameters] for _ in range(passes)]
        loss, calls = torch.zeros((), device=self.device), [0]

        def closure(backward: bool = True) -> Tensor:
            if backward:
                for p, g in zip(parameters, rooms[calls[0] % passes], strict=True):
                    p.grad = g
                calls[0] += 1
            return loss

        def measure() -> float:
            for room in rooms:
                torch._foreach_copy_(room, kept)
            return self.seconds(lambda: optimizer.step(closure))

        return measure

    def seconds(self, step: Step, steps: int = 1) -> float:
        """Of one call: process CPU time; on a GPU between two CUDA events."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(steps):
                step()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / steps
        began = time.process_time()
        for _ in range(steps):
            step()
        return (time.process_time() - began) / steps


def repeat(step: Step, times: int) -> Step:
    for _ in range(times):
        step()
    return step


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def interleave(
    bench: Bench, contenders: dict[str, Step], rounds: int, steps: int, every: dict[str, int], say: str
) -> dict[str, list[float]]:
    """Seconds a step of each contender and round (NaN where it sat out). Every round has a random order: if the same one always came
    before another, its state of caches and memory would be part of the other's time."""
    draw = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names, began = list(contenders), time.monotonic()
    for step in contenders.values():
        step()
    for index in range(rounds):
        for name in draw.sample(names, len(names)):
            out = index % every.get(name, 1) != 0
            times[name].append(float("nan") if out else bench.seconds(contenders[name], 1 if name in every else steps))
        if index + 1 < rounds:
            left = clock((time.monotonic() - began) / (index + 1) * (rounds - index - 1))
            print(f"{say}: round {index + 1} of {rounds}, about {left} left", file=sys.stderr, flush=True)
    return times


def ratios(times: dict[str, list[float]], name: str, base: str) -> dict[str, float]:
    return quartiles([a / b for a, b in zip(times[name], times[base], strict=True) if a == a and b == b])


def methods(bench: Bench) -> dict[str, Any]:
    """Steps of every method against plain SGD; what a step costs beside its passes; the data pipeline."""
    setting = bench.setting
    contenders = {"torch_sgd": bench.plain_sgd(), "torch_sgd_again": bench.plain_sgd(), "forward_backward": bench.passes_alone()}
    contenders["forward"] = bench.forward_alone()
    contenders |= {name: bench.ours(name) for name in METHODS}
    contenders["sgd_with_loader"] = bench.ours("sgd", loader=True)
    if (peer := bench.peer()) is not None:
        contenders |= {"peer_sam": peer, "sam_as_peer": bench.ours("sam", weight_decay_mode="optimizer")}
    times = interleave(bench, contenders, setting.rounds, setting.steps, {"xsam_search": setting.search_every}, "steps")
    score = {name: ratios(times, name, "torch_sgd") for name in contenders}
    seconds = {name: statistics.median(t for t in values if t == t) for name, values in times.items()}
    one, probe, grid = score["forward_backward"]["median"], score["forward"]["median"], len(DEFAULT_ALPHAS)
    bound = {name: passes * one + (grid * probe if name == "xsam_search" else 0) for name, (_, passes, _) in METHODS.items()}
    each = -(-IMAGES // setting.batch)
    search = score["xsam_search"]["median"] - score["xsam"]["median"]
    spread = {"steps_per_epoch": each, "ratio": score["xsam"]["median"] + search / each}
    over_sam = ratios(times, "xsam", "sam")  # round by round, as all ratios
    spread |= {f"over_sam_{name}": value + search / each / score["sam"]["median"] for name, value in over_sam.items()}
    beside = {}
    for name in METHODS:
        measure = bench.beside(name)
        beside[name] = statistics.median([measure() for _ in range(8)][1:])
    augment, draws = Augment(crop_padding=4 if setting.size > 8 else 1, flip=True), torch.Generator(bench.device).manual_seed(0)
    pipeline = [bench.seconds(lambda: augment(bench.pixels, draws, bench.mean, bench.std), setting.steps) for _ in range(setting.rounds)]
    report: dict[str, Any] = {
        "ratio": score,
        "seconds": seconds,
        "images_per_second": {name: setting.batch / value for name, value in seconds.items()},
        "limit": {name: limit for name, (_, _, limit) in METHODS.items()},
        "passes_alone": bound,
        "beside_passes_seconds": beside,
        "beside_passes_share_of_sgd_step": {name: value / seconds["torch_sgd"] for name, value in beside.items()},
        "xsam_over_an_epoch": spread,
        "pipeline_images_per_second": setting.batch / statistics.median(pipeline),
        "loader_over_fixed_batch": ratios(times, "sgd_with_loader", "sgd"),
    }
    if peer is not None:
        report |= {"sam_over_peer": ratios(times, "sam", "peer_sam"), "sam_as_peer_over_peer": ratios(times, "sam_as_peer", "peer_sam")}
    return report


def ceiling(bench: Bench, step_seconds: float | None) -> dict[str, Any]:
    """The matmul rate of each number format, and the share of it that an SGD step's convolutions and matmuls reach."""
    n, rates = bench.setting.matmul, {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
        a @ b
        rates[name] = 2 * n**3 / min(bench.seconds(lambda a=a, b=b: a @ b, 3) for _ in range(5))  # type: ignore[misc]
    model = bench.model()
    with FlopCounterMode(display=False) as counter:
        bench.closure(model)()
    report: dict[str, Any] = {"matmul_per_second": rates, "flop_per_gradient": counter.get_total_flops()}
    if step_seconds:
        used = "bf16" if bench.setting.precision in ("bf16", "fp16") else "fp32"
        report |= {"against": used, "fraction": counter.get_total_flops() / step_seconds / rates[used]}
    return report


def evaluator(bench: Bench) -> dict[str, Any]:
    """L^Asc, over the whole set and batch by batch, against the bare passes it needs: two forwards and a backward. In fp32, as always."""
    setting, model = bench.setting, bench.model()
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (setting.images, 3, setting.size, setting.size), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (setting.images,), generator=draw).to(bench.device)
    pixels = pixels.to(bench.device).contiguous(memory_format=torch.channels_last)
    size = -(-setting.images // 2)
    loss = DatasetLoss(model, pixels, labels, prepare=lambda x: normalize(x, bench.mean, bench.std), batch_size=size)
    ready = [(normalize(x, bench.mean, bench.std), y) for x, y in loss.batches()]

    def bare() -> None:
        with loss.measuring():
            for x, y in ready:
                torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
                with torch.no_grad():
                    functional.cross_entropy(model(x), y)

    contenders: dict[str, Step] = {
        "bare": bare,
        "full": lambda: ascent.full(loss, [0.05]),
        "batchwise": lambda: ascent.batchwise(loss, [0.05]),
    }
    times = interleave(bench, contenders, max(3, setting.rounds // 3), 1, {}, "evaluator")
    return {f"{name}_over_bare": ratios(times, name, "bare") for name in ("full", "batchwise")} | {
        "images_per_second": setting.images / statistics.median(times["full"])
    }


def memory(bench: Bench, arguments: list[str]) -> dict[str, Any]:
    """The peak of memory in MB. GPU: the allocator's. CPU: of the resident set of a process of its own, with the seconds that a step takes
    there; the same in processes that give freed memory back to the system (`keep_freed_memory` leaves it alone where a MALLOC_ variable is
    set: this one changes nothing else for one thread), and the ratio of the two."""
    gpu = bench.device.type == "cuda"
    found: dict[str, Any] = {"unit": "MB", "measure": "max_memory_allocated" if gpu else "VmHWM of a process"}

    def alone(name: str, **environment: str) -> tuple[float, float]:
        command = [sys.executable, __file__, *arguments, f"peak={name}"]
        clean = {variable: value for variable, value in os.environ.items() if not variable.startswith("MALLOC_")}
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=clean | environment)
        high, seconds = map(float, ran.stdout.split())
        return high, seconds

    for name in ("sgd", "sam", "xsam"):
        if gpu:
            found[name] = alone(name)[0]
            continue
        kept, back = zip(*((alone(name), alone(name, MALLOC_ARENA_MAX="64")) for _ in range(3)), strict=True)
        found[name], returned = (statistics.median(high for high, _ in runs) for runs in (kept, back))
        ratio = quartiles([ours / theirs for (_, ours), (_, theirs) in zip(kept, back, strict=True)])
        found.setdefault("kept_over_returned", {})[name] = {"seconds": ratio, "peak": found[name] / returned}
    return found


def peak(bench: Bench) -> tuple[float, float]:
    """(MB, median seconds a step) of a process that takes five steps."""
    step = bench.ours(bench.setting.peak)
    seconds = statistics.median([bench.seconds(step) for _ in range(5)][1:])
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.device) / 1e6, seconds
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), seconds


def start_up() -> dict[str, float]:
    """CPU seconds (user and system, the median of three) until a command is ready."""
    commands = {
        "import torch": ["-c", "import torch"],
        "train.py --help": ["train.py", "--help"],
        "train.py --cfg job": ["train.py", "--cfg", "job"],
    }
    found = {}
    for name, words in commands.items():
        each = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            each.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found[name] = statistics.median(each)
    return found


def precision_errors(device: torch.device, steps: int = 20) -> dict[str, float]:
    """||w - w64|| / ||w64 - w0|| after 20 SAM steps (rho 0.05, rate 0.005) of WRN-10-1 on 16 random 8x8 images; w64: in float64."""

    def train(precision: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = models.build("wide_resnet", classes=10, channels=3, image_size=8, depth=10, width=1).to(device, dtype).train()
        draw = torch.Generator().manual_seed(2)
        x = torch.randn(16, 3, 8, 8, generator=draw, dtype=torch.float64).to(device, dtype)
        y = torch.randint(0, 10, (16,), generator=draw).to(device)
        config, own = OptimizerConfig(rho=0.05, lr=0.005), torch.Generator(device)
        scaling = loss_scale(precision, device)
        optimizer = build(model, config, steps_per_epoch=steps, generator=own, scaling=scaling)
        context = autocast(precision, device)
        start = nn.utils.parameters_to_vector(model.parameters()).detach().double()

        def closure(backward: bool = True) -> Tensor:
            with context():
                loss = functional.cross_entropy(model(x), y)
            (loss if scaling is None else loss * scaling.value).backward()
            return loss

        with number_format(precision):
            for call in range(2 * steps):
                if call - int(optimizer.skipped) < steps:  # those that only find float16's scale are none of the 20
                    optimizer.step(closure)
        return start, nn.utils.parameters_to_vector(model.parameters()).detach().double()

    start, exact = train("fp32", torch.float64)
    return {name: ((train(name, torch.float32)[1] - exact).norm() / (exact - start).norm()).item() for name in PRECISIONS}


def profile(bench: Bench, steps: int = 3) -> dict[str, Any]:
    """Where the time of a SAM step goes: seconds a step and share of each operation (on a GPU: kernel), the largest first."""
    from torch.profiler import ProfilerActivity

    gpu = bench.device.type == "cuda"
    step = repeat(bench.ours("sam"), 3)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        repeat(step, steps)
        if gpu:
            torch.cuda.synchronize()
    took = {
        event.key.replace("Optimizer.step#", "Python, in "): (event.self_device_time_total if gpu else event.self_cpu_time_total)
        / 1e6
        / steps
        for event in profiler.key_averages()
        if not gpu or event.device_type == torch.autograd.DeviceType.CUDA
    }
    whole = sum(took.values())
    largest = sorted(took, key=took.__getitem__, reverse=True)[:15]
    return {
        "of": "kernels" if gpu else "operations",
        "seconds_per_step": whole,
        "largest": {name: {"seconds": took[name], "share": took[name] / whole} for name in largest},
    }


def arithmetic(bench: Bench) -> dict[str, Any]:
    """What SAM does to its vectors in a step (norm, climb, norm of the other gradient): as it is, through torch.compile, and if weights and
    gradients lay in flat buffers (which flatters it: gradients come tensor by tensor)."""
    points = [p.detach() for p in bench.model().parameters()]
    first, last = ([torch.randn_like(p) for p in points] for _ in range(2))  # gradients
    w, g, h = torch.randn(3, -(-sum(p.numel() for p in points) // 4096), 4096, device=bench.device)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in points)}

    def step() -> list[Tensor]:
        climb = Ascent(points, [0.05] * len(points))
        return [climb.climb(first), vectors.norm(last), *climb.points]  # all of it: what nobody reads, a compiler leaves out

    def flat() -> list[Tensor]:
        length = torch.linalg.vector_norm(torch.linalg.vector_norm(g, dim=1))
        return [length, torch.linalg.vector_norm(torch.linalg.vector_norm(h, dim=1)), torch.addcmul(w, g, 0.05 / length)]

    began = time.perf_counter()
    contenders: dict[str, Step] = {"eager": step, "compiled": repeat(torch.compile(step, dynamic=False), 2)}
    found["compiling_seconds"] = time.perf_counter() - began
    times = interleave(bench, contenders | {"flat": flat}, bench.setting.rounds, 3, {}, "arithmetic")
    found |= {f"{name}_seconds": statistics.median(values) for name, values in times.items()}
    return found | {f"{name}_over_eager": ratios(times, name, "eager") for name in ("compiled", "flat")}


def graphs(bench: Bench) -> dict[str, Any]:
    """Every method's step as a CUDA graph against plain SGD's as one, and the eager steps of both against the same."""
    setting = bench.setting
    contenders = {"torch_sgd": bench.graphed_sgd(), "torch_sgd_again": bench.graphed_sgd(), "torch_sgd_eager": bench.plain_sgd()}
    contenders |= {name: bench.graphed(name) for name in METHODS if name != "xsam_search"} | {"sam_eager": bench.ours("sam")}
    times = interleave(bench, contenders, setting.rounds, setting.steps, {}, "graphs")
    return {
        "ratio": {name: ratios(times, name, "torch_sgd") for name in contenders},
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "limit": {name: limit for name, (_, _, limit) in METHODS.items() if name in contenders},
    }


def seeds(bench: Bench, together: Sequence[int] = (1, 2, 4, 8)) -> dict[str, Any]:
    """SAM on WRN-16-4 (or what is smaller), several runs at a time in one process: steps a second of all, and that over one run's."""
    small = Bench(dataclasses.replace(bench.setting, depth=min(bench.setting.depth, 16), width=min(bench.setting.width, 4)))
    streams = [small.stream() for _ in range(max(together))]
    runs = [small.graphed("sam") for _ in streams]

    def all_of(count: int) -> float:
        began = time.perf_counter()
        for _ in range(small.setting.steps):
            for stream, run in zip(streams[:count], runs, strict=False):
                with stream:
                    run()
        if small.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / small.setting.steps

    times: dict[int, list[float]] = {count: [] for count in together}
    for _ in range(small.setting.rounds):
        for count in together:
            times[count].append(all_of(count))
    rate = {count: count / statistics.median(values) for count, values in times.items()}
    return {"steps_per_second": {str(n): r for n, r in rate.items()}, "over_one_run": {str(n): r / rate[1] for n, r in rate.items()}}


# name -> the report of a part, from what was typed and the parts before it, in the order in which they are made
PARTS: dict[str, Callable[[Bench, list[str], dict[str, Any]], dict[str, Any]]] = {
    "methods": lambda bench, arguments, report: methods(bench),
    "ceiling": lambda bench, arguments, report: ceiling(bench, report.get("methods", {}).get("seconds", {}).get("torch_sgd")),
    "evaluator": lambda bench, arguments, report: evaluator(bench),
    "memory": lambda bench, arguments, report: memory(bench, arguments),
    "start": lambda bench, arguments, report: start_up(),
    "precision": lambda bench, arguments, report: precision_errors(bench.device),
    "profile": lambda bench, arguments, report: profile(bench),
    "arithmetic": lambda bench, arguments, report: arithmetic(bench),
    "graphs": lambda bench, arguments, report: graphs(bench),
    "seeds": lambda bench, arguments, report: seeds(bench),
}
ON_A_GPU = ("graphs", "seeds")


def table(report: dict[str, Any]) -> str:
    lines = []
    if found := report.get("methods"):
        lines.append(
            f"{'step of':<18}{'t / t(SGD)':>11}   {'quartiles':<17}{'at most':>8}"
            + f"{'passes alone':>14}{'images/s':>10}{'beside the passes':>20}"
        )
        for name, score in found["ratio"].items():
            limit, beside = found["limit"].get(name), found["beside_passes_seconds"].get(name)
            lines.append(
                f"{name:<18}{score['median']:>11.3f}   [{score['low']:.3f}, {score['high']:.3f}]".ljust(49)
                + (f"{limit:>8.2f}" if limit else " " * 8)
                + (f"{found['passes_alone'][name]:>14.3f}" if name in found["passes_alone"] else " " * 14)
                + f"{found['images_per_second'][name]:>10.1f}"
                + (f"{1e3 * beside:>17.2f} ms" if beside is not None else "")
            )
        spread = found["xsam_over_an_epoch"]
        low, middle, high = (spread[f"over_sam_{name}"] for name in ("low", "median", "high"))
        lines.append(
            f"XSAM over an epoch of {spread['steps_per_epoch']} steps: {spread['ratio']:.3f}; "
            f"over SAM: {middle:.3f} [{low:.3f}, {high:.3f}] (at most 1.015)"
        )
        if "sam_over_peer" in found:
            default, same = (
                f"{r['median']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in (found["sam_over_peer"], found["sam_as_peer_over_peer"])
            )
            lines.append(f"SAM over pytorch_optimizer's SAM: {default}; with weight decay in the optimizer, as there: {same} (at most 1)")
        loader = found["loader_over_fixed_batch"]["median"]
        lines.append(
            f"data pipeline alone: {found['pipeline_images_per_second']:.0f} images/s; a step with it: {loader:.3f} of one without"
        )
    if found := report.get("ceiling"):
        rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in found["matmul_per_second"].items())
        lines.append(
            f"matmul: {rates} GFLOP/s"
            + (f"; an SGD step reaches {found['fraction']:.0%} of {found['against']}" if "fraction" in found else "")
        )
    if found := report.get("evaluator"):
        whole, batches = found["full_over_bare"]["median"], found["batchwise_over_bare"]["median"]
        lines.append(
            f"evaluator, over its bare passes: {whole:.3f} whole set, {batches:.3f} by batches; {found['images_per_second']:.0f} images/s"
        )
    if found := report.get("memory"):
        lines.append(f"peak memory ({found['measure']}): " + ", ".join(f"{name} {found[name]:.0f} MB" for name in ("sgd", "sam", "xsam")))
        for name, ratio in found.get("kept_over_returned", {}).items():
            lines.append(
                f"    {name}: freed memory kept, not returned to the system: a step takes {ratio['seconds']['median']:.3f} of the time, "
                f"the peak is {ratio['peak']:.2f} times as high"
            )
    if found := report.get("start"):
        lines.append("start-up, CPU seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    if found := report.get("precision"):
        lines.append("error after 20 SAM steps against float64: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    if found := report.get("profile"):
        lines.append(f"a SAM step, {1e3 * found['seconds_per_step']:.1f} ms of {found['of']}:")
        lines += [f"    {one['share']:>6.1%}  {name[:110]}" for name, one in found["largest"].items()]
    if found := report.get("arithmetic"):
        compiled, flat = (
            f"{r['median']:.2f} of it [{r['low']:.2f}, {r['high']:.2f}]" for r in map(found.get, ("compiled_over_eager", "flat_over_eager"))
        )
        lines.append(
            f"SAM's vector arithmetic on {found['parameters'] / 1e6:.1f} M parameters: {1e3 * found['eager_seconds']:.2f} ms; compiled "
            f"{compiled}, after {found['compiling_seconds']:.0f} s of compiling; in flat buffers {flat}"
        )
    if found := report.get("graphs"):
        lines.append("as CUDA graphs, in steps of plain SGD as one (at most):")
        for name, score in found["ratio"].items():
            limit = f" ({found['limit'][name]:.2f})" if name in found["limit"] else ""
            lines.append(f"    {name:<18}{score['median']:>7.3f} [{score['low']:.3f}, {score['high']:.3f}]{limit}")
    if found := report.get("seeds"):
        lines.append(
            "runs side by side, steps a second of all over one run's: "
            + ", ".join(f"{n}: {r:.2f}" for n, r in found["over_one_run"].items())
        )
    return "\n".join(lines)


def parse(arguments: list[str]) -> Setting:
    """ConfigError for an unknown option."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    name = given.get("preset", "cpu")
    if name not in PRESETS:
        raise ConfigError(f"preset={name}: must be one of {', '.join(PRESETS)}.")
    known = {f.name: type(getattr(PRESETS[name], f.name)) for f in dataclasses.fields(Setting)}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{key}={value}: unknown option; known are {', '.join(known)}.")
        if known[key] is int and not value.isdigit():
            raise ConfigError(f"{key}={value}: must be a whole number.")
    setting = dataclasses.replace(PRESETS[name], **{key: known[key](value) for key, value in given.items()})
    if setting.precision not in PRECISIONS:
        raise ConfigError(f"precision={setting.precision}: must be one of {', '.join(PRECISIONS)}.")
    parts = setting.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ConfigError(f"parts={unknown[0]}: must be among {','.join(PARTS)}.")
    if setting.device == "cpu" and (beyond := sorted(set(parts) & set(ON_A_GPU))):
        raise ConfigError(f"parts={beyond[0]}: CUDA graphs need a GPU; with device=cpu leave it out.")
    return setting


def main(arguments: list[str]) -> int:
    try:
        setting = parse(arguments)
        bench_device = pick_device(setting.device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with number_format(setting.precision, threads=1 if bench_device.type == "cpu" else None):
        bench = Bench(setting)
        if setting.peak:
            print(*peak(bench))
            return 0
        report: dict[str, Any] = {"setting": dataclasses.asdict(setting), "environment": environment(bench.device)}
        out = Path(setting.out.format(preset=setting.preset))
        gc.disable()  # no collection in the middle of somebody's step
        try:
            for part in [name for name in PARTS if name in setting.parts.split(",")]:
                try:
                    report[part] = PARTS[part](bench, arguments, report)
                except Exception as error:  # of one part: what the others measured stands
                    report.setdefault("failed", {})[part] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                write_atomic(out, json.dumps(plain(report), indent=1) + "\n")  # what is measured is kept if the next part is stopped
        finally:
            gc.enable()
    print(table(report))
    print(f"Written: {out}")
    for part, reason in report.get("failed", {}).items():
        print(f"error: {part}: {reason}", file=sys.stderr)
    return int("failed" in report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
