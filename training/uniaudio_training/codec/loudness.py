"""A loss that hears as PESQ does: by how much a copy is louder and softer than its original.

For 16 kHz. The tables are those of ITU-T P.862.2; the order of the steps follows torch-pesq
(audiolabs, MIT). PESQ itself also aligns both sounds in time, which a codec's output does not need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Tables of P.862.2 at 16 kHz, for 49 bands: bins of a 512-point spectrum in a band, correction of
# its power, its centre in Bark, and the power that can just be heard.
_BAND_BINS = (
    *(1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4),
    *(3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20),
)
_BAND_CORRECTION = (
    *(100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 50.0, 100.0, 100.0, 100.0, 100.0),
    *(100.0, 53.05, 110.0, 117.99, 65.0, 68.76, 70.0, 71.43, 75.0, 76.84, 80.97, 88.65, 63.86),
    *(68.16, 72.55, 75.58, 58.38, 80.95, 64.14, 54.38, 73.82, 64.44, 59.18, 65.52, 61.40, 58.14),
    *(57.0, 64.13, 54.31, 61.11, 55.08, 56.85, 55.63, 53.14, 54.99, 79.55),
)
_BAND_BARK = (
    *(0.0787, 0.3163, 0.6366, 0.9612, 1.2905, 1.6242, 1.9626, 2.3056, 2.6534, 3.0059, 3.3632),
    *(3.7254, 4.0924, 4.4645, 4.8415, 5.2236, 5.6109, 6.0033, 6.4009, 6.8038, 7.2120, 7.6256),
    *(8.0446, 8.4691, 8.8992, 9.3349, 9.7763, 10.2234, 10.6762, 11.1350, 11.5996, 12.0701),
    *(12.5467, 13.0294, 13.5182, 14.0133, 14.5146, 15.0222, 15.5362, 16.0567, 16.5838, 17.1174),
    *(17.6577, 18.2047, 18.7585, 19.3191, 19.8868, 20.4614, 21.0430),
)
_THRESHOLD = (
    *(5.13e7, 2.455e6, 70794.6, 4897.8, 1174.9, 389.05, 104.71, 45.71, 17.78, 9.772, 4.898, 3.090),
    *(1.905, 1.259, 0.977, 0.724, 0.562, 0.457, 0.389, 0.331, 0.295, 0.269, 0.257, 0.251, 0.251),
    *(0.251, 0.251, 0.263, 0.288, 0.309, 0.339, 0.372, 0.398, 0.437, 0.468, 0.490, 0.501, 0.501),
    *(0.513, 0.525, 0.525, 0.525, 0.513, 0.479, 0.427, 0.372, 0.363, 0.417, 0.537),
)


_WINDOW = 512  # samples
_LEVEL = 1e7  # power that the model expects from 325 to 3250 Hz


class LoudnessLoss(nn.Module):
    """The difference in loudness between a copy and the original, by band and frame.

    Sound that the copy adds weighs more than sound that it lacks. A difference below a quarter of
    the loudness is masked. Spectral tilt and slow changes of level count little.
    """

    window: Tensor  # [512]
    bands: Tensor  # [257, 49]
    filter: Tensor  # [257], a gain of powers
    middle: Tensor  # [257], 1 for the bins whose power sets the level
    threshold: Tensor  # [49]
    exponent: Tensor  # [49]
    width: Tensor  # [49], in Bark

    def __init__(self) -> None:
        super().__init__()
        bins = _WINDOW // 2 + 1
        bands = torch.zeros(bins, len(_BAND_BINS))
        edges = torch.tensor((0, *_BAND_BINS)).cumsum(0)
        for band, correction in enumerate(_BAND_CORRECTION):
            bands[edges[band] : edges[band + 1], band] = correction * 6.910853e-6
        bands[0] = 0  # the mean is not heard
        hz = torch.linspace(0, 8000, bins)
        z = torch.exp(-2j * torch.pi * hz / 16000)
        high_pass = 2.740826 * (1 - z) ** 2 / (1 - 1.9444777 * z + 0.94597794 * z**2)
        bark = torch.tensor(_BAND_BARK)
        middles = (bark[1:] + bark[:-1]) / 2
        borders = torch.cat((torch.zeros(1), middles, 2 * bark[-1:] - middles[-1:]))
        for name, value in (
            ("window", torch.hann_window(_WINDOW)),
            ("bands", bands),
            ("filter", high_pass.abs().square()),
            ("middle", ((hz > 325) & (hz < 3250)).float()),
            ("threshold", torch.tensor(_THRESHOLD)),
            ("exponent", 0.23 * (6 / (bark + 2)).clamp(1, 2) ** 0.15),
            ("width", borders.diff()),
        ):
            self.register_buffer(name, value)

    def _powers(self, x: Tensor) -> Tensor:
        """x [B, N] -> powers of the bands [B, T, 49], at the model's level."""
        spec = torch.stft(
            x, _WINDOW, _WINDOW // 2, window=self.window, center=False, return_complex=True
        )
        power = torch.view_as_real(spec.transpose(1, 2)).square().sum(-1)
        # Parseval; the energy of a Hann window is 3/8 of its length
        mean = (power * self.middle).sum(-1).mean(1) * (2 / (_WINDOW**2 * 3 / 8))
        power = power * (_LEVEL / (mean + 1e-9))[:, None, None]
        return (power * self.filter) @ self.bands

    def _audible(self, power: Tensor, factor: float = 1.0) -> Tensor:
        return power * (power > self.threshold * factor)

    def _loudness(self, power: Tensor) -> Tensor:
        t = self.threshold
        louder = (2 * t) ** self.exponent * ((0.5 + 0.5 * power / t) ** self.exponent - 1)
        return 0.1866055 * louder * (power > t)

    def disturbance(self, x: Tensor, y: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
        """x (the original), y [B, N], of a second or more -> the symmetric disturbance [B], and
        that of added sound [B].

        PESQ limits the disturbance of a frame. With ``soft`` the limit is approached, so that bad
        frames have a gradient too.
        """
        with torch.no_grad():
            want = self._powers(x.float())
            silent = self._audible(want, 100).sum(-1) < 1e7
            heard = ~silent[..., None]
            mean = (self._audible(want, 100) * heard).mean(1)
        made = self._powers(y.float())
        # a constant tilt of the spectrum, and slow changes of level, are hardly heard
        ratio = ((self._audible(made, 100) * heard).mean(1) + 1e3) / (mean + 1e3)
        want = ratio.clamp(0.01, 100)[:, None] * want
        level = (self._audible(want).sum(-1) + 5e3) / (self._audible(made).sum(-1) + 5e3)
        level = torch.cat((level[:, :1], 0.8 * level[:, 1:] + 0.2 * level[:, :-1]), 1)
        made = level.clamp(3e-4, 5)[..., None] * made
        a, b = self._loudness(want), self._loudness(made)
        difference = b - a
        difference = difference.sign() * (difference.abs() - 0.25 * torch.minimum(a, b)).relu()
        added = ((made + 50) / (want + 50)) ** 1.2
        added = (added * (added >= 3)).clamp(max=12)
        total = self.width[1:].sum()
        weighted = (difference * self.width)[..., 1:]
        weigh = ((self._audible(want).sum(-1) + 1e5) / 1e7) ** 0.04
        both = (weighted.square().sum(-1) + 1e-12).sqrt() * total.sqrt() / weigh
        extra = (weighted * added[..., 1:]).abs().sum(-1) / weigh
        limited = (45 * -torch.expm1(-d / 45) if soft else d.clamp(max=45) for d in (both, extra))
        both, extra = (_over_time(d) for d in limited)
        return both, extra

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (the original), y [B, N] -> the mean of about 4.5 - PESQ (before its output mapping)."""
        both, extra = self.disturbance(x, y, soft=True)
        return (0.1 * both + 0.0309 * extra).mean()


def _over_time(frames: Tensor) -> Tensor:
    """frames [B, T] -> [B]: a norm that emphasises the worst frames of each third of a second, then
    the root mean square.
    """
    n = min(20, frames.shape[1])
    parts = frames.unfold(1, n, max(1, n // 2))
    return ((parts + 1e-6) ** 6).mean(-1).pow(1 / 3).mean(1).sqrt()
