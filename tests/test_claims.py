"""The rules that turn measurements into verdicts."""

import numpy as np
import pytest

from bsm.study import claims
from bsm.study.stats import bootstrap_interval


@pytest.mark.parametrize(
    ("values", "low", "high", "status"),
    [
        ([9, 9.1, 8.9, 9.2], 8, np.inf, claims.REPRODUCED),
        ([5, 5.1, 4.9, 5.2], 8, np.inf, claims.CONTRADICTED),
        ([7, 9, 7.5, 8.5], 8, np.inf, claims.PARTLY),
        ([1.5, 1.51, 1.49], 1.1, 1.2, claims.CONTRADICTED),
        ([1.14, 1.15, 1.16], 1.1, 1.2, claims.REPRODUCED),
        ([9.0], 8, np.inf, claims.PARTLY),  # one value has no interval
    ],
)
def test_ratio_rule(values, low, high, status):
    assert claims.judge_ratio(bootstrap_interval(values), low, high) == status


def result(scale=1.0, direct=0.3):
    """A benchmark in which `chunked` takes 1 s, scaled, and the loops 12 and 30."""
    times = {"sequential": 12.0, "loop, indexed": 30.0, "chunked": scale}
    speed = [
        {"axis": "time", "pass": "forward + backward", "length": length, "backend": name, "seconds": [s, s * 1.01, s]}
        for length in (101, 401)
        for name, s in times.items()
        if (name, length) != ("loop, indexed", 401)
    ]
    memory = [
        {"axis": "time", "length": 101, "backend": name, "peak_bytes": size}
        for name, size in (("sequential", 100), ("chunked", 7))
    ]
    conv = [
        {"pass": "forward + backward", "backend": name, "seconds": [s, s]}
        for name, s in (("conv1d", 2), ("shifted", 1))
    ]
    block = [{"rows": 1, "length": 401, "seconds": [0.5]}, {"rows": 62, "length": 401, "seconds": [5.0]}]
    compiled = {"preset": "small", "compile_seconds": 60, "seconds": {"plain": [1, 1.0, 1.01], "compiled": [1, 1, 1]}}
    shares = [{"weights": "trained", "direct": direct + 0.01 * i} for i in range(4)]
    return {"speed": speed, "memory": memory, "conv": conv, "block": block, "compile": compiled}, {"shares": shares}


def statuses(*results):
    return {v.id: v for v in claims.scan_verdicts(*results)}


def test_verdicts_follow_the_results():
    found = statuses(*result())
    # A speed-up by an exact scan on a CPU never is the whole claim.
    assert found["scan-8x"].status == claims.PARTLY and "101 steps" in found["scan-8x"].why
    assert found["scan-8x"].measured.startswith("30.0")
    assert found["memory-5-10"].status == claims.CONTRADICTED and "0.070x" in found["memory-5-10"].measured
    assert found["compile-20"].status == claims.CONTRADICTED
    assert found["feedthrough-dominant"].status == claims.CONTRADICTED
    assert {found[name].status for name in ("conv-3x", "bench-25ms", "parity-1e5")} == {claims.BLOCKED}
    slower, dominant = result(scale=10.0, direct=0.9)
    found = statuses(slower, dominant)
    assert found["scan-8x"].status == claims.CONTRADICTED
    assert found["feedthrough-dominant"].status == claims.REPRODUCED


def test_parts_that_were_not_measured_have_no_verdict():
    benchmark, _ = result()
    found = statuses(benchmark | {"compile": None}, None)
    assert "compile-20" not in found and "feedthrough-dominant" not in found
