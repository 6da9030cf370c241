"""The networks that can be trained, by name: the paper's and its baseline."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from bsm.baseline import BSRoformer, RoformerConfig
from bsm.config import TIME_BLOCKS, ModelConfig
from bsm.errors import InputError, known
from bsm.mamba2 import count_parameters as count_parameters  # for users, who look for it here
from bsm.model import BSMamba2

NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "bsmamba2": (ModelConfig, BSMamba2),
    "bs-roformer": (RoformerConfig, BSRoformer),
}
"""Name -> classes of configuration and network. Run folders and cards of weights hold the name."""


def network_name(config: ModelConfig | RoformerConfig) -> str:
    """Return the name of the network that a configuration is for."""
    return next(name for name, (kind, _) in NETWORKS.items() if type(config) is kind)


def network_config(name: str, config: ModelConfig) -> ModelConfig | RoformerConfig:
    """Return the configuration of a named network that is comparable with a BSMamba2.

    Args:
        name: one of :data:`NETWORKS`; a BS-RoFormer gets about as many parameters. Or one of
            :data:`bsm.config.TIME_BLOCKS`: the BSMamba2 with that time block. Any other name is an InputError.
        config: the configuration of the BSMamba2.
    """
    known("network", name, (*NETWORKS, *TIME_BLOCKS))
    if name in TIME_BLOCKS:
        return config.replace(time_block=name)
    return config if name == "bsmamba2" else RoformerConfig.matched(config)


def build(config: ModelConfig | RoformerConfig) -> nn.Module:
    """Build the network of a configuration, with random weights.

    A BS-RoFormer raises BackendUnavailable if the package bs-roformer is not installed.
    """
    return NETWORKS[network_name(config)][1](config)


def from_factory(name: str, mixture: Tensor) -> nn.Module:
    """Build a network from anyone's code, and check that it returns the shape of a mixture.

    Args:
        name: ``package.module:name`` of a callable without arguments that returns the network. The module may lie in
            the working directory.
        mixture: ``(batch, channels, samples)``; the network must return the same shape.

    Raises:
        InputError: there is no such callable; it or its network fails; or the network returns another shape.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"{name!r} names no network; write package.module:name, where name() returns a torch Module")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        network = getattr(import_module(module), attribute)()
        with torch.no_grad():
            shape = tuple(network.eval()(mixture).shape)
    except Exception as error:  # foreign code may raise anything
        raise InputError(f"{name}: cannot build and call it ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(folder)
    if shape != mixture.shape:
        raise InputError(f"{name}: returns shape {shape}; return the mixture's, {tuple(mixture.shape)}")
    return network


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return a network's time and band blocks, in the order in which they are computed."""
    layers = model.network.layers if isinstance(model, BSRoformer) else model.dual_path.layers
    return [block for layer in layers for block in layer]
