"""What cuDNN's deterministic algorithms cost (WRN-28-10, batch 256, forward and backward): python results/gpu/determinism.py"""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import models
from sam.core.device import number_format


def main() -> None:
    torch.manual_seed(0)
    net = (
        models.build("wide_resnet", classes=10, channels=3, image_size=32, depth=28, width=10).cuda().to(memory_format=torch.channels_last)
    )
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(256, 3, 32, 32, generator=draw).cuda().to(memory_format=torch.channels_last)
    y = torch.randint(10, (256,), generator=draw).cuda()

    def gradient(precision: str) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        found = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None])
        net.zero_grad()
        return found

    for precision in ("bf16", "tf32", "fp32"):
        count = 2 if precision == "fp32" else 5
        times: dict[bool, list[float]] = {False: [], True: []}
        repeats = {}
        with number_format(precision, 1):
            for k in range(6):
                for deterministic in (False, True):
                    torch.backends.cudnn.deterministic = deterministic
                    if k == 0:
                        gradient(precision)
                    torch.cuda.synchronize()
                    began = time.time()
                    for _ in range(count):
                        gradient(precision)
                    torch.cuda.synchronize()
                    if k:
                        times[deterministic].append((time.time() - began) / count)
            net.eval()
            for deterministic in (False, True):
                torch.backends.cudnn.deterministic = deterministic
                repeats[deterministic] = torch.equal(gradient(precision), gradient(precision))
            net.train()
        plain, held = (1e3 * statistics.median(times[key]) for key in (False, True))
        print(f"{precision}: {plain:.1f} ms by default, {held:.1f} ms deterministic ({held / plain:.3f}); repeats: {repeats}", flush=True)


if __name__ == "__main__":
    main()
