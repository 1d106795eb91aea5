"""A stand-in with the structure of DiffSBDD's joint diffusion of ligands and pockets.

Names, signatures and the order of the random draws are upstream's, the network is one layer a kind
of node. `tests/runners/diffsbdd_runner.py` runs the same checks on the real class.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .edm_like import LearnedSchedule, TableSchedule


def total(x, index):
    return x.new_zeros(int(index.max()) + 1, *x.shape[1:]).index_add_(0, index, x)


def centred(x, index):
    n = torch.bincount(index)[:, None]
    return x - (total(x, index) / n)[index]


class EGNNDynamics(nn.Module):
    def __init__(self, atom_nf, residue_nf):
        super().__init__()
        self.update_pocket_coords = True
        self.layers = nn.ModuleList(nn.Linear(n + 2, n + 1) for n in (atom_nf, residue_nf))

    def forward(self, xh_atoms, xh_residues, t, mask_atoms, mask_residues):
        found = []
        both = ((xh_atoms, mask_atoms), (xh_residues, mask_residues))
        for layer, (xh, mask) in zip(self.layers, both, strict=True):
            x, h = xh[:, :3], xh[:, 3:]
            given = [h, x.square().sum(-1, keepdim=True).log1p(), t[mask].to(xh)]
            out = torch.tanh(layer(torch.cat(given, -1)))
            found.append((x * out[:, :1], out[:, 1:]))
        n = len(mask_atoms)
        vel = torch.cat([x for x, _ in found])
        vel = centred(vel, torch.cat([mask_atoms, mask_residues]))
        return torch.cat([vel[:n], found[0][1]], -1), torch.cat([vel[n:], found[1][1]], -1)


class DistributionNodes:
    def __init__(self, shape):
        sizes = [(i, j) for i in range(shape[0]) for j in range(shape[1])]
        self.n_nodes_to_idx = {pair: i for i, pair in enumerate(sizes)}

    def log_prob(self, n_lig, n_pocket):
        pairs = zip(n_lig.tolist(), n_pocket.tolist(), strict=True)
        assert all(pair in self.n_nodes_to_idx for pair in pairs)
        return torch.full((len(n_lig),), -math.log(len(self.n_nodes_to_idx)))


class EnVariationalDiffusion(nn.Module):
    def __init__(
        self,
        dynamics,
        atom_nf,
        residue_nf,
        n_dims,
        size_histogram,
        timesteps=1000,
        noise_schedule="polynomial_2",
        loss_type="l2",
        norm_values=(1.0, 1.0),
        norm_biases=(None, 0.0),
    ):
        super().__init__()
        self.dynamics, self.T, self.loss_type = dynamics, timesteps, loss_type
        learned = noise_schedule == "learned"
        self.gamma = LearnedSchedule() if learned else TableSchedule(timesteps, 1e-4)
        self.atom_nf, self.residue_nf, self.n_dims = atom_nf, residue_nf, n_dims
        self.norm_values, self.norm_biases = norm_values, norm_biases
        self.size_distribution = DistributionNodes(size_histogram)

    def _ab(self, gamma):
        return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()

    def normalize(self, ligand=None, pocket=None):
        for part in (ligand, pocket):
            part["x"] = part["x"] / self.norm_values[0]
            part["one_hot"] = (part["one_hot"].float() - self.norm_biases[1]) / self.norm_values[1]
        return ligand, pocket

    def sample_combined_position_feature_noise(self, lig_indices, pocket_indices):
        n = len(lig_indices)
        x = centred(
            torch.randn(n + len(pocket_indices), 3), torch.cat((lig_indices, pocket_indices))
        )
        z_lig = torch.cat([x[:n], torch.randn(n, self.atom_nf)], 1)
        return z_lig, torch.cat([x[n:], torch.randn(len(pocket_indices), self.residue_nf)], 1)

    def noised_representation(self, xh_lig, xh_pocket, lig_mask, pocket_mask, gamma_t):
        a, b = self._ab(gamma_t)
        eps = self.sample_combined_position_feature_noise(lig_mask, pocket_mask)
        z_lig = a[lig_mask] * xh_lig + b[lig_mask] * eps[0]
        return z_lig, a[pocket_mask] * xh_pocket + b[pocket_mask] * eps[1], *eps

    # -- loss ------------------------------------------------------------------------------------

    def kl_prior_with_pocket(self, xh_lig, xh_pocket, mask_lig, mask_pocket, num_nodes):
        a, b = self._ab(self.gamma(torch.ones(len(num_nodes), 1)))
        squares = total(xh_lig.square().sum(-1), mask_lig)
        squares = squares + total(xh_pocket.square().sum(-1), mask_pocket)
        dimension = 3 * (num_nodes - 1) + 1  # upstream's fault: of all features it counts one
        b2 = b.flatten() ** 2
        return 0.5 * (a.flatten() ** 2 * squares + dimension * (b2 - 1 - b2.log()))

    def forward(self, ligand, pocket, return_info=False):
        ligand, pocket = self.normalize(ligand, pocket)
        masks, sizes = (ligand["mask"], pocket["mask"]), (ligand["size"], pocket["size"])
        simple = self.training and self.loss_type == "l2"
        num_nodes = sizes[0] + sizes[1]
        low = 0 if self.training else 1
        t_int = torch.randint(low, self.T + 1, size=(len(num_nodes), 1)).float()
        s, t = (t_int - 1) / self.T, t_int / self.T
        gamma_s, gamma_t = self.gamma(s), self.gamma(t)
        xh = [torch.cat([part["x"], part["one_hot"]], 1) for part in (ligand, pocket)]
        z_lig, z_pocket, *eps = self.noised_representation(*xh, *masks, gamma_t)
        out = self.dynamics(z_lig, z_pocket, t, *masks)
        errors = [
            total((e - o).square().sum(-1), m) for e, o, m in zip(eps, out, masks, strict=True)
        ]
        weight = -torch.expm1(gamma_t - gamma_s).squeeze(1)
        constants = 1.5 * (num_nodes - 1) * (self.gamma(0 * t).flatten() + math.log(2 * math.pi))
        kl_prior = self.kl_prior_with_pocket(*xh, *masks, num_nodes)
        if self.training:
            zero = (t_int == 0).float().squeeze()
            losses = [0.5 * error * zero for error in errors]
            errors = [error * (1 - zero) for error in errors]
        else:
            z_lig, z_pocket, *eps = self.noised_representation(*xh, *masks, self.gamma(0 * t))
            out = self.dynamics(z_lig, z_pocket, 0 * t, *masks)
            losses = [
                0.5 * total((e - o)[:, :3].square().sum(-1), m)
                for e, o, m in zip(eps, out, masks, strict=True)
            ]
        log_pn = self.size_distribution.log_prob(*sizes)
        volume = -3 * (num_nodes - 1) * math.log(self.norm_values[0])
        loss_0_h = torch.zeros_like(volume)
        weight = weight * (0 * weight + 1 if simple else 1)
        terms = (volume, *errors, weight, *losses, loss_0_h, constants, kl_prior, log_pn)
        return (*terms, t_int.squeeze(), z_lig)

    # -- sampling --------------------------------------------------------------------------------

    def _normal(self, mu, sigma, masks):
        eps = self.sample_combined_position_feature_noise(*masks)
        return [m + sigma[k] * e for m, k, e in zip(mu, masks, eps, strict=True)]

    def sample_p_zs_given_zt(self, s, t, zt_lig, zt_pocket, ligand_mask, pocket_mask):
        gamma_s, gamma_t = self.gamma(s), self.gamma(t)
        (a_s, b_s), (a_t, b_t) = self._ab(gamma_s), self._ab(gamma_t)
        ratio = a_t / a_s
        var = -torch.expm1(F.softplus(gamma_s) - F.softplus(gamma_t))
        masks = (ligand_mask, pocket_mask)
        eps = self.dynamics(zt_lig, zt_pocket, t, *masks)
        mu = [
            (z - (var / b_t)[m] * e) / ratio[m]
            for z, m, e in zip((zt_lig, zt_pocket), masks, eps, strict=True)
        ]
        zs = self._normal(mu, var.sqrt() * b_s / b_t, masks)
        n = len(ligand_mask)
        x = centred(torch.cat([z[:, :3] for z in zs]), torch.cat(masks))
        return torch.cat([x[:n], zs[0][:, 3:]], 1), torch.cat([x[n:], zs[1][:, 3:]], 1)

    @torch.no_grad()
    def sample(
        self,
        n_samples,
        num_nodes_lig,
        num_nodes_pocket,
        return_frames=1,
        timesteps=None,
        device="cpu",
    ):
        timesteps = self.T if timesteps is None else timesteps
        assert 0 < return_frames <= timesteps
        assert timesteps % return_frames == 0
        masks = [
            torch.arange(n_samples).repeat_interleave(n) for n in (num_nodes_lig, num_nodes_pocket)
        ]
        z = self.sample_combined_position_feature_noise(*masks)
        out = [torch.zeros(return_frames, *part.shape) for part in z]
        for step in reversed(range(timesteps)):
            s = torch.full((n_samples, 1), step)
            z = self.sample_p_zs_given_zt(s / timesteps, (s + 1) / timesteps, *z, *masks)
            if (step * return_frames) % timesteps == 0:
                for frames, part in zip(out, z, strict=True):
                    frames[step * return_frames // timesteps] = part
        zeros = torch.zeros(n_samples, 1)
        a, b = self._ab(self.gamma(zeros))
        eps = self.dynamics(*z, zeros, *masks)
        mu = [(p - b[m] * e) / a[m] for p, m, e in zip(z, masks, eps, strict=True)]
        xh = self._normal(mu, b / a, masks)
        for frames, part, new in zip(out, z, xh, strict=True):
            one_hot = F.one_hot(part[:, 3:].argmax(1), part.shape[1] - 3)
            frames[0] = torch.cat([new[:, :3] * self.norm_values[0], one_hot], 1)
        return out[0].squeeze(0), out[1].squeeze(0), *masks

    def inpaint(self, ligand, pocket, lig_fixed, pocket_fixed):
        raise AssertionError("a truncated model refuses this before it runs")


class ConditionalDDPM(EnVariationalDiffusion):
    def sample_given_pocket(self, pocket, num_nodes_lig):
        raise AssertionError("nobody may call this here")
