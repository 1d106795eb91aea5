"""Small stand-ins for the forks of EDM and GeoLDM: what each changed, on top of `edm_like`.

Their names and signatures, none of their code. The contract suite runs on the real classes where a
checkout is named, so that these cannot drift.
"""

import contextlib
import itertools
import weakref

import torch
from torch.nn import functional as F

from fakes.edm_like import EnLatentDiffusion, EnVariationalDiffusion


@contextlib.contextmanager
def given(model, **values):
    """Arguments that methods would hand down, as attributes while a method runs."""
    model.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            model.__dict__.pop(name, None)


def centred(z, node_mask):
    return (z - z.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True)) * node_mask


class CentredNoise(EnVariationalDiffusion):
    """Its features are centred, and it asserts so."""

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask):
        z = super().sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        return centred(z, node_mask)

    def phi(self, x, t, node_mask, edge_mask, context):
        return centred(super().phi(x, t, node_mask, edge_mask, context), node_mask)

    def sample_p_zs_given_zt(self, s, t, zt, node_mask, edge_mask, context, fix_noise=False):
        assert float(zt.sum(1).abs().max()) < 1e-3, "Mean is not zero"
        z = super().sample_p_zs_given_zt(s, t, zt, node_mask, edge_mask, context, fix_noise)
        return centred(z, node_mask)


class Paper(CentredNoise):
    """The paper's own code."""

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None, max_t=1000):
        with given(self, end=max_t):
            return super().forward(x, h, node_mask, edge_mask, context)

    def times(self, low, n):
        return torch.randint(low, self.end + 1, size=(n, 1))

    def get_variance_t(self, variance_0, t):
        a, b = self._ab(self.gamma(torch.full((1, 1), t / self.T)))
        return a**2 * variance_0 + b**2

    def sample_shortcut(
        self,
        n_samples,
        n_nodes,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        z=None,
        start_point=300,
        sampling_step_size=1,
    ):
        raise NotImplementedError("the patch puts `sample` in its place")


#: Elements and charges that the network of a `UniGEM` predicted last.
_PREDICTED = weakref.WeakKeyDictionary()


