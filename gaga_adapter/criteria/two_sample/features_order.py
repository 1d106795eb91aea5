r"""Features in which a classifier can see the order of the atoms of molecules with one-hot types.

With `r_i` the centred position of the atom at place i of n, and lags L up to 8:

- the products `sum_i r_i · r_(i+L) / n`, and the mean distance of atoms L places apart;
- the histogram of the distances of neighbours in the order, and of those two places apart;
- how often neighbours, and those two places apart, have one type;
- the mean place of each type, and `|r_i|²` in each quarter of the order.

They are invariant under rotations and padding, wherever it lies, and not under permutations: a
network with positional encodings sees the order as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaga_adapter.subspace import atoms_first

_LAGS = (1, 2, 3, 4, 6, 8)
_CENTRES, _WIDTH = tuple(0.3 + 0.4 * k for k in range(10)), 0.3
_CHUNK = 1024


def order_features(x: Tensor, mask: Tensor, length: float) -> Tensor:
    """Features (B, D) of molecules (B, N, 3 + K), K types one-hot, in the order of the real atoms.

    `length` is the unit of the positions.
    """
    x, mask = atoms_first(x, mask)
    chunks = zip(torch.split(x, _CHUNK), torch.split(mask, _CHUNK), strict=True)
    return torch.cat([_features(y[..., :3] / length, y[..., 3:] > 0, real) for y, real in chunks])


def _features(r: Tensor, one_hot: Tensor, mask: Tensor) -> Tensor:
    real, kinds = mask[..., None], one_hot.to(r) * mask[..., None]
    n = mask.sum(1, keepdim=True).to(r)
    r = torch.where(real, r, 0)
    r = torch.where(real, r - r.sum(1, keepdim=True) / n[..., None], 0)
    place = torch.arange(r.shape[1], device=r.device) / n
    square = r.square().sum(-1)
    columns = [(kinds * place[..., None]).sum(1) / kinds.sum(1).clamp(min=1)]
    for quarter in range(4):
        inside = mask & (place >= quarter / 4) & (place < (quarter + 1) / 4)
        columns.append((square * inside).sum(1, keepdim=True) / n)
    for lag in _LAGS:
        width = max(0, r.shape[1] - lag)
        both = mask[:, lag:] & mask[:, :width]
        pairs = both.sum(1, keepdim=True).clamp(min=1)
        one, other = r[:, lag:], r[:, :width]
        apart = (one - other).square().sum(-1).sqrt()
        columns.append(((one * other).sum(-1) * both).sum(1, keepdim=True) / n)
        columns.append((apart * both).sum(1, keepdim=True) / pairs)
        if lag <= 2:
            alike = (kinds[:, lag:] * kinds[:, :width]).sum(-1)
            columns.append((alike * both).sum(1, keepdim=True) / pairs)
            for centre in _CENTRES:
                near = torch.exp(-0.5 * ((apart - centre) / _WIDTH) ** 2)
                columns.append((near * both).sum(1, keepdim=True) / n)
    return torch.cat(columns, 1)
