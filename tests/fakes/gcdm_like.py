"""A stand-in with the structure of GCDM's diffusion model, on flat batches of atoms.

The names, signatures and the order of the random draws are those of bio-diffusion's
`EquivariantVariationalDiffusion`, the network is one layer. `tests/runners/gcdm_runner.py` runs the
same checks on the real class.
"""

import math
import random
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from .edm_like import LearnedSchedule, TableSchedule


def scatter(src, index):
    return src.new_zeros(int(index.max()) + 1, *src.shape[1:]).index_add_(0, index, src)


def centralize(x, batch_index, node_mask):
    real = node_mask.to(x)[:, None]
    return x - (scatter(x, batch_index) / scatter(real, batch_index))[batch_index] * real


class Batch(SimpleNamespace):
    """What of torch_geometric's class the model uses."""

    @property
    def num_graphs(self):
        return int(self.batch.max()) + 1


class GCPNetDynamics(nn.Module):
    """Positions times a scalar, and features; the call goes through a bound method, as upstream."""

    def __init__(self, n_features, n_context=0, self_condition=False):
        super().__init__()
        self.self_condition, self.context_node_nf = self_condition, n_context
        n_in = n_features * (1 + self_condition) + 2 + n_context
        self.mlp = nn.Sequential(nn.Linear(n_in, 8), nn.SiLU(), nn.Linear(8, n_features + 1))
        self.forward_fn = self.atom_types_and_coords_forward

    def forward(self, batch, xh, t, **kwargs):
        return self.forward_fn(batch, xh, t, **kwargs)

    def atom_types_and_coords_forward(self, batch, xh, t, xh_self_cond=None, **kwargs):
        x, h = xh[:, :3], xh[:, 3:]
        given = [h, x.square().sum(-1, keepdim=True).log1p(), t.to(xh)]
        if self.self_condition:
            given.append(torch.zeros_like(h) if xh_self_cond is None else xh_self_cond[:, 3:])
        if self.context_node_nf:
            given.append(batch.props_context)
        out = torch.tanh(self.mlp(torch.cat(given, -1))) * batch.mask.to(xh)[:, None]
        vel = centralize(x * out[:, :1], batch.batch, batch.mask)
        return batch, torch.cat([vel, out[:, 1:]], -1)


