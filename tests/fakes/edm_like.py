"""A small stand-in for EDM and GeoLDM: their names and tensor forms, none of their code.

Written from the papers (Hoogeboom et al. 2022; Xu et al. 2023) and from what their samplers were
seen to do, the fault of the lost last class included. The contract suite runs on it always, and on
the real repositories where they are checked out, so that it cannot drift.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def _centred(x, node_mask):
    return (x - x.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True)) * node_mask


def _column(values):
    return values.reshape(-1, 1, 1)


def _total(values):
    return values.flatten(1).sum(1)


class TableSchedule(nn.Module):
    """gamma = -log SNR of `polynomial_2`, looked up."""

    def __init__(self, timesteps, precision=1e-4):
        super().__init__()
        self.timesteps = timesteps
        t = torch.arange(timesteps + 1, dtype=torch.float64) / (timesteps + 1)
        abar = (1 - 2 * precision) * (1 - t**2) ** 2 + precision
        self.gamma = nn.Parameter((torch.log1p(-abar) - abar.log()).float(), requires_grad=False)

    def forward(self, t):
        return self.gamma[torch.round(t * self.timesteps).long()]


class LearnedSchedule(nn.Module):
    """A monotone gamma between two learned ends."""

    def __init__(self):
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([-6.0, 7.0]))
        self.bend = nn.Parameter(torch.tensor(0.3))

    def forward(self, t):
        shape = t + torch.tanh(self.bend) * t * (1 - t)
        return self.ends[0] + (self.ends[1] - self.ends[0]) * shape


class TinyDynamics(nn.Module):
    """An equivariant network of one layer: x times a scalar, and features."""

    def __init__(self, n_features, n_context=0):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(n_features + 2 + n_context, 8), nn.SiLU(), nn.Linear(8, n_features + 1)
        )

    def _forward(self, t, xh, node_mask, edge_mask, context):
        x, h = xh[..., :3], xh[..., 3:]
        time = _column(t).expand(len(xh), xh.shape[1], 1)
        given = [h, x.square().sum(-1, keepdim=True).log1p(), time]
        out = torch.tanh(self.mlp(torch.cat(given + ([] if context is None else [context]), -1)))
        return torch.cat([_centred(x * out[..., :1], node_mask), out[..., 1:] * node_mask], -1)


class EnVariationalDiffusion(nn.Module):
    def __init__(
        self,
        dynamics,
        in_node_nf,
        n_dims=3,
        timesteps=1000,
        noise_schedule="polynomial_2",
        noise_precision=1e-4,
        loss_type="l2",
        norm_values=(1.0, 4.0, 10.0),
        norm_biases=(None, 0.0, 0.0),
        include_charges=True,
    ):
        super().__init__()
        self.dynamics, self.T, self.loss_type = dynamics, timesteps, loss_type
        learned = noise_schedule == "learned"
        self.gamma = LearnedSchedule() if learned else TableSchedule(timesteps, noise_precision)
        self.in_node_nf, self.n_dims = in_node_nf, n_dims
        self.num_classes, self.include_charges = in_node_nf - include_charges, include_charges
        self.norm_values, self.norm_biases = norm_values, norm_biases
        self.register_buffer("buffer", torch.zeros(1))

    # -- pieces ----------------------------------------------------------------------------------

    def phi(self, x, t, node_mask, edge_mask, context):
        return self.dynamics._forward(t, x, node_mask, edge_mask, context)

    def epsilon(self, z, t, node_mask, edge_mask, context):
        """What the network says the noise is; a fork may give it more and take less of it."""
        return self.phi(z, t, node_mask, edge_mask, context)

    def times(self, low, n):
        """Random steps of a loss (n, 1)."""
        return torch.randint(low, self.T + 1, size=(n, 1))

    def _ab(self, gamma):
        return _column(torch.sigmoid(-gamma).sqrt()), _column(torch.sigmoid(gamma).sqrt())

    def normalize(self, x, h, node_mask):
        onehot = (h["categorical"].float() - self.norm_biases[1]) / self.norm_values[1] * node_mask
        charge = (h["integer"].float() - self.norm_biases[2]) / self.norm_values[2]
        charge = charge * node_mask if self.include_charges else charge
        volume = -3 * (node_mask.sum((1, 2)) - 1) * math.log(self.norm_values[0])
        return x / self.norm_values[0], {"categorical": onehot, "integer": charge}, volume

    def unnormalize_z(self, z, node_mask):
        x, onehot, charge = z.split([3, self.num_classes, int(self.include_charges)], -1)
        onehot = (onehot * self.norm_values[1] + self.norm_biases[1]) * node_mask
        charge = (charge * self.norm_values[2] + self.norm_biases[2]) * node_mask
        return torch.cat([x * self.norm_values[0], onehot, charge], -1)

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask):
        x = torch.randn(n_samples, n_nodes, self.n_dims, device=node_mask.device) * node_mask
        h = torch.randn(n_samples, n_nodes, self.in_node_nf, device=node_mask.device) * node_mask
        return torch.cat([_centred(x, node_mask), h], -1)

    def sample_normal(self, mu, sigma, node_mask, fix_noise=False):
        n = 1 if fix_noise else len(mu)
        return mu + sigma * self.sample_combined_position_feature_noise(n, mu.shape[1], node_mask)

    # -- loss ------------------------------------------------------------------------------------

    def kl_prior(self, xh, node_mask):
        a, b = self._ab(self.gamma(torch.ones(len(xh), 1, device=xh.device)))
        n_atoms = node_mask.sum((1, 2))
        dimension = 3 * (n_atoms - 1) + self.in_node_nf * n_atoms
        b2 = b.flatten() ** 2
        return 0.5 * (_total((a * xh) ** 2) + dimension * (b2 - 1 - b2.log()))

    def log_constants_p_x_given_z0(self, x, node_mask):
        gamma_0 = self.gamma(torch.zeros(len(x), 1, device=x.device)).flatten()
        return -1.5 * (node_mask.sum((1, 2)) - 1) * (gamma_0 + math.log(2 * math.pi))

    def log_pxh_given_z0_without_constants(self, x, h, z_0, gamma_0, eps, net_out, node_mask):
        def inside(offset, std):
            normal = torch.distributions.Normal(0.0, 1.0)
            return normal.cdf((offset + 0.5) / std) - normal.cdf((offset - 0.5) / std)

        b = _column(torch.sigmoid(gamma_0).sqrt())
        error = _total((eps[..., :3] - net_out[..., :3]) ** 2)
        scale = self.norm_values[1]
        onehot = h["categorical"] * scale + self.norm_biases[1]
        drawn = z_0[..., 3 : 3 + self.num_classes] * scale + self.norm_biases[1]
        odds = (inside(drawn - 1, b * scale) + 1e-10).log()
        log_p = _total((odds - odds.logsumexp(-1, keepdim=True)) * onehot * node_mask)
        if self.include_charges:
            scale = self.norm_values[2]
            charge = torch.round(h["integer"] * scale + self.norm_biases[2])
            drawn = z_0[..., -1:] * scale + self.norm_biases[2]
            log_p = log_p + _total((inside(charge - drawn, b * scale) + 1e-10).log() * node_mask)
        return log_p - 0.5 * error

    def compute_loss(self, x, h, node_mask, edge_mask, context, t0_always):
        t_int = self.times(1 if t0_always else 0, len(x)).to(x)
        gamma_t, gamma_s = self.gamma(t_int / self.T), self.gamma((t_int - 1) / self.T)
        xh = torch.cat([x, h["categorical"], h["integer"]], -1)
        simple = self.training and self.loss_type == "l2"

        def predicted(gamma, t):
            eps = self.sample_combined_position_feature_noise(len(x), x.shape[1], node_mask)
            a, b = self._ab(gamma)
            z = a * xh[..., : eps.shape[-1]] + b * eps
            return z, eps, self.epsilon(z, t, node_mask, edge_mask, context)

        z_t, eps, out = predicted(gamma_t, t_int / self.T)
        error = _total((eps - out) ** 2)
        if simple:
            loss_t = 0.5 * error / (out.shape[1] * out.shape[2])
        else:
            loss_t = 0.5 * error * torch.expm1(gamma_t - gamma_s).flatten()
        constants = 0 if simple else self.log_constants_p_x_given_z0(x, node_mask)
        kl = self.kl_prior(xh, node_mask)
        if t0_always:
            zeros = torch.zeros_like(t_int)
            z_0, eps_0, out_0 = predicted(self.gamma(zeros), zeros)
            log_p = self.log_pxh_given_z0_without_constants(
                x, h, z_0, self.gamma(zeros), eps_0, out_0, node_mask
            )
            return kl + self.T * loss_t - constants - log_p
        log_p = self.log_pxh_given_z0_without_constants(x, h, z_t, gamma_t, eps, out, node_mask)
        loss = torch.where(t_int.flatten() == 0, -log_p, loss_t)
        return kl + (1 if simple else self.T + 1) * loss - constants

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None):
        x, h, volume = self.normalize(x, h, node_mask)
        loss = self.compute_loss(x, h, node_mask, edge_mask, context, t0_always=not self.training)
        return loss if self.training and self.loss_type == "l2" else loss - volume

    # -- sampling --------------------------------------------------------------------------------

    def sample_p_zs_given_zt(self, s, t, zt, node_mask, edge_mask, context, fix_noise=False):
        gamma_s, gamma_t = self.gamma(s), self.gamma(t)
        (a_s, b_s), (a_t, b_t) = self._ab(gamma_s), self._ab(gamma_t)
        ratio = a_t / a_s
        var = -torch.expm1(_column(F.softplus(gamma_s) - F.softplus(gamma_t)))
        eps = self.epsilon(zt, t, node_mask, edge_mask, context)
        zs = self.sample_normal(
            (zt - var / b_t * eps) / ratio, var.sqrt() * b_s / b_t, node_mask, fix_noise
        )
        return torch.cat([_centred(zs[..., :3], node_mask), zs[..., 3:]], -1)

    def _draw_x0(self, z0, node_mask, edge_mask, context, fix_noise):
        zeros = torch.zeros(len(z0), 1, device=z0.device)
        a, b = self._ab(self.gamma(zeros))
        out = self.epsilon(z0, zeros, node_mask, edge_mask, context)
        return self.sample_normal((z0 - b * out) / a, b / a, node_mask, fix_noise)

    def sample_p_xh_given_z0(self, z0, node_mask, edge_mask, context, fix_noise=False):
        x = self._draw_x0(z0, node_mask, edge_mask, context, fix_noise)[..., :3]
        scores = z0[..., 3:-1]  # upstream's fault: without charges this drops a class
        onehot = F.one_hot(scores.argmax(-1), self.num_classes) * node_mask
        charge = z0[..., -1:] if self.include_charges else z0[..., :0]
        charge = torch.round(charge * self.norm_values[2] + self.norm_biases[2]).long() * node_mask
        return x * self.norm_values[0], {"integer": charge, "categorical": onehot}

    def _steps(self, n_samples, device):
        for s in reversed(range(self.T)):
            whole = torch.full((n_samples, 1), s, device=device)
            yield s, whole / self.T, (whole + 1) / self.T

    @torch.no_grad()
    def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False):
        n = 1 if fix_noise else n_samples
        z = self.sample_combined_position_feature_noise(n, n_nodes, node_mask)
        for _, s, t in self._steps(n_samples, z.device):
            z = self.sample_p_zs_given_zt(s, t, z, node_mask, edge_mask, context, fix_noise)
        return self.sample_p_xh_given_z0(z, node_mask, edge_mask, context, fix_noise)

    @torch.no_grad()
    def sample_chain(self, n_samples, n_nodes, node_mask, edge_mask, context, keep_frames=None):
        z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        keep_frames = self.T if keep_frames is None else keep_frames
        assert keep_frames <= self.T
        frames = z.new_zeros(keep_frames, *z.shape)
        for step, s, t in self._steps(n_samples, z.device):
            z = self.sample_p_zs_given_zt(s, t, z, node_mask, edge_mask, context)
            frames[step * keep_frames // self.T] = self.unnormalize_z(z, node_mask)
        x, h = self.sample_p_xh_given_z0(z, node_mask, edge_mask, context)
        frames[0] = torch.cat([x, h["categorical"], h["integer"]], -1)
        return frames.flatten(0, 1)


class TinyCoder(nn.Module):
    """A linear encoder or decoder of features; positions are scaled."""

    def __init__(self, n_in, n_out, n_context=0):
        super().__init__()
        self.linear = nn.Linear(n_in + n_context, n_out)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.context_node_nf = n_context

    def _forward(self, xh, node_mask, edge_mask, context):
        h = xh[..., 3:] if context is None else torch.cat([xh[..., 3:], context], -1)
        return _centred(xh[..., :3] * self.scale, node_mask), self.linear(h) * node_mask


class EnHierarchicalVAE(nn.Module):
    def __init__(self, encoder, decoder, in_node_nf, latent_node_nf, include_charges=True):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.in_node_nf, self.n_dims, self.latent_node_nf = in_node_nf, 3, latent_node_nf
        self.num_classes, self.include_charges = in_node_nf - include_charges, include_charges

    def sample_normal(self, mu, sigma, node_mask):
        x, h = torch.randn_like(mu[..., :3]), torch.randn_like(mu[..., 3:])
        return mu + sigma * torch.cat([_centred(x * node_mask, node_mask), h * node_mask], -1)

    def encode(self, x, h, node_mask=None, edge_mask=None, context=None):
        xh = torch.cat([x, h["categorical"], h["integer"]], -1)
        z_x, z_h = self.encoder._forward(xh, node_mask, edge_mask, context)
        return z_x, torch.full_like(z_x[:, :1, :1], 0.0032), z_h, torch.full_like(z_h, 0.0032)

    def decode(self, z_xh, node_mask=None, edge_mask=None, context=None):
        x, h = self.decoder._forward(z_xh, node_mask, edge_mask, context)
        scores = h[..., :-1]  # the same fault as above
        onehot = F.one_hot(scores.argmax(-1), self.num_classes) * node_mask
        charge = torch.round(h[..., -1:]).long() * node_mask if self.include_charges else h[..., :0]
        return x, {"integer": charge, "categorical": onehot}


def _stays_in_its_mode(mode=True):
    return False


class EnLatentDiffusion(EnVariationalDiffusion):
    def __init__(self, vae, trainable_ae=False, **options):
        super().__init__(**options)
        self.trainable_ae, self.vae = trainable_ae, vae
        if not trainable_ae:
            vae.eval().requires_grad_(False)
            vae.train = _stays_in_its_mode

    def unnormalize_z(self, z, node_mask):
        return z

    def sample_p_xh_given_z0(self, z0, node_mask, edge_mask, context, fix_noise=False):
        xh = self._draw_x0(z0, node_mask, edge_mask, context, fix_noise)
        return xh[..., :3], {"integer": xh[..., 3:], "categorical": xh[..., :0]}

    def log_pxh_given_z0_without_constants(self, x, h, z_0, gamma_0, eps, net_out, node_mask):
        return -0.5 * _total((eps - net_out) ** 2)

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None):
        z_x, _, z_h, _ = self.vae.encode(x, h, node_mask, edge_mask, context)
        _, b = self._ab(self.gamma(torch.zeros(len(x), 1, device=x.device)))
        z = self.vae.sample_normal(torch.cat([z_x, z_h], -1), b, node_mask).detach()
        h = {"categorical": z[..., :0], "integer": z[..., 3:]}
        return self.compute_loss(
            z[..., :3], h, node_mask, edge_mask, context, t0_always=not self.training
        )

    @torch.no_grad()
    def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False):
        z_x, z_h = super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)
        return self.vae.decode(torch.cat([z_x, z_h["integer"]], -1), node_mask, edge_mask, context)

    @torch.no_grad()
    def sample_chain(self, n_samples, n_nodes, node_mask, edge_mask, context, keep_frames=None):
        flat = super().sample_chain(n_samples, n_nodes, node_mask, edge_mask, context, keep_frames)
        decoded = [
            self.vae.decode(z, node_mask, edge_mask, context)
            for z in flat.view(keep_frames, n_samples, *flat.shape[1:])
        ]
        return torch.cat([torch.cat([x, h["categorical"], h["integer"]], -1) for x, h in decoded])


# -- models with seeded weights -------------------------------------------------------------------


def make_edm(n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0):
    torch.manual_seed(0)
    model = EnVariationalDiffusion(
        TinyDynamics(5 + charges, context),
        5 + charges,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()


def make_geoldm(
    n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, trainable=False
):
    torch.manual_seed(0)
    vae = EnHierarchicalVAE(
        TinyCoder(5 + charges, 2, context),
        TinyCoder(2, 5 + charges, context),
        5 + charges,
        2,
        include_charges=charges,
    )
    model = EnLatentDiffusion(
        vae=vae,
        trainable_ae=trainable,
        dynamics=TinyDynamics(2, context),
        in_node_nf=2,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()
