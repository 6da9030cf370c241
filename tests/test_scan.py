"""Every exact backend against the float64 definition, in outputs, states and gradients."""

import logging
import math
import re
import subprocess
import sys
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bsm.scan as scans
from bsm.errors import BackendUnavailable
from bsm.scan import APPROXIMATE, EXACT, available, scan
from bsm.scan._chunk import Plan
from models import error, few_elements_a_share

NAMES = ("x", "dt", "A", "B", "C", "D", "initial_state")
RUNNABLE = [name for name in EXACT if available("cpu")[name] is None]
FAST = [name for name in RUNNABLE if name not in ("sequential", "selective")]  # the others go step by step
LENGTHS = (1, 2, 63, 64, 65, 801)


def make(batch, length, heads=4, headdim=8, state=16, groups=1, decay=None, seed=0, dtype=torch.float64):
    """Draw inputs; ``decay`` is None for the official initial values, else (low, high) of dt * |A| per step."""
    g = torch.Generator().manual_seed(seed)
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


def leaves_of(values, dtype=torch.float32, grads=NAMES):
    return {k: v.to(dtype).clone().requires_grad_(k in grads) for k, v in values.items()}


def call(v, backend, **kwargs):
    return scan(*(v.get(k) for k in NAMES[:6]), initial_state=v.get("initial_state"), backend=backend, **kwargs)


def run(values, backend, dtype, weights, **kwargs):
    """Outputs, final state and all gradients for random output gradients, by name."""
    inputs = leaves_of(values, dtype)
    y, state = call(inputs, backend, **kwargs)
    loss = (y * weights[0].to(dtype)).sum() + (0 if state is None else (state * weights[1].to(dtype)).sum())
    loss.backward()
    result = {"y": y.detach()} | ({} if state is None else {"state": state.detach()})
    return result, {k: v.grad for k, v in inputs.items()}


def draw_weights(values):
    """Random gradients of the output and of the final state."""
    x = values["x"]
    g = torch.Generator().manual_seed(9)
    shapes = x.shape, (x.shape[0], *x.shape[2:], values["B"].shape[3])
    return tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)


def reference(values, dtype, **kwargs):
    """The definition in float64, for the same rounded inputs and output gradients."""
    weights = [w.to(dtype) for w in draw_weights(values)]
    return run({k: v.to(dtype).double() for k, v in values.items()}, "sequential", torch.float64, weights, **kwargs)


def compare(values, backend, dtype=torch.float32, outputs=1e-5, gradients=1e-4, expected=None, **kwargs):
    got, got_grads = run(values, backend, dtype, draw_weights(values), **kwargs)
    want, want_grads = expected or reference(values, dtype, **kwargs)
    for name in want:
        assert error(got[name], want[name]) < outputs, f"{backend}: {name} {error(got[name], want[name]):.2e}"
    for name in want_grads:
        e = error(got_grads[name], want_grads[name])
        assert e < gradients, f"{backend}: gradient of {name} {e:.2e}"


@cache
def problem(length, groups=1, reverse=False, decay=None):
    """Inputs, and what the definition makes of them: the slow half of the test, shared by the backends."""
    values = make(2, length, groups=groups, decay=decay, seed=length + groups)
    return values, reference(values, torch.float32, reverse=reverse)


def agreement_cases():
    """Every backend and length, in both directions, of which one has two groups; all four pairs at one length.

    It is slow where a backend goes step by step through a long one.
    """
    for backend in RUNNABLE:
        for length in LENGTHS:
            marks = pytest.mark.slow if length > 65 and backend not in FAST else ()
            for groups, reverse in [(1, False), (2, True), *[(1, True), (2, False)] * (length == 65)]:
                yield pytest.param(backend, length, groups, reverse, marks=marks)


@pytest.mark.parametrize(("backend", "length", "groups", "reverse"), list(agreement_cases()))
def test_agrees_with_float64_definition(backend, length, groups, reverse):
    values, expected = problem(length, groups, reverse)
    compare(values, backend, expected=expected, reverse=reverse)


@cache
def model_sized_problem():
    values = make(2, 70, heads=16, headdim=64, state=128, seed=0)
    return values, reference(values, torch.float32)


@pytest.mark.parametrize(
    "backend", [b if b != "selective" else pytest.param(b, marks=pytest.mark.slow) for b in RUNNABLE]
)
def test_agrees_at_the_sizes_of_the_model(backend):
    values, expected = model_sized_problem()
    compare(values, backend, expected=expected)


