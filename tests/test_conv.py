"""Every convolution backend against the definition, with SiLU applied exactly once."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm import conv
from bsm.conv import BACKENDS, causal_conv, unavailable
from bsm.errors import BackendUnavailable
from models import error, few_elements_a_share

RUNNABLE = [name for name in BACKENDS if unavailable(name, "cpu", torch.float64) is None]


def definition(x, weight, bias, reverse):
    """Step by step and channel by channel: silu(bias + sum over taps), SiLU written out."""
    batch, length, channels = x.shape
    taps = weight.shape[2]
    rows = []
    for t in range(length):
        total = bias.expand(batch, channels)
        for tap in range(taps):
            shift = taps - 1 - tap
            source = t + shift if reverse else t - shift
            if 0 <= source < length:
                total = total + weight[:, 0, tap] * x[:, source]
        rows.append(total / (1 + torch.exp(-total)))
    return torch.stack(rows, 1)


def draw(length, taps, channels=6, batch=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(100 * length + taps)
    shapes = (batch, length, channels), (channels, 1, taps), (channels,), (batch, length, channels)
    *inputs, weights = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes)
    return [v.requires_grad_() for v in inputs], weights


def check(inputs, dout, reverse, backend):
    """Output and gradients are those of the definition."""
    got, want = causal_conv(*inputs, reverse=reverse, backend=backend), definition(*inputs, reverse)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if got.requires_grad:
        gradients = (torch.autograd.grad(y, inputs, dout) for y in (got, want))
        for g, w in zip(*gradients, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 1), (3, 4), (5, 3), (65, 2), (65, 4)])
@pytest.mark.parametrize("backend", RUNNABLE)
def test_agrees_with_the_definition(backend, length, taps, reverse):
    check(*draw(length, taps), reverse, backend)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5), length=st.integers(1, 70), channels=st.integers(1, 20), scale=st.sampled_from([0.1, 3]),
    reverse=st.booleans(), threads=st.sampled_from([1, 3]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_compiled_loops_agree_with_the_definition(batch, length, channels, scale, reverse, threads, seed):
    """They recompute the convolution in the backward pass, and divide rows among threads."""
    g = torch.Generator().manual_seed(seed)
    shapes = (batch, length, channels), (channels, 1, 4), (channels,), (batch, length, channels)
    *inputs, dout = (torch.randn(s, generator=g) for s in shapes)
    inputs = [(scale * v if v.ndim == 3 else v).requires_grad_() for v in inputs]
    doubles = [v.detach().double().requires_grad_() for v in inputs]
    want = definition(*doubles, reverse)
    with few_elements_a_share(threads):
        got = causal_conv(*inputs, reverse=reverse)
        assert type(got.grad_fn).__name__ == "_CausalConvBackward"
        gradients = torch.autograd.grad(got, inputs, dout)
    assert error(got.detach(), want.detach()) < 1e-6
    for v, w in zip(gradients, torch.autograd.grad(want, doubles, dout.double()), strict=True):
        assert float((v - w).norm()) < 1e-5 * (1 + float(w.norm()))  # the derivative of SiLU has a zero


def test_the_compiled_loops_take_views_and_keep_nan():
    """The mixer convolves parts of a projection; what is not a number must not become one."""
    packed = torch.randn(2, 7, 20, requires_grad=True)
    weight, bias = torch.randn(6, 1, 4), torch.randn(6)
    got = torch.autograd.grad(causal_conv(packed[..., 5:11], weight, bias, backend="numba").sum(), packed)[0]
    double = packed.detach().double().requires_grad_()
    want = torch.autograd.grad(definition(double[..., 5:11], weight.double(), bias.double(), False).sum(), double)[0]
    assert error(got, want) < 1e-5
    x = torch.zeros(1, 9, 6)
    x[0, 4, 2] = torch.nan
    y = causal_conv(x.requires_grad_(), weight, bias, backend="numba").isnan()
    assert y[0, 4:8, 2].all() and y.sum() == 4


@pytest.mark.parametrize("backend", RUNNABLE)
def test_silu_is_applied_once(backend):
    """With a weight of one and no bias the convolution is the identity, so the output is silu(x), not silu(silu(x))."""
    x = torch.linspace(-4, 4, 9, dtype=torch.float64).reshape(1, 9, 1)
    y = causal_conv(x, torch.ones(1, 1, 1).double(), torch.zeros(1).double(), backend=backend).flatten()
    assert [round(float(v), 9) for v in y] == [round(v / (1 + math.exp(-v)), 9) for v in range(-4, 5)]


@pytest.mark.parametrize("backend", RUNNABLE)
def test_strided_input_and_output_gradient(backend):
    """The mixer convolves a slice of a projection; expanded gradients come from sums."""
    packed = torch.randn(2, 7, 20, dtype=torch.float64, requires_grad=True)
    (_, weight, bias), _ = draw(7, 4)
    x = packed[..., 5:11]
    for reduce in (lambda y: y.sum(), lambda y: (y.transpose(0, 2) * torch.arange(7.0)[None, :, None]).sum()):
        got = torch.autograd.grad(reduce(causal_conv(x, weight, bias, backend=backend)), packed)[0]
        want = torch.autograd.grad(reduce(definition(x, weight, bias, False)), packed)[0]
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", RUNNABLE)
def test_half_precision_keeps_its_type(backend, parameters, autocast):
    inputs, dout = draw(30, 4)
    low = [inputs[0].detach().bfloat16(), *(v.detach().to(parameters) for v in inputs[1:])]
    low = [v.requires_grad_() for v in low]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = causal_conv(*low, backend=backend)
    assert got.dtype == torch.bfloat16
    want = definition(*(v.double() for v in low), False)
    assert (got - want).norm() < 1e-2 * want.norm()
    for v, g in zip(low, torch.autograd.grad(got, low, dout.bfloat16()), strict=True):
        assert g.dtype == v.dtype and g.shape == v.shape


def test_auto_says_once_what_it_picked(caplog):
    conv._choose.cache_clear()
    inputs, _ = draw(3, 4)
    with caplog.at_level(logging.INFO, logger="bsm.conv"):
        for _ in range(2):
            causal_conv(*inputs)
            causal_conv(*(v.float() for v in inputs))
        with torch.no_grad():
            causal_conv(*(v.float() for v in inputs))
    assert [r.getMessage() for r in caplog.records] == [
        "convolution backend for float64 on cpu: conv1d (4 taps)",
        "convolution backend for float32 on cpu: numba (4 taps)",
        "convolution backend for float32 on cpu: shifted (4 taps)",
    ]


def test_missing_kernels_are_named_with_the_fix():
    inputs, _ = draw(3, 4)
    with pytest.raises(BackendUnavailable, match="'cuda': needs tensors on a CUDA device.*use 'shifted'"):
        causal_conv(*inputs, backend="cuda")
    with pytest.raises(
        BackendUnavailable, match="'numba': takes 4 taps and float32 on cpu, not 4 taps and float64 on cpu"
    ):
        causal_conv(*inputs, backend="numba")
    if conv.find_spec("causal_conv1d") is None:
        assert "pip install" in unavailable("cuda", "cuda")


def test_kernels_that_do_not_exist_are_named(monkeypatch):
    monkeypatch.setattr(conv, "find_spec", lambda name: object())
    assert unavailable("cuda", "cuda") is None
    assert "no kernel for float64" in unavailable("cuda", "cuda", torch.float64)
    assert "taps, not 1" in unavailable("cuda", "cuda", taps=1)


def test_cuda_backend_asks_for_one_silu_and_flips(monkeypatch):
    """The kernel itself needs a GPU; a stand-in with its signature shows what is asked of it."""
    import sys
    import types

    asked = []

    def causal_conv1d_fn(x, weight, bias=None, activation=None):
        asked.append((activation, x.stride()))
        y = definition(x.mT, weight[:, None], bias, False).mT
        return y if activation == "silu" else pytest.fail("no SiLU")

    monkeypatch.setitem(sys.modules, "causal_conv1d", types.SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn))
    for channels in (6, 8):
        inputs, _ = draw(5, 4, channels=channels)
        for reverse in (False, True):
            got = BACKENDS["cuda"](*inputs, reverse)
            torch.testing.assert_close(got, definition(*inputs, reverse))
    # Strides that are no multiples of eight are copied to plain (batch, channels, length) first.
    assert [strides[1] for _, strides in asked] == [5, 5, 1, 1]


@pytest.mark.parametrize(
    ("shapes", "backend", "named"),
    [
        (((2, 5), (5, 1, 4), (5,)), "auto", "must be"),
        (((2, 5, 6), (6, 2, 4), (6,)), "auto", "must be"),
        (((2, 5, 6), (6, 4), (6,)), "auto", "must be"),
        (((2, 5, 6), (6, 1, 4), (5,)), "auto", "must be"),
        (((2, 0, 6), (6, 1, 4), (6,)), "auto", "none of them 0"),
        (((2, 5, 6), (6, 1, 4), (6,)), "fastest", "unknown convolution backend 'fastest'; choose one of auto, "),
    ],
)
def test_bad_input_is_named(shapes, backend, named):
    with pytest.raises(ValueError, match=named):
        causal_conv(*(torch.zeros(s) for s in shapes), backend=backend)
