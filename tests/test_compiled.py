"""What the compiled loops share."""

import numpy as np
import pytest
import torch

from bsm import compiled as compiled_module
from bsm.compiled import applies, compiled, compiled_sum, over_rows, sigmoid
from models import few_elements_a_share


@compiled
def _sigmoids(x, out):
    for i in range(len(x)):
        out[i] = sigmoid(x[i])


def test_the_sigmoid_is_accurate_over_all_float32():
    """Relative to its own size, also where it is nearly 0; as good as PyTorch's."""
    x = torch.cat([torch.linspace(-87, 87, 100_001), torch.tensor([0.0, -0.0, 1e-30, torch.inf, 3e38])])
    out = torch.empty_like(x)
    _sigmoids(x.numpy(), out.numpy())
    want = torch.sigmoid(x.double())
    assert float(((out - want) / want).abs().max()) < 2e-7
    out = torch.empty(2)
    _sigmoids(torch.tensor([-torch.inf, -3e38]).numpy(), out.numpy())
    assert (out >= 0).all() and (out < 1e-37).all()


@compiled
def _double(x, out, factor, plus):
    for i in range(len(x)):
        out[i] = factor * x[i] + plus[0]
    return len(x)


@pytest.mark.parametrize(("threads", "shares"), [(1, [10]), (2, [10]), (3, [3, 3, 4]), (20, [1] * 10)])
def test_rows_are_divided_among_threads(threads, shares):
    x, out = torch.arange(10.0), torch.zeros(10)
    with few_elements_a_share(threads):
        counts = over_rows(_double, [x, out], np.float32(2), torch.ones(1))
    assert counts == shares
    assert torch.equal(out, 2 * x + 1)


def test_without_a_folder_for_the_cache_loops_are_compiled_anew(monkeypatch, caplog):
    """A container may have no folder that can be written; `bsm separate` must run there, too."""
    njit = compiled_module.numba.njit

    def without_cache(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(compiled_module.numba, "njit", without_cache)
    compiled_module._say_uncached.cache_clear()
    loops = [compiled(lambda x: x + 1), compiled_sum(lambda x: x + 2)]
    assert [loop(1) for loop in loops] == [2, 3]
    assert [r.getMessage() for r in caplog.records] == [
        "numba finds no folder for its cache, and compiles loops anew in each run: set NUMBA_CACHE_DIR"
    ]


def test_only_plain_float32_on_a_cpu_is_taken():
    x = torch.zeros(3)
    assert applies(x, torch.nn.Parameter(x))
    assert not any(applies(x, other) for other in (x.double(), x.bfloat16(), x.to("meta")))
    with torch._subclasses.fake_tensor.FakeTensorMode():
        assert not applies(torch.zeros(3))
