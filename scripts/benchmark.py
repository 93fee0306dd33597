"""What a step of each method costs, in steps of plain torch.optim.SGD.

    python scripts/benchmark.py preset=cpu                                         # WRN-16-4, batch 32, one thread: three to six minutes
    python scripts/benchmark.py preset=gpu                                         # WRN-28-10, batch 128, bf16
    python scripts/benchmark.py preset=tiny                                        # seconds; only to see that it works

Every round times one step of every method on the same batch, in random order; a score is the median over rounds of t(method) / t(SGD)
with its quartiles, in process CPU time with one thread (on a GPU: CUDA events). SGD is timed twice: how far the second is from 1 is the
resolution. With the package of requirements-bench.txt a peer's SAM takes part. The options are the fields of `Setting` below.
"""

import functools
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
import torch
from arguments import parse, script
from torch import Tensor, nn
from torch.nn import functional

import models
from data import usable_folder
from data.augment import Augment
from data.image_data import normalize
from sam.config import ConfigError
from sam.core.device import LossScale, autocast, loss_scale, number_format, pick_device
from sam.core.files import plain, write_atomic
from sam.optimizers.build import build
from sam.optimizers.settings import OptimizerConfig
from sam.runs.progress import progress_for
from sam.runs.session import environment
from sam.settings import PRECISIONS
from sam.sharpness import ascent
from sam.sharpness.dataset_loss import DatasetLoss
from sam.training.loop import DIAGNOSE_EVERY

Step = Callable[[], object]
Closure = Callable[..., Tensor]
Times = dict[str, list[float]]
IMAGES = 50_000  # an epoch of CIFAR, over which XSAM's search is spread


@dataclass(frozen=True)
class Setting:
    """size: of the images; steps: timed together in a round (a tiny net needs several); search_every: rounds between XSAM's search steps;
    images: in the evaluator's set, in two batches; parts: which reports to make; out: the JSON file."""

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
    images: int = 64
    parts: str = "methods,evaluator,memory"
    peak: str = ""  # internal: take steps of this method alone, and print the peak of memory
    out: str = "runs/benchmark-{preset}.json"


PRESETS = {
    "cpu": Setting(),
    "gpu": Setting("gpu", "cuda", 28, 10, batch=128, precision="bf16", rounds=21, steps=10, images=4000),
    "tiny": Setting("tiny", depth=10, width=1, size=8, batch=8, rounds=3, search_every=2, images=16),
}

# name -> (optimizer settings, what a step may cost at most in steps of SGD)
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "sgd": ({"method": "sgd"}, 1.02),
    "rand_sam": ({"method": "rand_sam"}, 1.10),
    "sam": ({"method": "sam"}, 2.04),
    "sam_n3": ({"method": "sam", "ascent_steps": 3}, 4.08),
    "xsam": ({"method": "xsam", "alpha": 0.7}, 2.07),
    "xsam_search": ({"method": "xsam", "alpha_refresh": 1e-9}, 9.3),
}
BASE: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


