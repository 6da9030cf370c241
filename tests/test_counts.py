"""Memory and operations from tensors without values."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bsm.config import ModelConfig
from bsm.model import BSMamba2
from bsm.study import counts
from bsm.study.records import ROOT, read_result


def test_allocations_are_counted_while_they_live():
    with counts.Allocations() as counted:
        first = torch.empty(1000, device="meta")
        view = first.view(10, 100)
        second = first + 1
        assert counted.now == counted.peak == 8000
        del first, second
        assert (counted.now, counted.peak) == (4000, 8000)  # the view keeps the first
        del view
    assert (counted.now, counted.peak) == (0, 8000)


def test_saved_bytes_of_a_product():
    a, b = (torch.empty(64, 64, device="meta", requires_grad=True) for _ in range(2))
    assert counts.saved_bytes(lambda a, b: (a @ b).exp(), a, b) == 3 * 64 * 64 * 4  # both factors, and the exponential
    assert counts.saved_bytes(lambda a, b: a + b, a, b) == 0


def test_parameters_apart_do_not_count():
    class Square(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return (x * self.weight) ** 2 + (x * self.weight).view(-1, 1).mean()

    network, wave = Square(), torch.randn(1000)
    kept = counts.saved_bytes(network, wave, apart=network.parameters())
    assert kept == 2 * wave.nbytes  # the wave, and what is squared


def test_what_is_kept_grows_with_the_length(small_config):
    short, long = (counts.kept_bytes(small_config, n * 640 / small_config.sample_rate) for n in (10, 20))
    assert 1.6 < long / short < 2.4


def test_operations_are_those_of_a_real_pass():
    """A step of two segments of 1 s at the size `tiny` takes about 5.1 GFLOP."""
    config = ModelConfig.preset("tiny")
    counted = counts.operations(config, 1.0)
    with FlopCounterMode(display=False) as counter:
        BSMamba2(config)(torch.randn(1, 2, 44100))
    # Where some heads decay strongly, they go another way than the rest, and C B^T is made twice.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert 2 * 3 * counted == pytest.approx(5.1e9, rel=0.05)  # a backward pass has twice the products


def test_memory_of_a_step_grows_with_its_load_and_shrinks_by_recomputing():
    one, two, less = (counts.step_memory("tiny", 0.4, *case) for case in ((1, False), (2, False), (2, True)))
    kept = one["kept_bytes"]
    assert kept == two["kept_bytes"] and 1.5 < (two["bytes"] - kept) / (one["bytes"] - kept) < 2  # gradients stay
    assert less["bytes"] < two["bytes"]


def test_operations_are_those_of_the_projections():
    config = ModelConfig.preset("paper")
    inner, out = 2 * config.d_inner + 2 * config.d_state + config.d_inner // config.headdim, config.d_inner
    products = 2 * config.dim * (inner + out) + 2 * config.dim * config.dim  # both mixers, and the projection
    assert counts.block_operations(3) == 2 * products * 3 * counts.BLOCK_FRAMES


def test_the_committed_counts_are_what_is_counted_now():
    found = read_result(ROOT / "reports/exact/results/tensors.json")["values"]
    assert found["block"]["62"] == counts.block_operations(62)
    now = counts.step_memory(*counts.STEPS[3])
    assert found["steps"][3]["bytes"] == pytest.approx(now["bytes"], rel=0.01)  # PyTorch's own may change
    assert found["scans"]["selective"] < 0.1 * found["scans"]["loop"]