class UniGEM(EnVariationalDiffusion):
    """Positions are diffused; elements and a property are predicted."""

    prediction_threshold_t = 2
    atom_type_pred = property_pred = sep_noisy_node = True
    bfn_schedule = uni_diffusion = bond_pred = False
    half_noisy_node = only_noisy_node = unnormal_time_step = False
    relay_sampling = 0

    def phi(self, x, t, node_mask, edge_mask, context, t2=None, mask_y=None):
        assert x.shape[-1] == 3 + self.in_node_nf
        out = super().phi(x, t, node_mask, edge_mask, context)
        return out, out[..., 3:].sum((1, 2))

    def epsilon(self, z, t, node_mask, edge_mask, context):
        ones = node_mask.expand(*z.shape[:2], self.in_node_nf)
        out, _ = self.phi(torch.cat([z[..., :3], ones], -1), t, node_mask, edge_mask, context)
        _PREDICTED[self] = out[..., 3:]
        return out[..., :3]

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask):
        z = super().sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        return z[..., :3]

    def kl_prior(self, xh, node_mask):
        features, self.in_node_nf = self.in_node_nf, 0
        try:
            return super().kl_prior(xh[..., :3], node_mask)
        finally:
            self.in_node_nf = features

    def times(self, low, n):
        half, last = n // 2, self.prediction_threshold_t
        if not self.sep_noisy_node:
            times = super().times(low, n)
            if self.half_noisy_node:
                times[half:] = torch.randint(low, last + 1, size=(n - half, 1))
            elif torch.rand(1) < self.only_noisy_node + self.unnormal_time_step / 2:
                times = torch.randint(low, last + 1, size=(n, 1))
            return times
        return torch.cat(
            [
                torch.randint(last + 1, self.T + 1, size=(half, 1)),
                torch.randint(low, last + 1, size=(n - half, 1)),
            ]
        )

    def log_pxh_given_z0_without_constants(self, x, h, z_0, gamma_0, eps, net_out, node_mask):
        return -0.5 * (eps - net_out).square().sum((1, 2))

    def compute_loss(self, x, h, node_mask, edge_mask, context, t0_always):
        times = []
        inner = self.times
        with given(self, times=lambda low, n: times.append(inner(low, n)) or times[-1]):
            loss = super().compute_loss(x, h, node_mask, edge_mask, context, t0_always)
        elements = torch.cat([h["categorical"], h["integer"]], -1)
        error = (_PREDICTED[self] - elements).abs().mean((1, 2))
        error = error * (times[0][:, 0] <= self.prediction_threshold_t)
        return loss + error, {"t": times[0][:, 0], "atom_type_loss": error}

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None, property_label=None):
        assert property_label is not None
        x, h, volume = self.normalize(x, h, node_mask)
        loss, parts = self.compute_loss(x, h, node_mask, edge_mask, context, not self.training)
        return loss - volume, parts

    def sample_p_xh_given_z0(self, z0, node_mask, edge_mask, context, fix_noise=False):
        x = self._draw_x0(z0, node_mask, edge_mask, context, fix_noise)
        predicted = _PREDICTED[self]
        scores, charge = predicted.split([self.num_classes, int(self.include_charges)], -1)
        onehot = F.one_hot(scores.argmax(-1), self.num_classes) * node_mask
        h = {"integer": charge.round().long() * node_mask, "categorical": onehot}
        return x * self.norm_values[0], h, predicted.sum((1, 2))

    @torch.no_grad()
    def sample(
        self,
        n_samples,
        n_nodes,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        condition_generate_x=False,
        annel_l=False,
        pesudo_context=None,
    ):
        return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)

    def unnormalize_z(self, z, node_mask):
        return torch.cat([z, torch.ones(*z.shape[:2], self.in_node_nf)], -1)

    @torch.no_grad()
    def sample_chain(self, n_samples, n_nodes, node_mask, edge_mask, context, keep_frames=None):
        z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        keep_frames = self.T if keep_frames is None else keep_frames
        assert keep_frames <= self.T
        frames = z.new_zeros(keep_frames, *z.shape[:2], 3 + self.in_node_nf)
        for step, s, t in self._steps(n_samples, z.device):
            z = self.sample_p_zs_given_zt(s, t, z, node_mask, edge_mask, context)
            frames[step * keep_frames // self.T] = self.unnormalize_z(z, node_mask)
        x, h, _ = self.sample_p_xh_given_z0(z, node_mask, edge_mask, context)
        frames[0] = torch.cat([x, h["categorical"], h["integer"]], -1)
        return frames.flatten(0, 1)


class GeoRCG(EnVariationalDiffusion):
    """Every method takes a representation, and it samples in evaluation mode only."""

    def phi(self, x, t, node_mask, edge_mask, context, rep=None):
        rep = self.__dict__.get("representation") if rep is None else rep
        assert rep is not None
        return super().phi(x, t, node_mask, edge_mask, context) * (1 + 0.1 * rep.mean())

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None, rep=None):
        with given(self, representation=rep):
            loss = super().forward(x, h, node_mask, edge_mask, context)
        return (loss, x) if self.training else loss

    def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False, rep=None):
        assert not self.dynamics.training
        with given(self, representation=rep):
            return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)

    def sample_chain(
        self, n_samples, n_nodes, node_mask, edge_mask, context, keep_frames=None, rep=None
    ):
        assert not self.dynamics.training
        with given(self, representation=rep):
            return super().sample_chain(
                n_samples, n_nodes, node_mask, edge_mask, context, keep_frames
            )

    @torch.no_grad()
    def ddim_sample(
        self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False, rep=None, S=None
    ):
        z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        steps = [*range(self.T, 0, -(self.T // S)), 0]
        with given(self, representation=rep):
            for t, s in itertools.pairwise(steps):
                t, s = (torch.full((n_samples, 1), step / self.T) for step in (t, s))
                z = self.sample_p_zs_given_zt(s, t, z, node_mask, edge_mask, context)
            return self.sample_p_xh_given_z0(z, node_mask, edge_mask, context)


class EDPO(EnVariationalDiffusion):
    """Every sampler sets the number of steps."""

    def sample(
        self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False, timestep=1000
    ):
        self.T = timestep
        return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)

    def sample_ddim(
        self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False, timestep=50
    ):
        self.T = timestep
        return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)

    @torch.no_grad()
    def sample_edpo(
        self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False, timestep=1000
    ):
        self.T, steps = timestep, []
        latents = [self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)]
        for step, s, t in self._steps(n_samples, node_mask.device):
            steps.append(step)
            latents.append(
                self.sample_p_zs_given_zt(s, t, latents[-1], node_mask, edge_mask, context)
            )
        x, h = self.sample_p_xh_given_z0(latents[-1], node_mask, edge_mask, context, fix_noise)
        return x, h, [*latents, latents[-1]], None, [*steps, 0]

    sample_ddim_edpo = sample_edpo