@pytest.mark.parametrize("length", [2, 150])
@pytest.mark.parametrize("decay", [(0, 0), (0, 0.1), (0, 3), (0, 50), (500, 500)])
@pytest.mark.parametrize("backend", RUNNABLE)
def test_any_decay(backend, decay, length):
    values, expected = problem(length, decay=decay)
    compare(values, backend, expected=expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", FAST)
def test_heads_of_every_kind_together(backend, reverse):
    """Weak and strong heads in one call, and steps of both kinds in one head."""
    values = make(3, 150, heads=6, groups=2, decay=(0, 0.05))
    values["dt"][:, :, 1::3] *= 1000
    values["dt"][:, ::7, 2::3] *= 1000
    compare(values, backend, reverse=reverse)
    compare(values, backend, dtype=torch.float64, outputs=1e-12, gradients=1e-11, reverse=reverse)


@pytest.mark.parametrize("decay", [(0, 0.9), (0.45, 0.55), (0, 1.9), (0.8, 1), (1.7, 2.1)])
def test_gradient_of_A_where_the_factored_form_loses_digits(decay):
    """It is a difference of nearly equal sums there: 3e-4 was seen before it was computed otherwise."""
    compare(make(2, 130, heads=2, headdim=64, state=128, decay=decay), "chunked", gradients=5e-5)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5), length=st.integers(1, 128), heads=st.integers(1, 3), headdim=st.integers(1, 9),
    state=st.integers(1, 9), reverse=st.booleans(), threads=st.sampled_from([1, 3]), autocast=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_one_chunk_by_compiled_loops(batch, length, heads, headdim, state, reverse, threads, autocast, seed):
    """Short sequences of mild decays, from zeros and without the last state, have loops of their own in training."""
    values = make(batch, length, heads, headdim, state, decay=(0.0, 0.3), seed=seed)
    del values["initial_state"]
    options, weights = {"final_state": False, "reverse": reverse}, draw_weights(values)
    values, weights = {k: v.float() for k, v in values.items()}, [w.float() for w in weights]
    with pytest.MonkeyPatch.context() as patch, few_elements_a_share(threads):
        patch.setattr(Plan, "slabs", lambda self, rows, *sizes: (slice(i, i + 2) for i in range(0, rows, 2)))
        y, _ = call(leaves_of(values), "chunked", **options)
        assert type(y.grad_fn).__name__ == "WholeScanBackward"
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got = run(values, "chunked", torch.float32, weights, **options)
    want = run({k: v.double() for k, v in values.items()}, "sequential", torch.float64, weights, **options)
    for results, wanted in zip(got, want, strict=True):
        for name in wanted:
            difference = float((results[name] - wanted[name]).norm())
            assert difference < 1e-4 * (1 + float(wanted[name].norm())), name  # decays of a single step change nothing


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
    backend=st.sampled_from(RUNNABLE),
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


def plain_bfloat16(x, dt, A, B, C, D, state):
    """What plain PyTorch makes of the recurrence in bfloat16 throughout."""
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(*(v.unbind(1) for v in (x, dt, B, C)), strict=True):
        state = state * torch.exp(dt_t * A)[..., None, None] + (x_t * dt_t[..., None])[..., None] * B_t[:, :, None]
        outputs.append((state * C_t[:, :, None]).sum(-1))
    return torch.stack(outputs, 1) + x * D[:, None], state


@cache
def bfloat16_problem():
    """Values, the definition's outputs and gradients, and the errors of plain PyTorch in bfloat16."""
    values = make(2, 300, seed=3)
    outputs, gradients = reference(values, torch.bfloat16)
    inputs = {k: v.bfloat16().requires_grad_() for k, v in values.items()}
    y, state = plain_bfloat16(*(inputs[k] for k in NAMES))
    dy, dstate = (w.bfloat16() for w in draw_weights(values))
    ((y * dy).sum() + (state * dstate).sum()).backward()
    plain = {"y": error(y.detach(), outputs["y"]), "state": error(state.detach(), outputs["state"])}
    return values, outputs | gradients, plain | {k: error(v.grad, gradients[k]) for k, v in inputs.items()}


@pytest.mark.parametrize("backend", RUNNABLE)
def test_bfloat16_is_no_worse_than_twice_plain_pytorch(backend):
    values, want, plain = bfloat16_problem()
    outputs, gradients = run(values, backend, torch.bfloat16, draw_weights(values))
    assert outputs["y"].dtype == torch.bfloat16 and outputs["state"].dtype == torch.float32
    for name, got in {**outputs, **gradients}.items():
        assert error(got, want[name]) <= 2 * plain[name], f"{backend}: {name}"


def constant(values, **changes):
    return values | {k: torch.full_like(values[k], v) for k, v in changes.items()}


