"""The scans against mamba-ssm's own code: its plain references, and its Triton kernels in Triton's interpreter.

Run as a program (with TRITON_INTERPRET=1), this file prints the errors of the kernels as JSON: the environment chooses
the interpreter when Triton is imported, and it must not reach the other tests.
"""

import contextlib
import json
import os
import subprocess
import sys
import types
from unittest import mock

import pytest
import torch

from bsm.scan import _mamba_ssm, scan
from bsm.study import counts
from models import error
from test_scan import NAMES, make, run

MISSING = _mamba_ssm.missing("triton", "mamba_ssm", "einops")
needs_oracles = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: make oracles")


@pytest.fixture(scope="module")
def oracles():
    """mamba-ssm's references, imported without its compiled extension, of which nothing stays behind."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: make oracles")
    with mock.patch.dict(sys.modules):
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
        yield types.SimpleNamespace(
            minimal=_mamba_ssm.load("modules.ssd_minimal").ssd_minimal_discrete,
            combined=_mamba_ssm.load("ops.triton.ssd_combined").ssd_chunk_scan_combined_ref,
            selective=_mamba_ssm.load("ops.selective_scan_interface").selective_scan_ref,
        )


def by_minimal(oracles, x, dt, A, B, C, D, initial_state):
    """Listing 1 of the Mamba-2 paper: inputs already scaled, projections for every head."""
    B, C = (v.repeat_interleave(x.shape[2] // v.shape[2], 2) for v in (B, C))
    first = None if initial_state is None else initial_state[:, None]
    y, state = oracles.minimal(x * dt[..., None], A * dt, B, C, 16, first)
    return y + D[:, None] * x, state


def by_combined(oracles, x, dt, A, B, C, D, initial_state):
    return oracles.combined(x, dt, A, B, C, 16, D), None


def by_selective(oracles, x, dt, A, B, C, D, initial_state):
    """Mamba-1's layout: (batch, channels, length), one decay for every channel and state."""
    p = x.shape[3]
    A = A.repeat_interleave(p)[:, None].expand(-1, B.shape[3])
    B, C = (v.permute(0, 2, 3, 1) for v in (B, C))
    u, delta = x.flatten(2).mT, dt.repeat_interleave(p, 2).mT
    y, state = oracles.selective(u, delta, A, B, C, D.repeat_interleave(p), return_last_state=True)
    return y.mT.unflatten(2, x.shape[2:]), state.unflatten(1, x.shape[2:])


