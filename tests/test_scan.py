"""Every exact backend against the float64 definition, in outputs, states and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm.scan import EXACT, available, scan

NAMES = ("x", "dt", "A", "B", "C", "D", "initial_state")
FAST = [name for name in EXACT if name != "sequential" and available()[name] is None]


def make(batch, length, heads=4, headdim=8, state=16, groups=1, decay=None, seed=None, dtype=torch.float64):
    """Draw inputs; ``decay`` is None for the official initial values, else (low, high) of dt * |A| per step."""
    g = torch.Generator().manual_seed(torch.seed() % 2**31 if seed is None else seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    A = -(1 + 15 * rand(heads))
    if decay is None:
        bias = torch.exp(math.log(1e-3) + math.log(100) * rand(heads))
        dt = torch.nn.functional.softplus(randn(batch, length, heads) / 2 + bias + torch.log(-torch.expm1(-bias)))
    else:
        low, high = decay
        dt = (low + (high - low) * rand(batch, length, heads)) / -A
    values = {
        "x": randn(batch, length, heads, headdim),
        "dt": dt,
        "A": A,
        "B": randn(batch, length, groups, state),
        "C": randn(batch, length, groups, state),
        "D": randn(heads),
        "initial_state": randn(batch, heads, headdim, state),
    }
    return {name: v.to(dtype) for name, v in values.items()}


def run(values, backend, dtype, weights, **kwargs):
    """Outputs, final state and all gradients for random output gradients, by name."""
    inputs = {k: v.to(dtype).requires_grad_() for k, v in values.items()}
    args = [inputs.get(k) for k in NAMES]
    y, state = scan(*args[:6], initial_state=args[6], backend=backend, **kwargs)
    loss = (y * weights[0].to(dtype)).sum() + (0 if state is None else (state * weights[1].to(dtype)).sum())
    loss.backward()
    result = {"y": y.detach()} | ({} if state is None else {"state": state.detach()})
    return result, {k: v.grad for k, v in inputs.items()}


def error(got, want):
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-30))


def compare(values, backend, dtype=torch.float32, outputs=1e-5, gradients=1e-4, **kwargs):
    x = values["x"]
    weights = torch.randn_like(x), torch.randn(x.shape[0], *x.shape[2:], values["B"].shape[3], dtype=torch.float64)
    got, got_grads = run(values, backend, dtype, weights, **kwargs)
    # The reference sees the same rounded inputs.
    rounded = {k: v.to(dtype).double() for k, v in values.items()}
    want, want_grads = run(rounded, "sequential", torch.float64, weights, **kwargs)
    for name in want:
        assert error(got[name], want[name]) < outputs, f"{backend}: {name} {error(got[name], want[name]):.2e}"
    for name in want_grads:
        e = error(got_grads[name], want_grads[name])
        assert e < gradients, f"{backend}: gradient of {name} {e:.2e}"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 62, 63, 64, 65, 129, 500])
@pytest.mark.parametrize("backend", ["sequential", *FAST])
def test_agrees_with_float64_definition(backend, length, groups, reverse):
    compare(make(2, length, groups=groups), backend, reverse=reverse)


@pytest.mark.parametrize("length", [2, 64, 200])
@pytest.mark.parametrize("decay", [(0, 0), (0, 0.1), (0, 3), (1, 8), (0, 50), (50, 50), (300, 300)])
@pytest.mark.parametrize("backend", ["sequential", *FAST])
def test_any_decay(backend, decay, length):
    compare(make(2, length, decay=decay), backend)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", FAST)
def test_heads_of_every_kind_together(backend, reverse):
    """Weak and strong heads in one call, and steps of both kinds in one head."""
    values = make(3, 150, heads=6, groups=2, decay=(0, 0.05))
    values["dt"][:, :, 1::3] *= 1000
    values["dt"][:, ::7, 2::3] *= 1000
    compare(values, backend, reverse=reverse)
    compare(values, backend, dtype=torch.float64, outputs=1e-12, gradients=1e-11, reverse=reverse)


@pytest.mark.parametrize("backend", FAST)
def test_without_optional_arguments(backend):
    values = make(2, 130)
    del values["D"], values["initial_state"]
    compare(values, backend)
    compare(values, backend, final_state=False)


@pytest.mark.parametrize("backend", FAST)
def test_non_contiguous_inputs(backend):
    values = make(2, 100)
    packed = torch.cat([values["x"].flatten(2), values["B"].flatten(2), values["C"].flatten(2)], -1)
    x, B, C = packed.split([32, 16, 16], -1)
    strided = values | {"x": x.unflatten(-1, (4, 8)), "B": B[:, :, None], "C": C[:, :, None]}
    strided["dt"] = values["dt"].transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided["x"].is_contiguous() and not strided["dt"].is_contiguous()
    compare(strided, backend)


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(1, 150),
    second=st.integers(1, 150),
    reverse=st.booleans(),
    high=st.sampled_from([0.05, 2.0, 50.0]),
    backend=st.sampled_from(["sequential", *FAST]),
)
def test_state_hands_over(first, second, reverse, high, backend):
    """Scanning a + b equals scanning a, then b from a's state."""
    v = make(1, first + second, decay=(0, high), seed=first * 151 + second)

    def whole(steps, state):
        x, dt, B, C = (v[k][:, steps] for k in ("x", "dt", "B", "C"))
        return scan(x, dt, v["A"], B, C, v["D"], initial_state=state, backend=backend, reverse=reverse)

    want, last = whole(slice(None), v["initial_state"])
    a, b = slice(0, first), slice(first, None)
    if reverse:
        y_b, state = whole(b, v["initial_state"])
        y_a, state = whole(a, state)
    else:
        y_a, state = whole(a, v["initial_state"])
        y_b, state = whole(b, state)
    torch.testing.assert_close(torch.cat([y_a, y_b], 1), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", FAST)
def test_rows_do_not_depend_on_the_batch(backend):
    v = make(70, 65, heads=16, headdim=64, dtype=torch.float32)
    args = lambda rows: [v[k][rows] if k != "A" else v[k] for k in NAMES[:5]]  # noqa: E731
    together, _ = scan(*args(slice(None)), v["D"], backend=backend)
    alone, _ = scan(*args(slice(69, 70)), v["D"], backend=backend)
    torch.testing.assert_close(together[69:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_is_no_worse_than_twice_plain_pytorch(backend):
    low = {k: v.bfloat16() for k, v in make(2, 300).items()}
    want, _ = scan(*(low[k].double() for k in NAMES[:6]), initial_state=low["initial_state"].double())
    got, _ = scan(*(low[k] for k in NAMES[:6]), initial_state=low["initial_state"], backend=backend)
    outputs, state = [], low["initial_state"]  # plain PyTorch in bfloat16 throughout
    for x, dt, B, C in zip(*(low[k].unbind(1) for k in ("x", "dt", "B", "C")), strict=True):
        state = state * torch.exp(dt * low["A"])[..., None, None] + (x * dt[..., None])[..., None] * B[:, :, None]
        outputs.append((state * C[:, :, None]).sum(-1))
    plain = torch.stack(outputs, 1) + low["x"] * low["D"][:, None]
    assert got.dtype == torch.bfloat16
    assert error(got, want) <= 2 * error(plain, want)


def bad(**changes):
    v = make(2, 5, dtype=torch.float32)
    values = v | {k: c(v) for k, c in changes.items()}
    backend = values.pop("backend", "auto")
    return lambda: scan(*(values[k] for k in NAMES[:6]), initial_state=values["initial_state"], backend=backend)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": lambda v: v["x"][0]}, "x must be"),
        ({"dt": lambda v: v["dt"][:, :4]}, "dt must be"),
        ({"A": lambda v: -v["A"]}, "A must not be positive"),
        ({"B": lambda v: v["B"].repeat(1, 1, 3, 1)}, "B must be"),
        ({"C": lambda v: v["C"][..., :3]}, "C must be"),
        ({"C": lambda v: v["C"].double()}, "C must be floating point like x"),
        ({"D": lambda v: v["D"][:2]}, "D must be"),
        ({"initial_state": lambda v: v["initial_state"][:, :2]}, "initial_state must be"),
        ({"backend": lambda v: "fastest"}, "backend must be"),
    ],
)
def test_bad_input_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        bad(**change)()
