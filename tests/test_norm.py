"""The norms: equal to PyTorch's, by compiled loops and where PyTorch's are used."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.func import functional_call

from bsm.norm import GatedRMSNorm, RMSNorm
from models import error, few_elements_a_share


def tensors(dtype=torch.float64, *, shape=(2, 3, 5)):
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, *shape, generator=generator).to(dtype)
    return [v.requires_grad_() for v in (x, z, torch.rand(shape[-1], generator=generator).to(dtype))]


def test_gradients_are_those_of_finite_differences():
    x, z, weight = tensors()
    for kind, inputs in ((RMSNorm, (x,)), (GatedRMSNorm, (x, z))):
        norm = kind(5, eps=1e-2)
        assert gradcheck(lambda w, *given, norm=norm: functional_call(norm, {"weight": w}, given), (weight, *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e3])
def test_the_norm_is_pytorchs(dtype, scale):
    x, z, weight = tensors(dtype, shape=(7, 33))
    own, theirs = RMSNorm(33, eps=1e-5).to(dtype), torch.nn.RMSNorm(33, eps=1e-5).to(dtype)
    theirs.load_state_dict(own.state_dict())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    given = [(scale * x.detach()).requires_grad_() for _ in range(2)]
    for norm, v in zip((own, theirs), given, strict=True):
        (norm(v) * z.detach()).sum().backward()
    for a, b in ((given[0].grad, given[1].grad), (own.weight.grad, theirs.weight.grad)):
        torch.testing.assert_close(
            a, b, rtol=tolerance["rtol"], atol=tolerance["atol"] * max(1.0, float(b.abs().max()))
        )
    gated = functional_call(GatedRMSNorm(33, eps=1e-5), {"weight": weight}, (scale * x, z))
    torch.testing.assert_close(gated, F.rms_norm(scale * x * F.silu(z), (33,), weight, 1e-5), **tolerance)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 200), channels=st.integers(1, 70), gated=st.booleans(), threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_compiled_loops_agree_with_float64(rows, channels, gated, threads, seed):
    g = torch.Generator().manual_seed(seed)
    y, z, dout, weight = (torch.randn(s, generator=g) for s in (*[(rows, 1, channels)] * 3, (channels,)))
    kind, inputs = (GatedRMSNorm, (weight, y, z)) if gated else (RMSNorm, (weight, y))

    def run(dtype):
        own = [v.to(dtype).requires_grad_() for v in inputs]
        out = functional_call(kind(channels, eps=1e-5), {"weight": own[0]}, tuple(own[1:]))
        return type(out.grad_fn).__name__, [out.detach(), *torch.autograd.grad(out, own, dout.to(dtype))]

    with few_elements_a_share(threads):
        name, got = run(torch.float32)
    assert name == "_NormBackward"
    for v, w in zip(got, run(torch.float64)[1], strict=True):
        # One channel has a gradient of nearly zero: the norm leaves only its sign.
        assert error(v, w) < 1e-5 or (channels == 1 and float((v - w).abs().max()) < 1e-4)