class NoLoss(torch.nn.Module):
    """EDM without a loss: a model of EDM that is given this class."""

    for _name in ("phi", "epsilon", "normalize", "sample_combined_position_feature_noise",
                  "sample_normal", "_ab", "sample_p_zs_given_zt", "_draw_x0",
                  "sample_p_xh_given_z0", "_steps", "sample"):  # fmt: skip
        locals()[_name] = vars(EnVariationalDiffusion)[_name]


class EEGSDE(NoLoss):
    """An energy guides it as it samples."""

    def sample_p_zs_given_zt(
        self,
        s,
        t,
        zt,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        guidance=None,
        l=None,  # noqa: E741
    ):
        guidance = self.__dict__.get("energy") if guidance is None else guidance
        strength = self.__dict__.get("strength") if l is None else l
        z = super().sample_p_zs_given_zt(s, t, zt, node_mask, edge_mask, context, fix_noise)
        if strength > 0:
            with torch.enable_grad():
                zt = zt.detach().requires_grad_()
                energy = guidance.phi(zt, t, node_mask, edge_mask) - context[:, 1]
                gradient = torch.autograd.grad(energy.square().sum(), zt)[0]
            z = z - strength * 1e-3 * centred(gradient, node_mask)
        return z

    def sample(
        self,
        n_samples,
        n_nodes,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        guidance=None,
        l=None,  # noqa: E741 - upstream's
    ):
        with given(self, energy=guidance, strength=l):
            return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)


class SymDiff(EnVariationalDiffusion):
    """It may keep the centre of mass."""

    com_free = molecule = True

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask, com_free=True):
        assert com_free
        return super().sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)

    def sample_p_zs_given_zt_backbone(self, s, t, zt, node_mask, fix_noise=False):
        raise NotImplementedError("the patch refuses it before it runs")


class _Guided(EnVariationalDiffusion):
    @torch.no_grad()
    def cond_sample(
        self,
        n_samples,
        n_nodes,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        cond_fn=None,
        guidance_kwargs=None,
        args=None,
    ):
        z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        for step, s, t in self._steps(n_samples, z.device):
            z = z + centred(cond_fn(t=step + 1, zt=z), node_mask)
            z = self.sample_p_zs_given_zt(s, t, z, node_mask, edge_mask, context)
        return self.sample_p_xh_given_z0(z, node_mask, edge_mask, context)

    cond_sample_evolutionary = cond_sample_bilevel_noisy = cond_sample_bilevel_clean = cond_sample


class ChemGuide(EnLatentDiffusion, _Guided):
    """A latent that is guided as it is sampled."""

    @torch.no_grad()
    def cond_sample(
        self,
        n_samples,
        n_nodes,
        node_mask,
        edge_mask,
        context,
        fix_noise=False,
        cond_fn=None,
        guidance_kwargs=None,
        args=None,
    ):
        given = n_samples, n_nodes, node_mask, edge_mask, context, fix_noise, cond_fn
        z_x, z_h = super().cond_sample(*given, guidance_kwargs, args)
        z = torch.cat([z_x, z_h["integer"]], -1)
        return self.vae.decode(z, node_mask, edge_mask, context)
