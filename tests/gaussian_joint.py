"""The product Gaussian of complexes as one dense matrix over all of their nodes.

Of n and m nodes, the covariance of positions per axis is

    G = v_1 P_n + v_2 P_m + v_u w w',    w = sqrt(n m / (n + m)) (1/n, ..., 1/n, -1/m, ..., -1/m),

with the projectors P on the nodes of each molecule about its own centre: nothing of how the package
stacks the parts. Features have covariance `W` about their mean over a molecule, and `B` along it.
"""

import gaussian_flat
import torch

SIZES = (3, 5)


def variances(stats):
    """The variances v_1, v_2 and v_u of molecules of these sizes."""
    sizes = (*SIZES, 2)
    return [float(p.moments.at_size(n).v_x) for p, n in zip(stats.parts, sizes, strict=True)]


def positions(v):
    """G (n + m, n + m), float64."""
    n, m = SIZES
    eye, ones = torch.eye(n + m).double(), torch.ones(n + m).double()
    first = torch.cat([ones[:n], 0 * ones[n:]])
    second = 1 - first
    w = (n * m / (n + m)) ** 0.5 * (first / n - second / m)
    inner = [torch.diag(part) - torch.outer(part, part) / part.sum() for part in (first, second)]
    assert torch.allclose(torch.trace(eye) - 1, sum(map(torch.trace, inner)) + w @ w)
    return v[0] * inner[0] + v[1] * inner[1] + v[2] * torch.outer(w, w)


def basis():
    """An orthonormal basis (n + m, n + m - 1) of positions of zero centre of mass."""
    total = sum(SIZES)
    return torch.linalg.qr(torch.cat([torch.ones(total, 1), torch.eye(total)], 1).double())[0][
        :, 1:
    ]


def features(law, n):
    """Mean (n F) and covariance (n F, n F) of the features of a molecule, node by node."""
    mean = torch.full((n, n), 1 / n).double()
    covariance = torch.kron(torch.eye(n).double() - mean, law.within)
    return law.feature_mean.repeat(n), covariance + torch.kron(mean, law.between)


def dense(stats, a, b):
    """Mean and covariance of a complex: positions in the basis, axis by axis, then features."""
    q = basis()
    blocks = [torch.kron(q.T @ positions(variances(stats)) @ q, torch.eye(3).double())]
    means = [torch.zeros(len(blocks[0])).double()]
    for part, n in zip(stats.parts[:2], SIZES, strict=True):
        mean, covariance = features(part.moments.at_size(n), n)
        means.append(mean)
        blocks.append(covariance)
    covariance = a**2 * torch.block_diag(*blocks)
    return a * torch.cat(means), covariance + b**2 * torch.eye(len(covariance)).double()


def coordinates(atoms):
    """The same coordinates of complexes: atoms of both molecules, each (B, nodes, 3 + F)."""
    x = torch.cat([part[..., :3] for part in atoms], 1).double()
    inner = (basis().T @ x).flatten(1)
    return torch.cat([inner, *(part[..., 3:].double().flatten(1) for part in atoms)], 1)


class ExactDenoiser(torch.nn.Module):
    """E[eps | z_t] for data of this law, as the network of DiffSBDD."""

    def __init__(self, stats, gamma):
        super().__init__()
        self.stats, self.last = stats, None
        self.gamma = torch.nn.Parameter(gamma.float(), requires_grad=False)

    def forward(self, xh_atoms, xh_residues, t, mask_atoms, mask_residues):
        step = int(torch.round(t[0] * (len(self.gamma) - 1)))
        a, b = (float(torch.sigmoid(sign * self.gamma[step])) ** 0.5 for sign in (-1, 1))
        pairs = zip((xh_atoms, xh_residues), SIZES, strict=True)
        atoms = [xh.view(-1, n, xh.shape[-1]) for xh, n in pairs]
        z = self.last = coordinates(atoms)
        mean, covariance = dense(self.stats, a, b)
        eps = b * (z - mean) @ torch.linalg.inv(covariance)
        n_positions, total = 3 * (sum(SIZES) - 1), sum(SIZES)
        x = (basis() @ eps[:, :n_positions].view(len(z), total - 1, 3)).split(SIZES, 1)
        widths = [xh.shape[-1] - 3 for xh in (xh_atoms, xh_residues)]
        h = eps[:, n_positions:].split([n * w for n, w in zip(SIZES, widths, strict=True)], 1)
        out = [
            torch.cat([p, f.view(len(z), n, w)], -1).flatten(0, 1).to(xh_atoms)
            for p, f, n, w in zip(x, h, SIZES, widths, strict=True)
        ]
        return tuple(out)


def scores(stats, gamma, t_star, z):
    """How many standard errors the samples z (B, coordinates) at step 0 are off, a list."""
    gamma = gamma.double()
    mean, covariance = dense(stats, 1.0, 0.0)
    c, axes = torch.linalg.eigh(covariance)
    centred = (z - torch.sigmoid(-gamma[0]).sqrt() * mean) @ axes
    scaled = centred / gaussian_flat.sampled_variance(gamma, t_star, c.clamp(min=0)).sqrt()
    squares = (scaled.square().sum(0) - len(z)) / (2 * len(z)) ** 0.5
    return [*squares.tolist(), *(scaled.sum(0) / len(z) ** 0.5).tolist()]