# The references that compute in float32 whatever they are given are held to float32.
ORACLES = {
    "ssd_minimal_discrete": (by_minimal, torch.float64, 1e-11),
    "ssd_chunk_scan_combined_ref": (by_combined, torch.float32, 2e-5),
    "selective_scan_ref": (by_selective, torch.float32, 1e-5),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("backend", ["sequential", "chunked", "quadratic", "selective"])
def test_agrees_with_the_references_of_mamba_ssm(oracles, backend, oracle, groups):
    function, dtype, tolerance = ORACLES[oracle]
    # ssd_chunk_scan_combined_ref masks after exp(), and so has NaN gradients past a decay of exp(88) in a chunk.
    values = make(2, 48, groups=groups, decay=(0, 1), seed=groups, dtype=dtype)
    if function is not by_minimal:  # the others start from zero
        del values["initial_state"]
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=g, dtype=dtype) for s in ((2, 48, 4, 8), (2, 4, 8, 16))]
    leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
    y, state = function(oracles, *(leaves.get(k) for k in NAMES))
    ((y * weights[0]).sum() + (0 if state is None else (state * weights[1]).sum())).backward()
    got, grads = run(values, backend, dtype, weights, final_state=state is not None)
    assert error(got["y"], y.detach().double()) < tolerance
    if state is not None:
        assert error(got["state"], state.detach().double()) < tolerance
    for name, leaf in leaves.items():
        assert error(grads[name], leaf.grad.double()) < 10 * tolerance, name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package named mamba_ssm whose __init__ is the test's; what was imported before is put back afterwards."""
    with mock.patch.dict(sys.modules):
        for name in [m for m in sys.modules if m.partition(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
        (tmp_path / "mamba_ssm" / "ops").mkdir(parents=True)
        (tmp_path / "mamba_ssm" / "ops" / "__init__.py").touch()
        (tmp_path / "mamba_ssm" / "ops" / "kernels.py").write_text("answer = 42")
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "mamba_ssm" / "__init__.py"


def test_a_submodule_loads_where_the_package_does_not(package):
    package.write_text("import selective_scan_cuda_that_is_not_there")
    assert _mamba_ssm.load("ops.kernels").answer == 42
    with pytest.raises(ImportError, match="selective_scan_cuda"):  # as if nothing had happened
        import mamba_ssm  # noqa: F401


def test_a_complete_package_is_used_as_it_is(package):
    package.write_text("complete = True")
    assert _mamba_ssm.load("ops.kernels").answer == 42
    assert sys.modules["mamba_ssm"].complete
    assert sys.modules["mamba_ssm"].ops.kernels.answer == 42


def test_a_missing_submodule_stays_missing(package):
    package.write_text("import selective_scan_cuda_that_is_not_there")
    with pytest.raises(ImportError, match="nothing"):
        _mamba_ssm.load("ops.nothing")
    assert "mamba_ssm" not in sys.modules


CASES = {
    "ragged": {"length": 70},
    "short": {"length": 5},
    "groups": {"length": 64, "groups": 2},
    "reverse": {"length": 40, "reverse": True},
    "no state": {"length": 40, "without": ("initial_state",), "final_state": False},
    "no direct term": {"length": 40, "without": ("D", "initial_state")},
    "strong decay": {"length": 40, "decay": (0, 50)},
    # The interpreter multiplies bfloat16 matrices as if their bits were integers; float16 it knows.
    "float16": {"length": 40, "dtype": torch.float16},
}


@pytest.fixture(scope="module")
def interpreted():
    """Errors of mamba-ssm's kernels and of ``chunked`` against float64, by case, backend and quantity."""
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@needs_oracles
@pytest.mark.parametrize("case", CASES)
def test_official_kernels_agree_with_the_definition_and_so_do_we(interpreted, case):
    low = "dtype" in CASES[case]
    for backend, errors in interpreted[case].items():
        for name, e in errors.items():
            limit = 5e-3 if low else 1e-5 if name in ("y", "state") else 1e-4
            assert e < limit, f"{case}: {name} of {backend} {e:.1e}"


@pytest.mark.slow
@needs_oracles
def test_what_the_kernels_keep_is_what_is_counted_for_them(interpreted):
    """The claim about their memory, and that about 32 GB, count a stand-in at sizes that no interpreter reaches."""
    assert interpreted["kept bytes"]["triton"] == interpreted["kept bytes"]["stand-in"] > 0


def main() -> None:
    """Run every case; Triton must see no GPU: its device guards become no-ops and nothing is tuned."""
    import triton

    from bsm.scan import triton as official

    assert os.environ.get("TRITON_INTERPRET") == "1"
    official.CHUNK = 32  # several chunks in a short sequence
    autotune = triton.autotune
    triton.autotune = lambda configs, key, **kwargs: autotune(configs[:1], key, **kwargs)
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=2)
    errors = {name: kernel_errors(official, **case) for name, case in CASES.items()}
    print(json.dumps(errors | {"kept bytes": kept_bytes(official)}))


def kept_bytes(official):
    counts.CHUNK = official.CHUNK
    values = make(2, 70, heads=2, headdim=16, seed=0)
    inputs = [values[name].float().requires_grad_() for name in NAMES[:6]]
    options = {"initial_state": None, "reverse": False, "final_state": False}
    return {
        "triton": counts.saved_bytes(lambda *args: official.scan(*args, **options)[0], *inputs),
        "stand-in": counts.saved_bytes(
            counts.KernelScan.apply, *(v.detach().to("meta").requires_grad_() for v in inputs)
        ),
    }


def kernel_errors(
    official, length, groups=1, decay=None, dtype=torch.float32, reverse=False, final_state=True, without=()
):
    values = make(2, length, heads=2, headdim=16, groups=groups, decay=decay, seed=length)
    values = {k: v for k, v in values.items() if k not in without}
    # As the mixer does: steps and parameters stay in float32 beside an input of half precision.
    kept = {k: v.to(dtype if k in ("x", "B", "C") else torch.float32) for k, v in values.items()}
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=g).to(dtype) for s in (values["x"].shape, (2, 2, 16, 16))]

    def results(function, to=None):
        leaves = {k: v.to(to or v.dtype).clone().requires_grad_() for k, v in kept.items()}
        args = [leaves.get(k) for k in NAMES]
        y, state = function(*args[:6], initial_state=args[6], reverse=reverse, final_state=final_state)
        loss = (y * weights[0].to(y.dtype)).sum()
        if state is not None:
            loss = loss.to(state.dtype) + (state * weights[1].to(state.dtype)).sum()
        loss.backward()
        found = {"y": y.detach()} | ({} if state is None else {"state": state.detach()})
        return found | {f"gradient of {k}": v.grad for k, v in leaves.items()}

    def chosen(backend):
        return lambda *args, **kwargs: scan(*args, backend=backend, **kwargs)

    want = results(chosen("sequential"), torch.float64)
    backends = {"triton": official.scan, "chunked": chosen("chunked")}
    return {b: {k: error(v, want[k]) for k, v in results(f).items()} for b, f in backends.items()}


if __name__ == "__main__":
    main()