class NumNodesDistribution(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.register_buffer("num_nodes", torch.tensor(sizes))
        self.keys = {n: i for i, n in enumerate(sizes)}

    def log_prob(self, batch_n_nodes):
        assert all(n in self.keys for n in batch_n_nodes.tolist())
        return torch.full((len(batch_n_nodes),), -math.log(len(self.keys)))


class EquivariantVariationalDiffusion(nn.Module):
    def __init__(self, dynamics_network, diffusion_cfg, dataloader_cfg, dataset_info):
        super().__init__()
        self.diffusion_cfg, self.T = diffusion_cfg, diffusion_cfg.num_timesteps
        self.num_atom_types = dataloader_cfg.num_atom_types
        self.num_x_dims = dataloader_cfg.num_x_dims
        self.include_charges = dataloader_cfg.include_charges
        self.num_node_scalar_features = self.num_atom_types + self.include_charges
        self.forward_fn = self.atom_types_and_coords_forward
        self.dynamics_network = dynamics_network
        self.num_nodes_distribution = NumNodesDistribution(dataset_info["n_nodes"])
        learned = diffusion_cfg.noise_schedule == "learned"
        self.gamma = LearnedSchedule() if learned else TableSchedule(self.T, 1e-4)

    # -- pieces ----------------------------------------------------------------------------------

    def _ab(self, gamma):
        return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()

    def normalize(self, x, h, node_mask, generate_x_only=False):
        _, bias_cat, bias_int = self.diffusion_cfg.norm_biases
        scale_x, scale_cat, scale_int = self.diffusion_cfg.norm_values
        h_cat = (h["categorical"].float() - bias_cat) / scale_cat * node_mask.float()[:, None]
        h_int = (h["integer"].float() - bias_int) / scale_int
        h_int = h_int * node_mask.float() if self.include_charges else h_int
        return x / scale_x, {"categorical": h_cat, "integer": h_int}

    def sample_combined_position_feature_noise(self, batch_index, node_mask, generate_x_only=False):
        real = node_mask.float()[:, None]
        z_x = torch.randn(len(batch_index), 3, device=batch_index.device) * real
        z_x = centralize(z_x, batch_index, node_mask)
        if generate_x_only:
            return z_x
        shape = len(batch_index), self.num_node_scalar_features
        return torch.cat([z_x, torch.randn(shape, device=batch_index.device) * real], -1)

    def sample_normal(self, mu, sigma, batch_index, node_mask, fix_noise=False):
        index = torch.zeros_like(batch_index) if fix_noise else batch_index
        eps = self.sample_combined_position_feature_noise(index, node_mask)
        return mu + sigma[batch_index] * eps

    # -- loss ------------------------------------------------------------------------------------

    def compute_kl_prior(
        self, xh, batch_index, node_mask, num_nodes, device, generate_x_only=False
    ):
        a, b = self._ab(self.gamma(torch.ones(len(num_nodes), 1, device=device)))
        squares = scatter((a[batch_index] * xh).square().sum(-1), batch_index)
        dimension = 3 * (num_nodes - 1) + 1  # upstream's fault: of n F features it counts one
        b2 = b.flatten() ** 2
        return 0.5 * (squares + dimension * (b2 - 1 - b2.log()))

    def forward(self, batch, return_loss_info=False):
        return self.forward_fn(batch, return_loss_info=return_loss_info)

    def _noised(self, xh, batch, gamma):
        a, b = self._ab(gamma)
        eps = self.sample_combined_position_feature_noise(batch.batch, batch.mask)
        return a[batch.batch] * xh + b[batch.batch] * eps, eps

    def _loss_0(self, h, z_0, eps, out, gamma, batch):
        """A bound on one-hot types only; the error of the charges is left out."""
        scale = self.diffusion_cfg.norm_values[1]
        error = scatter((eps - out)[:, :3].square().sum(-1), batch.batch)
        width = torch.sigmoid(gamma).sqrt()[batch.batch] * scale
        offset = z_0[:, 3 : 3 + self.num_atom_types] * scale - 1
        normal = torch.distributions.Normal(0.0, 1.0)
        odds = normal.cdf((offset + 0.5) / width) - normal.cdf((offset - 0.5) / width)
        log_p = (odds + 1e-10).log().log_softmax(-1) * h["categorical"] * scale
        return 0.5 * error, -scatter(log_p.sum(-1), batch.batch)

    def atom_types_and_coords_forward(self, batch, return_loss_info=False):
        batch.x, batch.h = self.normalize(batch.x, batch.h, node_mask=batch.mask)
        index, num_nodes = batch.batch, batch.num_nodes_present
        simple = self.training and self.diffusion_cfg.loss_type == "l2"
        delta_log_px = -3 * (num_nodes - 1) * math.log(self.diffusion_cfg.norm_values[0])
        low = 0 if self.training else 1
        t_int = torch.randint(low, self.T + 1, size=(batch.num_graphs, 1), device=index.device)
        s, t = (t_int - 1) / self.T, t_int / self.T
        gamma_s, gamma_t = self.gamma(s), self.gamma(t)
        charges = batch.h["integer"].reshape(len(index), -1)
        xh = torch.cat([batch.x, batch.h["categorical"], charges], -1)
        z_t, eps = self._noised(xh, batch, gamma_t)
        self_cond = None
        if (
            self.training
            and self.diffusion_cfg.self_condition
            and not (t_int == self.T).any()
            and random.random() < 0.5
        ):
            with torch.no_grad():
                later = (t_int + 1) / self.T
                z, _ = self._noised(xh, batch, self.gamma(later))
                self_cond = self.sample_p_zs_given_zt(
                    0 * t, later, z, index, batch.mask, self_condition=True
                )
        _, out = self.dynamics_network(batch, z_t, t[index], xh_self_cond=self_cond)
        error_t = scatter((eps - out).square().sum(-1), index)
        weight = torch.expm1(gamma_t - gamma_s).squeeze(-1)
        weight = torch.ones_like(error_t) if simple else weight
        gamma_0 = self.gamma(0 * t)
        constants = -1.5 * (num_nodes - 1) * (gamma_0.flatten() + math.log(2 * math.pi))
        constants = torch.zeros_like(error_t) if simple else -constants
        kl_prior = self.compute_kl_prior(
            xh, batch_index=index, node_mask=batch.mask, num_nodes=num_nodes, device=index.device
        )
        if self.training:
            loss_0_x, loss_0_h = self._loss_0(batch.h, z_t, eps, out, gamma_t, batch)
            is_zero = (t_int == 0).float().squeeze()
            loss_0_x, loss_0_h = loss_0_x * is_zero, loss_0_h * is_zero
            error_t = error_t * (1 - is_zero)
        else:
            z_0, eps_0 = self._noised(xh, batch, gamma_0)
            _, out_0 = self.dynamics_network(batch, z_0, (0 * t)[index])
            loss_0_x, loss_0_h = self._loss_0(batch.h, z_0, eps_0, out_0, gamma_0, batch)
        log_pn = self.num_nodes_distribution.log_prob(num_nodes)
        terms = (delta_log_px, error_t, weight, loss_0_x, loss_0_h)
        return (*terms, constants, kl_prior, log_pn, t_int.squeeze())

    # -- sampling --------------------------------------------------------------------------------

    def sample_p_zs_given_zt(
        self,
        s,
        t,
        z,
        batch_index,
        node_mask,
        context=None,
        fix_noise=False,
        self_condition=False,
        xh_self_cond=None,
    ):
        gamma_s, gamma_t = self.gamma(s), self.gamma(t)
        (a_s, b_s), (a_t, b_t) = self._ab(gamma_s), self._ab(gamma_t)
        ratio = a_t / a_s
        var = -torch.expm1(F.softplus(gamma_s) - F.softplus(gamma_t))
        batch = Batch(batch=batch_index, mask=node_mask, props_context=context)
        _, eps = self.dynamics_network(
            batch, z, t[batch_index], x_self_cond=xh_self_cond, xh_self_cond=xh_self_cond
        )
        mu = (z - (var / b_t)[batch_index] * eps) / ratio[batch_index]
        zs = self.sample_normal(mu, var.sqrt() * b_s / b_t, batch_index, node_mask, fix_noise)
        zs_x = centralize(zs[:, :3] * node_mask[:, None], batch_index, node_mask)
        return torch.cat([zs_x, zs[:, 3:]], -1)

    def sample_p_xh_given_z0(
        self, z_0, batch_index, node_mask, batch_size, context=None, fix_noise=False, **kwargs
    ):
        zeros = torch.zeros(batch_size, 1, device=batch_index.device)
        a, b = self._ab(self.gamma(zeros))
        batch = Batch(batch=batch_index, mask=node_mask, props_context=context)
        _, out = self.dynamics_network(batch, z_0, zeros[batch_index], **kwargs)
        mu = (z_0 - b[batch_index] * out) / a[batch_index]
        xh = self.sample_normal(mu, b / a, batch_index, node_mask, fix_noise)
        scale_x, _, scale_int = self.diffusion_cfg.norm_values
        h_cat = F.one_hot(xh[:, 3 : 3 + self.num_atom_types].argmax(-1), self.num_atom_types)
        h_int = torch.round(xh[:, 3 + self.num_atom_types :] * scale_int).long()
        real = node_mask.long()[:, None]
        return xh[:, :3] * scale_x, {"categorical": h_cat * real, "integer": h_int * real}

    @torch.inference_mode()
    def mol_gen_sample(
        self,
        num_samples,
        num_nodes,
        device,
        return_frames=1,
        num_timesteps=None,
        node_mask=None,
        context=None,
        fix_noise=False,
        generate_x_only=False,
        norm_with_original_timesteps=False,
    ):
        steps = self.T if num_timesteps is None else num_timesteps
        assert 0 < return_frames <= steps
        assert steps % return_frames == 0
        index = torch.arange(num_samples, device=device).repeat_interleave(num_nodes)
        node_mask = torch.ones_like(index).bool() if node_mask is None else node_mask
        if context is not None:
            context = context[index] * node_mask.float()[:, None]
        z = self.sample_combined_position_feature_noise(
            torch.zeros_like(index) if fix_noise else index, node_mask, generate_x_only
        )
        out, self_cond = torch.zeros(return_frames, *z.shape, device=device), None
        whole = self.T if norm_with_original_timesteps else steps
        for step in reversed(range(steps)):
            s = torch.full((num_samples, 1), step, device=device)
            z = self.sample_p_zs_given_zt(
                s / whole,
                (s + 1) / whole,
                z,
                index,
                node_mask,
                context,
                fix_noise,
                xh_self_cond=self_cond,
            )
            if (step * return_frames) % steps == 0:
                out[step * return_frames // steps] = z
            if self.diffusion_cfg.self_condition:
                self_cond = self.sample_p_zs_given_zt(
                    0 * s / whole, s / whole, z, index, node_mask, context, self_condition=True
                ).detach()
        x, h = self.sample_p_xh_given_z0(
            z, index, node_mask, num_samples, context, fix_noise, xh_self_cond=self_cond
        )
        charges = [h["integer"]] if self.include_charges else []
        out[0] = torch.cat([x, h["categorical"], *charges], -1)
        return out.squeeze(0), index, node_mask

    def mol_gen_optimize(self, samples, num_nodes, device, num_timesteps=None):
        raise AssertionError("a truncated model refuses this before it runs")

    def inpaint(self, molecule, node_mask_fixed):
        raise AssertionError("a truncated model refuses this before it runs")