EXTREMES = {
    "no steps": constant(make(2, 130, seed=1), dt=0.0),
    "huge steps, hardly any decay": constant(make(2, 130, seed=1), dt=1e4, A=-1e-8),
    "no decay": constant(make(2, 130, seed=1), A=0.0),
    "silence": constant(make(2, 130, seed=1), x=0.0),
    "around the limit of the factored form": make(2, 130, decay=(1.7, 2.1), seed=1),
    "large numbers": {
        k: v * {"x": 1e4, "B": 1e3, "C": 1e3}.get(k, 1) for k, v in make(2, 130, decay=(0, 1.9), seed=1).items()
    },
    "many rows": make(1000, 3, seed=1),
    "one of everything": make(1, 130, heads=1, headdim=1, state=1, seed=1),
    "headdim 1": make(2, 66, headdim=1, seed=1),
    "state 1": make(2, 66, state=1, seed=1),
}


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("backend", FAST)
def test_extremes(backend, case):
    compare(EXTREMES[case], backend)


@pytest.mark.parametrize("backend", RUNNABLE)
def test_steps_that_alternate_between_nothing_and_everything(backend):
    """Decays of exp(-100) and less: what float32 cannot hold is zero, and nothing is NaN."""
    values = constant(make(2, 70, seed=1), dt=0.0)
    values["dt"][:, 1::2] = 100
    outputs, gradients = run(values, backend, torch.float32, draw_weights(values))
    want, want_gradients = reference(values, torch.float32)
    assert error(outputs["y"], want["y"]) < 1e-5
    for name, got in gradients.items():
        assert (got - want_gradients[name]).abs().max() < 1e-5 * want_gradients[name].abs().max() + 1e-30


LOSSES = {
    "the output alone": lambda y, state: y.square().sum(),
    "the state alone": lambda y, state: state.square().sum(),
    "expanded": lambda y, state: y.sum() + state.sum(),
    "transposed": lambda y, state: (y.permute(3, 2, 1, 0) * torch.arange(4).to(y)[:, None, None]).sum(),
    "both, twice": lambda y, state: (y * y.roll(1, 1)).sum() + (state * state.mT.mT).sum() + y.sin().sum(),
}


def gradients(values, backend, dtype, loss, grads=NAMES):
    """Gradients by name; autograd gives None, or zeros, where nothing reaches."""
    v = leaves_of(values, dtype, grads)
    LOSSES[loss](*call(v, backend)).backward()
    return {k: torch.zeros_like(v[k]) if v[k].grad is None else v[k].grad for k in grads}


def against_reference(backend):
    return (backend, torch.float32), ("sequential", torch.float64)


@pytest.mark.parametrize(
    ("loss", "inputs"), [*((loss, NAMES) for loss in LOSSES), *(("both, twice", (name,)) for name in NAMES)]
)
@pytest.mark.parametrize("backend", FAST)
def test_any_use_of_the_results_and_gradients_of_one_input_alone(backend, loss, inputs):
    values = make(2, 130, seed=4)
    got, want = (gradients(values, *how, loss, inputs) for how in against_reference(backend))
    assert all(error(got[name], want[name]) < 1e-4 for name in inputs)


@pytest.mark.parametrize("backend", FAST)
def test_expanded_inputs(backend):
    """Inputs of stride zero: one step size for all heads, one row for the whole batch."""
    values = make(2, 130, seed=6)
    small = {"x": 1, "dt": 2, "A": 0, "B": 0, "C": 3, "D": 0, "initial_state": 0}  # the axis along which each repeats
    results = []
    for how, dtype in against_reference(backend):
        v = leaves_of({k: values[k].narrow(axis, 0, 1) for k, axis in small.items()}, dtype)
        y, state = call({k: t.expand(values[k].shape) for k, t in v.items()}, how)
        LOSSES["both, twice"](y, state).backward()
        results.append({k: t.grad for k, t in v.items()})
    for name in NAMES:
        assert error(results[0][name], results[1][name]) < 1e-4, name


@pytest.mark.parametrize("backend", FAST)
def test_inference_mode_float16_and_autocast(backend):
    values = {k: v.float() for k, v in make(2, 130, seed=7).items()}
    want, _ = call({k: v.double() for k, v in values.items()}, "sequential")
    with torch.inference_mode():
        assert error(call(values, backend)[0], want) < 1e-5
    half = call({k: v.half() if k in ("x", "B", "C") else v for k, v in values.items()}, backend)[0]
    assert half.dtype == torch.float16 and error(half, want) < 2e-3
    v = leaves_of(values)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = call(v, backend)
    assert y.dtype == state.dtype == torch.float32 and error(y.detach(), want) < 1e-5
    LOSSES["both, twice"](y, state).backward()
    expected = gradients(values, "sequential", torch.float64, "both, twice")
    assert all(error(v[name].grad, expected[name]) < 1e-4 for name in NAMES)


