"""The host reads from the device once an epoch, never in a step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import data
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]
AUGMENT = {"crop_padding": 1, "flip": True, "cutout": 2}


class Reads(TorchDispatchMode):
    """Counts the operations that hand a device value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", [{"method": "sgd"}, {"method": "rand_sam"}, {"method": "sam"}, {"method": "xsam", "alpha": 0.7}])
def test_an_epoch_of_many_steps_reads_no_more_than_one_of_one(precision: str, optimizer: dict, tiny: Tiny, trainer: Make) -> None:
    counts = []
    for batch_size in (24, 96):  # 4 steps, 1 step
        made = trainer(tiny(precision=precision, optimizer=optimizer, batch_size=batch_size, augmentation=AUGMENT))
        with Reads() as reads:
            made.run_epoch(lambda passes: None)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", [{"method": "sgd"}, {"method": "rand_sam"}, {"method": "sam"}, {"method": "xsam", "alpha": 0.7}])
def test_a_training_step_on_a_gpu_never_waits_for_it(precision: str, optimizer: dict, tiny: Tiny) -> None:
    """From the end of the first step to that of the third, augmentation and learning rate included."""
    config = tiny(precision=precision, optimizer=optimizer, batch_size=24, augmentation=AUGMENT, device="cuda")
    made = Trainer(config, data.load(**to_dict(config.dataset)), torch.device("cuda"))

    def after_step() -> None:
        torch.cuda.set_sync_debug_mode("error" if made.step in (1, 2) else "default")

    try:
        made.run_epoch(lambda passes: None, after_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
