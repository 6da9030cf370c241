"""Small networks for tests, and how to compare what they hold and return."""

import contextlib
from unittest import mock

import torch

from bsm import compiled
from bsm.config import ModelConfig, StftConfig
from bsm.model import BSMamba2


def small(**changes):
    """The configuration of a BSMamba2 of 3,000 parameters, stereo at 44.1 kHz, with some values changed."""
    values = {"stft": StftConfig(64, 14), "bands": (2, 2, 3, 10, 16), "dim": 8, "depth": 1, "d_state": 4, "headdim": 4}
    return ModelConfig(**values | {"expand": 2, "mask_expansion": 2} | changes)


def moved(network, seed=0):
    """Move every parameter of a network away from its initial value; return the network."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def random_model(config, seed=0):
    """A BSMamba2 none of whose tensors is at its initial value, in evaluation mode."""
    torch.manual_seed(seed)
    return moved(BSMamba2(config), seed + 1).eval()


def error(got, want):
    """The size of a difference relative to what is wanted, of tensors or arrays."""
    got, want = (torch.as_tensor(v).double() for v in (got, want))
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def same(first, second):
    """Whether two networks have equal weights of equal types."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@contextlib.contextmanager
def few_elements_a_share(threads):
    """Let compiled loops divide even small tensors among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mock.patch.object(compiled, "SHARE", 1):
            yield
    finally:
        torch.set_num_threads(before)