def test_chunked_backward_under_autocast():
    values = make(2, 130, seed=7)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(values, "chunked", torch.float32, "the output alone")
    want = gradients(values, "sequential", torch.float64, "the output alone")
    assert all(error(got[name], want[name]) < 1e-4 for name in NAMES)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("x", lambda v: v[0], "x must be"),
        ("dt", lambda v: v[:, :4], "dt must be"),
        ("A", lambda v: -v, "A must not be positive"),
        ("dt", lambda v: -v, "dt must not be negative"),
        ("B", lambda v: v.repeat(1, 1, 3, 1), "B must be"),
        ("C", lambda v: v[..., :3], "C must be"),
        ("C", lambda v: v.double(), "C must be floating point like x"),
        ("D", lambda v: v[:2], "D must be"),
        ("initial_state", lambda v: v[:, :2], "initial_state must be"),
    ],
)
def test_bad_input_is_named(name, change, named):
    values = make(2, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=named):
        call(values | {name: change(values[name])}, "auto")


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="unknown scan backend 'fastest'; choose one of auto, sequential"):
        call(make(2, 5), "fastest")


def test_auto_picks_before_it_runs_and_says_so_once(caplog, monkeypatch):
    scans._choose.cache_clear()
    v = make(1, 3, dtype=torch.float32)
    with caplog.at_level(logging.INFO, logger="bsm.scan"):
        call(v, "auto")
        call(v, "auto")
    assert [r.getMessage() for r in caplog.records] == ["scan backend for float32 on cpu: chunked (plain PyTorch)"]

    monkeypatch.setattr(scans, "_unavailable", lambda backend, device: None)
    assert scans._choose("cuda", torch.bfloat16) == "triton"
    assert scans._choose("cuda", torch.float64) == "chunked"  # there are no kernels for it
    scans._choose.cache_clear()
    monkeypatch.setattr(scans, "_unavailable", lambda backend, device: "needs this and that")
    assert scans._choose("cuda", torch.bfloat16) == "chunked"
    scans._choose.cache_clear()


def test_auto_does_not_hide_an_error(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("broken kernel")

    monkeypatch.setattr("bsm.scan.chunked.scan", broken)
    with pytest.raises(RuntimeError, match="broken kernel"):
        call(make(1, 3), "auto")


def test_looking_for_backends_imports_none_of_their_packages():
    code = "import sys, bsm.scan as s; s.available('cpu'); s.available('cuda'); print([*sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [
        name for name in ("triton", "mamba_ssm", "selective_scan_cuda", "transformers") if f"'{name}'" in modules
    ]


def test_what_is_missing_is_named_with_the_fix(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendUnavailable, match="'triton': needs a CUDA device"):
        call(make(1, 3, dtype=torch.float32), "triton")
    assert available("cpu")["triton"].startswith("needs a CUDA device")
    monkeypatch.setattr("bsm.scan._mamba_ssm.missing", lambda *names: list(names))
    assert re.search("packages? .*triton.*mamba_ssm.*pip install", available("cuda")["triton"])
    assert re.search("selective_scan_cuda.*pip install", available("cuda")["selective"])
    assert available("cpu")["selective"] is None


@pytest.mark.parametrize("reverse", [False, True])
def test_feedthrough_is_exact_up_to_its_chunk(reverse):
    assert APPROXIMATE == ("feedthrough",)
    compare(make(2, 128, groups=2), "feedthrough", reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_feedthrough_drops_what_comes_from_other_chunks(reverse):
    """Every chunk of 128 steps, counted in scan order, equals an exact scan of that chunk alone."""
    v = make(2, 300, groups=2)
    y, state = call(v, "feedthrough", reverse=reverse)
    steps = torch.arange(300).flip(0) if reverse else torch.arange(300)
    for number, chunk in enumerate(steps.split(128)):
        alone = v | {k: v[k][:, chunk.sort()[0]] for k in ("x", "dt", "B", "C")}
        if number:
            del alone["initial_state"]
        y_alone, state_alone = call(alone, "sequential", reverse=reverse)
        torch.testing.assert_close(y[:, chunk.sort()[0]], y_alone)
    torch.testing.assert_close(state, state_alone)  # the last chunk's alone


@pytest.mark.slow
def test_a_compiled_scan_takes_decays_of_any_size():
    """The heads are divided by their decays, whose values torch.compile sees as symbols from the second call on."""
    compiled = torch.compile(lambda *inputs: scans.scan(*inputs, backend="chunked")[0] * 2)
    for seed in range(4):
        torch.manual_seed(seed)
        x, dt, A = torch.randn(2, 64, 2, 8), (1 + seed) * torch.rand(2, 64, 2), -5 * torch.rand(2)
        B, C = torch.randn(2, 2, 64, 1, 8)
        expected = 2 * scans.scan(x, dt, A, B, C, backend="chunked")[0]
        assert (compiled(x, dt, A, B, C) - expected).abs().max() < 1e-4
