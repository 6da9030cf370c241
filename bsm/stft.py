"""Transform waveforms to complex spectrograms and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.config import StftConfig


class STFT(nn.Module):
    """Short-time Fourier transform of the author's code: Hann window, centred frames, reflection at the ends."""

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.config = config

    def _window(self, like: Tensor) -> Tensor:
        """Return the Hann window in the precision of a signal: in float32, it would limit float64 to 7 digits."""
        return torch.hann_window(self.config.n_fft, dtype=like.real.dtype, device=like.device)

    def forward(self, wave: Tensor) -> Tensor:
        """Transform ``(..., samples)`` real to ``(..., bins, frames)`` complex, ``frames = samples // hop + 1``.

        Reflection needs more than ``n_fft / 2`` samples. Shorter input is extended with zeros at its end.
        """
        config, lead = self.config, wave.shape[:-1]
        wave = wave.reshape(-1, wave.shape[-1])
        if (short := config.n_fft // 2 + 1 - wave.shape[-1]) > 0:
            wave = F.pad(wave, (0, short))
        spec = torch.stft(wave, config.n_fft, config.hop_length, window=self._window(wave), return_complex=True)
        return spec.view(*lead, *spec.shape[1:])

    def inverse(self, spec: Tensor, samples: int) -> Tensor:
        """Transform ``(..., bins, frames)`` back to ``(..., samples)``."""
        config, lead = self.config, spec.shape[:-2]
        wave = torch.istft(
            spec.reshape(-1, *spec.shape[-2:]),
            config.n_fft,
            config.hop_length,
            window=self._window(spec),
            length=max(samples, config.n_fft // 2 + 1),
        )
        return wave[:, :samples].view(*lead, samples)
