"""Passes without gradients against the definition."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bsm import fast
from bsm.config import TIME_BLOCKS, ModelConfig
from bsm.mamba2 import BiMamba2Block
from models import error, moved, random_model, small

STRUCTURES = [
    {},
    *({"time_block": name} for name in TIME_BLOCKS[1:]),
    {"directions": "shared"},
    {"directions": "forward", "mask": "real"},
    {"merge": "mean"},
    {"mono": True, "time_path": "reshaped"},
]


@settings(max_examples=25, deadline=None)
@given(
    structure=st.sampled_from(STRUCTURES),
    samples=st.integers(1, 900),
    batch=st.integers(1, 3),
    tokens=st.sampled_from([8, 64, 4096]),
    frames=st.sampled_from([2, 7, 1024]),
    double=st.booleans(),
)
@example(structure={"mono": True, "time_path": "reshaped"}, samples=56, batch=1, tokens=8, frames=2, double=False)
def test_fast_passes_equal_the_definition(structure, samples, batch, tokens, frames, double):
    model = random_model(small(depth=2, **structure), samples)
    mixture = torch.randn(batch, 2, samples)
    if double:
        model, mixture = model.double(), mixture.double()
    want = model(mixture).detach()
    shares = []
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(), fast.progress(shares.append):
        patch.setattr(fast, "SLAB_TOKENS", tokens)
        patch.setattr(fast, "SLAB_ROWS", 1)
        patch.setattr(fast, "SLAB_FRAMES", frames)
        got = model(mixture)
    assert error(got, want) < (1e-10 if double else 2e-5)
    assert sum(shares) == pytest.approx(1)


def block(**options):
    return moved(BiMamba2Block(ModelConfig(dim=24, d_state=8, headdim=8, **options)))


def test_only_the_papers_design_in_full_precision_is_folded():
    paper = block()
    assert fast.folded(paper, 8) is not paper
    for options in ({"directions": "shared"}, {"directions": "forward"}, {"merge": "mean"}):
        other = block(**options)
        assert fast.folded(other, 8) is other
    half = block().bfloat16()
    assert fast.folded(half, 8) is half
    with torch.autocast("cpu", torch.bfloat16):
        assert fast.folded(paper, 8) is paper


def test_later_weights_are_used():
    """A network that is trained after a fast pass gives, in the next one, what its new weights say."""
    model, mixture = random_model(small()).double(), torch.randn(1, 2, 200, dtype=torch.float64)
    for _ in range(2):
        want = model(mixture)
        with torch.no_grad():
            assert error(model(mixture), want.detach()) < 1e-10
            for parameter in model.parameters():
                parameter *= 1.5


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    hint=st.integers(1, 5000),
    inner=st.integers(1, 70),
    outer=st.integers(1, 70),
    silu=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear_equals_the_plain_layer(rows, hint, inner, outer, silu, packed, seed):
    """Also for parts of a weight, inputs that are views and another number of rows than was announced."""
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(s, generator=generator) for s in ((3, rows, inner + 2), (inner, outer + 1), (outer,))
    )
    x, weight = x[..., 2:], weight.mT[1:]
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(fast, "packed_available", lambda: packed)
        for b in (None, bias):
            got = fast.linear(weight, b, rows=hint, silu=silu)(x)
            want = F.linear(x.double(), weight.double(), None if b is None else b.double())
            want = F.silu(want) if silu else want
            assert got.shape == want.shape
            assert error(got, want) < 1e-5


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_this_pytorch_has_the_packed_products(caplog):
    """Their operations are not public: a release without them must show here, not as a slower model."""
    fast.packed_available.cache_clear()
    with caplog.at_level("INFO"):
        assert fast.packed_available()
        assert fast.packed_available()
    assert [r.getMessage() for r in caplog.records] == [
        "linear layers of blocks on the CPU, without gradients: packed by oneDNN"
    ]