class Bench:
    """One model for each contender, the same weights and the same batch for all."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.device = setting, pick_device(setting.device)
        self.autocast = autocast(setting.precision, self.device)
        draw, count = torch.Generator().manual_seed(0), max(setting.batch, setting.images)
        pixels = torch.randint(0, 256, (count, 3, setting.size, setting.size), generator=draw, dtype=torch.uint8)
        self.pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (count,), generator=draw).to(self.device)
        self.mean, self.std = (torch.full((3,), value, device=self.device) for value in (0.5, 0.25))
        self.augment = Augment(crop_padding=4 if setting.size > 8 else 1, flip=True)
        self.order, self.draws = torch.randperm(setting.batch, generator=draw), torch.Generator(self.device).manual_seed(0)
        self.prepare = functools.partial(normalize, mean=self.mean, std=self.std)
        self.batch, self.batch_labels = self.prepare(self.pixels[: setting.batch]), self.labels[: setting.batch]

    def loaded(self) -> Tensor:
        """A batch through the data pipeline: indexed, augmented, normalized."""
        return self.augment(self.pixels[self.order.to(self.device)], self.draws, self.mean, self.std)

    def model(self) -> nn.Module:
        s = self.setting
        torch.manual_seed(0)
        network = models.build("wide_resnet", classes=10, channels=3, image_size=s.size, depth=s.depth, width=s.width)
        return network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def closure(self, model: nn.Module, images: Callable[[], Tensor] | None = None, scaling: LossScale | None = None) -> Closure:
        def evaluate(backward: bool = True) -> Tensor:
            with self.autocast():
                loss = functional.cross_entropy(model(images() if images else self.batch), self.batch_labels)
            if backward:
                (loss if scaling is None else loss * scaling.value).backward()
            return loss

        return evaluate

    def plain(self, optimizer: Callable[..., Any], *base: Any, **options: Any) -> tuple[Any, Closure]:
        """(somebody else's optimizer around a model of its own, a closure that zeroes its gradients first)."""
        model = self.model()
        built, evaluate = optimizer(model.parameters(), *base, fused=True, **BASE, **options), self.closure(model)
        return built, lambda: (built.zero_grad(), evaluate())[1]

    def bare(self) -> dict[str, Step]:
        """SGD twice, its passes alone, a forward as in XSAM's probes (train mode, no graph); SAM of pytorch_optimizer, if there."""
        contenders: dict[str, Step] = {}
        for name in ("torch_sgd", "torch_sgd_again"):
            sgd, closure = self.plain(torch.optim.SGD)
            contenders[name] = lambda sgd=sgd, closure=closure: (closure(), sgd.step())  # type: ignore[misc]
        contenders["forward_backward"] = self.plain(torch.optim.SGD)[1]
        forward = torch.no_grad()(self.closure(self.model()))
        contenders["forward"] = lambda: forward(backward=False)
        with suppress(ImportError):
            from pytorch_optimizer import SAM as PeerSAM

            peer, again = self.plain(PeerSAM, torch.optim.SGD, rho=0.05)
            contenders["peer_sam"] = lambda: (again(), peer.step(again))
            contenders["sam_as_peer"] = self.ours("sam", weight_decay_mode="optimizer")
        return contenders

    def ours(self, name: str, images: Callable[[], Tensor] | None = None, **other: Any) -> Step:
        """A step as the training loop takes it, with its diagnostics in every tenth. other: settings of the optimizer."""
        model, count = self.model(), itertools.count()
        config = OptimizerConfig.of(rho=0.05, **BASE, **METHODS[name][0], **other)
        own, scaling = torch.Generator(self.device).manual_seed(0), loss_scale(self.setting.precision, self.device)
        optimizer = build(model, config, steps_per_epoch=1_000_000, generator=own, scaling=scaling)
        closure = self.closure(model, images, scaling)

        def step() -> None:
            optimizer.diagnose = next(count) % DIAGNOSE_EVERY == 0
            optimizer.step(closure)

        return step

    def seconds(self, step: Step, steps: int = 1) -> float:
        """Of one call: process CPU time; on a GPU between two CUDA events. `timeit` lets no garbage be collected meanwhile."""
        if self.device.type != "cuda":
            return timeit(step, number=steps, timer=time.process_time) / steps
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        timeit(step, number=steps)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / steps


def interleave(bench: Bench, contenders: dict[str, Step], rounds: int, steps: int, label: str, search_every: int = 1) -> Times:
    """Seconds a step of each contender and round (NaN where it sat out), in random order: caches left by the one before would count."""
    draw, times = random.Random(0), {name: list[float]() for name in contenders}
    for step in contenders.values():
        step()
    with progress_for(rounds, label) as progress:
        for index in range(rounds):
            for name in draw.sample(list(contenders), len(contenders)):
                out = name == "xsam_search" and index % search_every
                times[name].append(math.nan if out else bench.seconds(contenders[name], 1 if name == "xsam_search" else steps))
            progress.advance(1)
    return times


def ratios(times: Times, name: str, base: str) -> dict[str, float]:
    """Median and quartiles over the rounds in which both took part."""
    low, middle, high = np.nanquantile(np.divide(times[name], times[base]), (0.25, 0.5, 0.75)).tolist()
    return {"median": middle, "low": low, "high": high}


def methods(bench: Bench) -> dict[str, Any]:
    """Steps of every method, and their passes alone, against plain SGD; a peer's SAM; the data pipeline."""
    setting = bench.setting
    contenders = bench.bare() | {name: bench.ours(name) for name in METHODS} | {"sgd_with_loader": bench.ours("sgd", bench.loaded)}
    times = interleave(bench, contenders, setting.rounds, setting.steps, "steps", setting.search_every)
    score = {name: ratios(times, name, "torch_sgd") for name in contenders}
    seconds = {name: float(np.nanmedian(values)) for name, values in times.items()}
    each = -(-IMAGES // setting.batch)
    search = (score["xsam_search"]["median"] - score["xsam"]["median"]) / each / score["sam"]["median"]
    over_sam = {name: value + search for name, value in ratios(times, "xsam", "sam").items()}  # round by round, as all ratios
    pipeline = statistics.median(bench.seconds(bench.loaded, setting.steps) for _ in range(setting.rounds))
    return {
        "ratio": score,
        "seconds": seconds,
        "images_per_second": {name: setting.batch / value for name, value in seconds.items()},
        "limit": {name: limit for name, (_, limit) in METHODS.items()},
        "xsam_over_an_epoch": {"steps_per_epoch": each, "over_sam": over_sam},
        "pipeline_images_per_second": setting.batch / pipeline,
        "loader_over_fixed_batch": ratios(times, "sgd_with_loader", "sgd"),
        **{f"{name}_over_peer": ratios(times, name, "peer_sam") for name in ("sam", "sam_as_peer") if "peer_sam" in times},
    }


def evaluator(bench: Bench) -> dict[str, Any]:
    """L^Asc, over the whole set and batch by batch, against the bare passes it needs: two forwards and a backward. In fp32, as always."""
    setting, model = bench.setting, bench.model()
    pixels, labels, size = bench.pixels[: setting.images], bench.labels[: setting.images], -(-setting.images // 2)
    loss = DatasetLoss(model, pixels, labels, prepare=bench.prepare, batch_size=size)
    ready = [(bench.prepare(x), y) for x, y in loss.batches()]

    def bare() -> None:
        with loss.measuring():
            for x, y in ready:
                torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
                with torch.no_grad():
                    functional.cross_entropy(model(x), y)

    measures: dict[str, Step] = {"full": lambda: ascent.full(loss, [0.05]), "batchwise": lambda: ascent.batchwise(loss, [0.05])}
    times = interleave(bench, {"bare": bare, **measures}, max(3, setting.rounds // 3), 1, "evaluator")
    rate = {"images_per_second": setting.images / statistics.median(times["full"])}
    return rate | {f"{name}_over_bare": ratios(times, name, "bare") for name in measures}


def memory(bench: Bench) -> dict[str, Any]:
    """The peak of memory in MB, each method in a process of its own. GPU: the allocator's; CPU: of the resident set."""
    found: dict[str, Any] = {"unit": "MB", "measure": "max_memory_allocated" if bench.device.type == "cuda" else "VmHWM of a process"}
    setting = [f"{key}={value}" for key, value in vars(bench.setting).items() if key != "peak"]
    for name in ("sgd", "sam", "xsam"):
        found[name] = float(subprocess.check_output([sys.executable, __file__, *setting, f"peak={name}"]))
    return found


def peak(bench: Bench) -> float:
    """MB, of a process that takes five steps."""
    step = bench.ours(bench.setting.peak)
    for _ in range(5):
        step()
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.device) / 1e6
    status = Path("/proc/self/status")  # Linux has it
    lines = status.read_bytes().splitlines() if status.exists() else []
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith(b"VmHWM")), math.nan)


PARTS = {"methods": methods, "evaluator": evaluator, "memory": memory}  # in the order in which they are made


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def table(report: dict[str, Any]) -> str:
    lines = []
    if found := report.get("methods"):
        lines.append(f"{'step of':<18}{'t / t(SGD)':>11}   {'quartiles':<17}{'at most':>8}{'images/s':>10}")
        for name, score in found["ratio"].items():
            limit, (middle, quarter) = f"{METHODS[name][1]:.2f}" if name in METHODS else "", shown(score).split(" ", 1)
            lines.append(f"{name:<18}{middle:>11}   {quarter:<17}{limit:>8}{found['images_per_second'][name]:>10.1f}")
        spread = found["xsam_over_an_epoch"]
        lines.append(f"XSAM over SAM, over an epoch of {spread['steps_per_epoch']} steps: {shown(spread['over_sam'])} (at most 1.015)")
        if "sam_over_peer" in found:
            default, same = shown(found["sam_over_peer"]), shown(found["sam_as_peer_over_peer"])
            lines.append(f"SAM over pytorch_optimizer's SAM: {default}; with weight decay in the optimizer, as there: {same} (at most 1)")
        pipeline, loader = found["pipeline_images_per_second"], shown(found["loader_over_fixed_batch"])
        lines.append(f"data pipeline alone: {pipeline:.0f} images/s; a step with it: {loader} of one without")
    if found := report.get("evaluator"):
        whole, batches = shown(found["full_over_bare"]), shown(found["batchwise_over_bare"])
        lines.append(f"evaluator, over its bare passes: {whole} whole set, {batches} by batches; {found['images_per_second']:.0f} images/s")
    if found := report.get("memory"):
        lines.append(f"peak memory ({found['measure']}): " + ", ".join(f"{name} {found[name]:.0f} MB" for name in ("sgd", "sam", "xsam")))
    return "\n".join(lines)


@script
def main(arguments: list[str]) -> int:
    preset = parse({"preset": tuple(PRESETS)}, [word for word in arguments if word.startswith("preset=")])[0]["preset"]
    setting = Setting(**parse(vars(PRESETS[preset]) | {"peak": ("", *METHODS)}, arguments)[0])
    parts = setting.parts.split(",")
    for key, given, known in (("precision", [setting.precision], PRECISIONS), ("parts", parts, PARTS)):
        if unknown := [word for word in given if word not in known]:
            raise ConfigError(f"{key}={unknown[0]}: must be one of {', '.join(known)}.")
    with number_format(setting.precision, threads=1 if pick_device(setting.device).type == "cpu" else None):
        bench = Bench(setting)
        if setting.peak:
            print(peak(bench))
            return 0
        report: dict[str, Any] = {"setting": vars(setting), "environment": environment(bench.device)}
        out = Path(setting.out.replace("{preset}", setting.preset))
        usable_folder(out.parent, "out")
        for part in [name for name in PARTS if name in parts]:
            report[part] = PARTS[part](bench)
            write_atomic(out, json.dumps(plain(report), indent=1) + "\n")  # kept if the next part is stopped
    print(f"{table(report)}\nWritten: {out}")
    return 0
