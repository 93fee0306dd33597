"""BatchNorm statistics and dropout masks across the passes of a step."""

import copy

import pytest
import torch
from torch import nn

from sam.core.passes import Passes, are_stochastic, norm_parameters, running_buffers


def net(momentum: float | None = 0.1, dropout: float = 0.0, norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), norm(4, momentum=momentum), nn.Dropout(dropout), nn.Linear(4, 2)).double()


def batches(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def run(passes: Passes, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    outputs = []
    with passes.group():
        for x in inputs:
            passes.before()
            outputs.append(passes.model(x))
    return outputs


def one_step(passes: Passes, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with passes.step():
        return run(passes, inputs)


def same_buffers(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_only_the_first_pass_moves_the_statistics(momentum: float | None, count: int) -> None:
    """Three steps, each of several passes; momentum=None (a cumulative mean) depends on `num_batches_tracked` as well."""
    model = net(momentum)
    plain, passes, inputs = copy.deepcopy(model), Passes(model), batches(15)
    for k in range(3):
        one_step(passes, inputs[5 * k : 5 * k + count])
        plain(inputs[5 * k])
    assert same_buffers(model, plain)
    assert int(model[1].num_batches_tracked) == 3 and model[1].momentum == momentum
    plain(inputs[1])
    assert not same_buffers(model, plain)


def test_every_group_of_a_step_moves_them_once() -> None:
    model, inputs = net(), batches(4)
    plain, passes = copy.deepcopy(model), Passes(model)
    with passes.step():
        run(passes, inputs[:2])
        run(passes, inputs[2:])
    plain(inputs[0])
    plain(inputs[2])
    assert same_buffers(model, plain)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_exception_puts_them_back_to_where_the_step_began(at: int) -> None:
    model, inputs = net(), batches(9)
    passes = Passes(model)
    one_step(passes, inputs[:3])
    before = copy.deepcopy(model)
    with pytest.raises(ZeroDivisionError), passes.step():
        run(passes, inputs[3:5])  # a first group that went well
        with passes.group():
            for k, x in enumerate(inputs[5:8]):
                passes.before()
                model(x)
                if k == at:
                    raise ZeroDivisionError
    assert same_buffers(model, before)
    one_step(passes, inputs[5:8])  # and the next step works as ever
    before(inputs[5])
    assert same_buffers(model, before)


def test_a_step_inside_a_step_of_another_optimizer() -> None:
    """Two objects on one model: the inner step moves nothing for the outer one, which is past its first pass."""
    model, inputs = net(), batches(4)
    plain, outer, inner = copy.deepcopy(model), Passes(model), Passes(model)
    with outer.step(), outer.group():
        outer.before()
        model(inputs[0])
        outer.before()
        one_step(inner, inputs[1:3])
    plain(inputs[0])
    assert same_buffers(model, plain)


def test_one_object_cannot_serve_two_steps_at_once() -> None:
    model, inputs = net(), batches(2)
    passes, before = Passes(model), copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="inside another"), passes.step():
        run(passes, inputs)
        with passes.step():
            pass
    assert same_buffers(model, before)
    one_step(passes, inputs)  # the refusal is over with the step


def test_a_mode_switched_inside_the_step() -> None:
    """A closure that calls `model.train()` itself, on a model left in eval mode by an evaluation."""
    model, inputs = net(), batches(2)
    plain, passes = copy.deepcopy(model), Passes(model)
    model.eval()
    with passes.step(), passes.group():
        for x in inputs:
            passes.before()
            model.train()
            model(x)
    plain(inputs[0])
    assert same_buffers(model, plain)


def test_which_buffers() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.SyncBatchNorm(2), nn.InstanceNorm2d(3), nn.BatchNorm1d(3, track_running_stats=False), nn.GroupNorm(1, 3)
    )
    assert len(running_buffers(model.modules())) == 6
    assert running_buffers([nn.Linear(2, 2)]) == []
    one_step(Passes(nn.Linear(3, 2).double()), batches(3))  # nothing to keep is fine


def test_one_dropout_mask_a_step_and_the_stream_of_one_pass() -> None:
    """All passes share a mask; the next step's is another; the stream afterwards is where one pass would have left it."""
    model, plain, inputs = net(dropout=0.5), net(dropout=0.5), batches(8)
    passes, masks = Passes(model), []
    model[2].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    expected = []
    plain[2].register_forward_hook(lambda module, args, out: expected.append(out == 0))
    torch.manual_seed(5)
    for k in (0, 4):
        plain(inputs[k])
    end = torch.get_rng_state()
    torch.manual_seed(5)
    for k in (0, 4):
        one_step(passes, inputs[k : k + 4])
    assert all(torch.equal(mask, expected[k // 4]) for k, mask in enumerate(masks)) and len(masks) == 8
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(torch.get_rng_state(), end)
    assert same_buffers(model, plain)


def test_a_later_pass_that_draws_more_does_not_shift_the_stream() -> None:
    """Descent on another, larger batch than the ascent's: the stream still ends where the first pass alone would have left it."""
    model, inputs = net(dropout=0.5), batches(2)
    torch.manual_seed(5)
    model(inputs[0])
    end = torch.get_rng_state()
    torch.manual_seed(5)
    one_step(Passes(model), [inputs[0], torch.cat(inputs)])
    assert torch.equal(torch.get_rng_state(), end)


def test_groups_of_a_step_have_masks_of_their_own() -> None:
    model, inputs, masks = net(dropout=0.5), batches(4), []
    model[2].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    passes = Passes(model)
    with passes.step():
        run(passes, inputs[:2])
        run(passes, inputs[2:])
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3]) and not torch.equal(masks[0], masks[2])


def test_a_model_without_randomness_leaves_the_stream_to_others() -> None:
    """A closure that draws for itself (mixup, say) is not rewound when the model draws nothing."""
    model = net()
    passes, drawn = Passes(model), []
    with passes.step(), passes.group():
        for _ in range(2):
            passes.before()
            drawn.append(torch.rand(()).item())
    assert drawn[0] != drawn[1]


def test_what_counts_as_stochastic() -> None:
    assert are_stochastic(nn.Sequential(nn.Dropout2d(0.1)).modules())
    assert not are_stochastic(nn.Sequential(nn.Dropout(0.0), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4)).modules())
    timms, swin, other = nn.Flatten(), nn.Flatten(), nn.Flatten()  # the first as timm's GhostNet: F.dropout(x, p=self.drop_rate, ...)
    timms.drop_rate, swin.attention_dropout, other.drop_last, other.dropout_rate = 0.2, 0.1, True, 0.0
    assert not are_stochastic([other])
    for layer in (nn.MultiheadAttention(4, 2, dropout=0.1), nn.GRU(4, 4, 2, dropout=0.1), nn.RReLU(), timms, swin):
        assert are_stochastic(nn.Sequential(layer).modules())
    assert not are_stochastic(nn.Sequential(nn.Dropout(0.5)).eval().modules())

    class DropPath(nn.Module):
        pass

    assert are_stochastic(nn.Sequential(DropPath()).modules())


def test_layers_that_are_called_norms_are_norms() -> None:
    named = {
        name: type(name, (nn.Linear,), {}) for name in ("RmsNorm2d", "EvoNorm2dB0", "FilterResponseNormTlu2d", "NormFreeBlock", "Linear")
    }
    layers = {name: cls(2, 2) for name, cls in named.items()}
    norms = norm_parameters(nn.ModuleList(layers.values()))
    assert [name for name, layer in layers.items() if id(layer.weight) in norms] == list(named)[:3]
