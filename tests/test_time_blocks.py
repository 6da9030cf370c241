"""The time blocks: what each of them hears, and how large it is."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm.config import TIME_BLOCKS, ModelConfig, StftConfig
from bsm.model import BSMamba2
from bsm.time_blocks import LOCAL_FRAMES, build_time_block, mamba2_parameters, rotate

DIM = 12
OTHERS = [name for name in TIME_BLOCKS if name != "none"]


def config(name, **changes):
    sizes = {"stft": StftConfig(64, 16), "bands": (3, 10, 20), "channels": 1, "dim": DIM, "depth": 1, "d_state": 8}
    return ModelConfig(**sizes | {"headdim": 6, "expand": 2, "time_block": name} | changes)


def block(name, **changes):
    torch.manual_seed(0)
    return build_time_block(config(name, **changes)).double()


@pytest.mark.parametrize("preset", ["paper", "small", "tiny", "tiny-16k"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_block_has_the_parameters_of_the_papers(name, preset):
    size = ModelConfig.preset(preset).replace(time_block=name)
    with torch.device("meta"):
        count = sum(p.numel() for p in build_time_block(size).parameters())
    assert count == pytest.approx(mamba2_parameters(size), rel=0.05)


def test_only_the_time_block_differs():
    torch.manual_seed(0)
    networks = {name: BSMamba2(config(name)) for name in TIME_BLOCKS}
    time = "dual_path.layers.0.0."
    shared = {n: {k: v.shape for k, v in m.state_dict().items() if not k.startswith(time)} for n, m in networks.items()}
    assert all(shapes == shared["mamba2"] for shapes in shared.values())
    assert not any(name.startswith(time) for name in networks["none"].state_dict())


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(TIME_BLOCKS), rows=st.integers(1, 4), frames=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_shape_row_by_row_with_gradients(name, rows, frames, seed):
    made = block(name)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, frames, DIM, dtype=torch.float64, generator=generator).requires_grad_()
    y = made(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, torch.cat([made(row[None]) for row in x]), rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad((y * torch.randn(y.shape, dtype=y.dtype, generator=generator)).sum(), x)
    assert gradients[0].isfinite().all()


def reach(made, frames=61):
    """Return the distances, in frames, at which the middle frame's output hears an input; negative ones are past."""
    torch.manual_seed(1)
    x = torch.randn(1, frames, DIM, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(made(x)[0, frames // 2].square().sum(), x)
    heard = gradient[0].abs().sum(-1) > 0
    return [i - frames // 2 for i in range(frames) if heard[i]]


@pytest.mark.parametrize("name", ["mamba2", "attention", "attention-nopos", "lstm"])
def test_blocks_with_context_hear_every_frame(name):
    assert reach(block(name)) == list(range(-30, 31))


def test_a_convolution_hears_its_neighbours_and_none_hears_itself():
    half = LOCAL_FRAMES // 2
    assert reach(block("convolution")) == list(range(-half, half + 1))
    assert reach(block("none")) == [0]


def test_attention_without_positions_knows_the_order_of_neighbours_alone():
    rest, one, other = torch.randn(3, DIM, dtype=torch.float64)

    def last(made, **places):
        x = rest.repeat(1, 60, 1)
        x[0, places["one"]], x[0, places["other"]] = one, other
        return made(x)[0, -1]

    far, swapped = {"one": 11, "other": 31}, {"one": 31, "other": 11}
    near, turned = {"one": 31, "other": 32}, {"one": 32, "other": 31}
    for name, order_is_heard in (("attention-nopos", False), ("attention", True)):
        made = block(name)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter *= 3
        assert ((last(made, **far) - last(made, **swapped)).abs().max() > 1e-9) == order_is_heard
        assert (last(made, **near) - last(made, **turned)).abs().max() > 1e-6


def test_attention_is_the_textbooks():
    """Against softmax attention written out, head by head, with rotations as complex numbers."""
    made = block("attention")
    u = torch.randn(2, 9, DIM, dtype=torch.float64)
    q, k, v = made.qkv_heads(u)
    projected, taps = made.qkv(u), made.convs[0].kernel_size[0]
    padded = F.pad(projected, (0, 0, taps - 1, taps - 1))
    weight, bias = (torch.cat([getattr(conv, n) for conv in made.convs]) for n in ("weight", "bias"))
    weight = weight[:, 0]
    past = sum(padded[:, tap : tap + 9] * weight[:, tap] for tap in range(taps))
    future = sum(padded[:, taps - 1 + shift : taps + 8 + shift] * weight[:, taps - 1 - shift] for shift in range(taps))
    heads = projected.shape[-1] // 18
    look = torch.arange(projected.shape[-1]) // 18 >= heads - heads // 2
    mixed = F.silu(torch.where(look, future, past) + bias).unflatten(-1, (heads, 3, 6))
    angle = torch.arange(9, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    turn = torch.polar(torch.ones_like(angle), angle)
    for number, got in ((0, q), (1, k)):
        x = mixed[:, :, :, number].transpose(1, 2)
        turned = torch.complex(x[..., :3], x[..., 3:]) * turn
        torch.testing.assert_close(got, torch.cat([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(v, mixed[:, :, :, 2].transpose(1, 2), rtol=1e-9, atol=1e-9)
    weights = torch.softmax(q @ k.mT / 6**0.5, dim=-1)
    y = made.out_proj((weights @ v).transpose(1, 2).flatten(2))
    made.norm = torch.nn.Identity()
    torch.testing.assert_close(made(u), made.feed_forward(u + y), rtol=1e-9, atol=1e-9)


def test_rotation_tells_distance_alone():
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    turned_q, turned_k = (rotate(v.expand(30, 8)) for v in (q, k))
    products = turned_q @ turned_k.mT
    for distance in (-7, 0, 12):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
