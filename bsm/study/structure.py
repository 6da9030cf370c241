"""Compare the structure of the paper's model with the unofficial implementation's, as :mod:`.unofficial` models it.

    python -m bsm.study.structure reports/demo/results/structure.json

Every value is a count or follows from an exact property. Random weights only make the properties show.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bsm import bands
from bsm.config import LossConfig, ModelConfig, StftConfig
from bsm.loss import bsmamba2_loss, loss_terms
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.networks import count_parameters
from bsm.norm import GatedRMSNorm
from bsm.study.records import mark, write_result
from bsm.study.speed.scan import frames
from bsm.study.speed.spectra import AFTER_LOSS, DESCRIBED_LOSS, EXACT_LOSS, LOSSES, transform_count
from bsm.study.unofficial import REDUCED, REDUCED_LOSS, UNOFFICIAL, Mixer, UnofficialModel

SECONDS = 8  # of audio: gives the frames of the question what a row of the time path sees
PROBE = ModelConfig(
    stft=StftConfig(256, 64), bands=bands.equal(129, 4), dim=16, depth=1, d_state=4, headdim=16, expand=2
)
"""Sizes at which both designs show their properties."""


def properties() -> list[dict[str, Any]]:
    """Return each ``property`` with its values for the ``paper`` and for the unofficial implementation (``seed``)."""
    with torch.device("meta"):  # counts without allocating
        paper, seed = BSMamba2(ModelConfig.preset("paper")), UnofficialModel(UNOFFICIAL)
    config = paper.config
    mixers = [m for m in paper.modules() if isinstance(m, Mamba2)]
    seed_mixers = [m for m in seed.modules() if isinstance(m, Mixer)]
    inner, state, _ = mixers[0].sizes
    rows = [
        ("hidden size", config.dim, seed.config.dim),
        ("layers", config.depth, seed.config.depth),
        ("number of bands", len(config.bands), len(seed.config.bands)),
        ("STFT size and hop", list(vars(config.stft).values()), list(vars(seed.config.stft).values())),
        ("parameters", count_parameters(paper), count_parameters(seed)),
        ("narrowest and widest band (bins)", _span(config.bands), _span(seed.config.bands)),
        ("state size", state, seed_mixers[0].sizes[-1]),
        ("inner channels of a mixer", inner, len(seed_mixers[0].D)),
        ("decay rates of a mixer", len(mixers[0].A_log), len(seed_mixers[0].A_log)),
        ("channels of the convolution", mixers[0].conv1d.in_channels, seed_mixers[0].conv1d.in_channels),
        ("gated norm", *(any(isinstance(m, GatedRMSNorm) for m in net.modules()) for net in (paper, seed))),
        ("mixers, one for each direction or shared", len(mixers), len(seed_mixers)),
    ]
    length = frames(config, SECONDS)
    seen = [f"frames that a row of the time path sees, of {length}", "bands that a row of the time path sees"]
    rows += zip(seen, *time_rows(length, len(config.bands)), strict=True)
    return [{"property": name, "paper": a, "seed": b} for name, a, b in rows + behaviour()]


def _span(widths: tuple[int, ...]) -> list[int]:
    return [min(widths), max(widths)]


def time_rows(length: int, count: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count the distinct frames and bands in the first row of a time block, for the paper and as described.

    The features have ``length`` frames and ``count`` bands.
    """
    grid = torch.stack(torch.meshgrid(torch.arange(length), torch.arange(count), indexing="ij"), dim=-1)
    features = nn.functional.pad(grid[None].float(), (0, PROBE.dim - 2))  # (1, t, bands, dim)
    seen = []
    for model, x in ((BSMamba2(PROBE), features.transpose(1, 2)), (UnofficialModel(PROBE), features)):
        rows: list[Tensor] = []
        model.dual_path.layers[0][0].register_forward_pre_hook(lambda _, args, kept=rows: kept.append(args[0][0]))
        model.dual_path(x)
        seen.append((len(rows[0][:, 0].unique()), len(rows[0][:, 1].unique())))
    return seen[0], seen[1]


