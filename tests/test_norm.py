"""The norms' own gradient formulas: equal to PyTorch's, also where PyTorch's are used."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.func import functional_call

from bsm.norm import GatedRMSNorm, RMSNorm


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