def behaviour() -> list[tuple[str, bool, bool]]:
    """Tell what masks and channels of small models with random weights do: the property, the paper's, the other's."""
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(1, 2, 4096, generator=generator)
    torch.manual_seed(0)
    ours, theirs = BSMamba2(PROBE), UnofficialModel(PROBE)
    with torch.no_grad():
        for model in (ours, theirs):  # large values, so that a bound shows
            for p in model.mask_estimator.parameters():
                p.mul_(30)
        spec = ours.stft(mixture)
        mask, theirs_mask, mono = ours.mask(spec), theirs.mask(spec[:, 0]), spec[:, 0]
        applied = (lambda s: mask * s, spec), (lambda s: theirs.apply_mask(theirs_mask, s), mono)
        turned = [torch.allclose(1j * apply(given), apply(1j * given)) for apply, given in applied]
        outputs = [model(mixture) for model in (ours, theirs)]
    return [
        ("mask is a complex factor", *turned),
        ("mask is bounded by 1", bool(mask.abs().max() <= 1), bool(theirs_mask.abs().max() <= 1)),
        ("both channels of the output are equal", *(torch.equal(y[:, 0], y[:, 1]) for y in outputs)),
    ]


def checkpoint() -> dict[str, Any]:
    """Compare the shapes of a mixer's weights in the version without and in the version with the CUDA scan."""
    with torch.device("meta"):
        before, after = (
            {k: list(v.shape) for k, v in Mixer(UNOFFICIAL, low_rank=low).state_dict().items()} for low in (False, True)
        )
    keys = sorted(set(before) | set(after))
    differing = [k for k in keys if before.get(k) != after.get(k)]
    return {
        "tensors": len(keys),
        "mismatches": [{"key": k, "before": before.get(k), "after": after.get(k)} for k in differing],
    }


def losses() -> list[dict[str, Any]]:
    """Return values of the paper's loss and of the reduced loss for the same signals."""
    generator = torch.Generator().manual_seed(0)
    target, other = torch.randn(2, 1, 2, 22050, generator=generator)

    def spectral(estimate: Tensor, config: LossConfig) -> float:
        return sum(v.item() for name, v in loss_terms(estimate, target, config).items() if name != "waveform")

    configs = {"paper": LossConfig(), "seed": REDUCED_LOSS}
    cases = {"another signal": other, "the target at half its level": target / 2, "the target, sign flipped": -target}
    records = [
        {"case": f"{case}, spectral terms"} | {name: spectral(x, config) for name, config in configs.items()}
        for case, x in cases.items()
    ]
    total = {name: bsmamba2_loss(other, target, config).item() for name, config in configs.items()}
    return [*records, {"case": "another signal, in all"} | total]


def stfts() -> dict[str, int]:
    """Count the transforms in one evaluation of a loss: as described, after the described cut, and of this package."""
    target, estimate = torch.randn(2, 1, 2, 8192, generator=torch.Generator().manual_seed(0))
    wanted = {"as described": DESCRIBED_LOSS, "three windows": AFTER_LOSS, "here": EXACT_LOSS}
    return {name: transform_count(LOSSES[loss], estimate, target) for name, loss in wanted.items()}


def values() -> dict[str, Any]:
    """Return the whole comparison."""
    config = ModelConfig.preset("paper")
    with torch.device("meta"):
        networks = {"paper": BSMamba2(config), "seed": UnofficialModel(UNOFFICIAL)}
        networks["seed, reduced"] = UnofficialModel(REDUCED)
    size = sum(config.bands), len(config.bands)
    widths = {"author": config.bands, "equal": bands.equal(*size), "mel": bands.mel(*size)}
    return {
        "parameters": {name: count_parameters(network) for name, network in networks.items()},
        "properties": properties(),
        "checkpoint": checkpoint(),
        "losses": losses(),
        "stfts": stfts(),
        "bands": {name: list(own) for name, own in widths.items()},
    }


def main(output: Path) -> None:
    """Compare, and write a result file."""
    started = mark()
    write_result(
        output,
        measured="structure of the paper's model beside the described one: counts, shapes, values of both losses",
        parameters={"seed model": UNOFFICIAL.to_dict(), "reduced": REDUCED.to_dict(), "probe": PROBE.to_dict()},
        values=values(),
        seed=0,
        started=started,
        data="none; random inputs",
        inputs=(),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bsm.study.structure OUTPUT.json")
    main(Path(sys.argv[1]))
