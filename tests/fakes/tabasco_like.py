"""A stand-in with the structure of TABASCO's `FlowMatchingModel`, without tensordict.

The methods that the patch wraps have upstream's names, parameters and order of calls; the network
is small, and batches are dicts with a device.
"""

import random
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


class Batch(dict):
    """The part of a TensorDict that is used."""

    device = torch.device("cpu")


class TinyNet(nn.Module):
    def __init__(self, n_types, add_sinusoid_posenc=True):
        super().__init__()
        self.add_sinusoid_posenc = add_sinusoid_posenc
        self.inner = nn.Linear(3 + n_types + 2, 16)
        self.outer = nn.Linear(16, 3 + n_types)

    def forward(self, coords, atomics, padding_mask, t):
        place = torch.linspace(0, 1, coords.shape[1]) * self.add_sinusoid_posenc
        known = [
            place.expand(coords.shape[:2])[..., None],
            t[:, None, None].expand_as(coords[..., :1]),
        ]
        out = self.outer(self.inner(torch.cat([coords, atomics.float(), *known], -1)).tanh())
        return out[..., :3], out[..., 3:]


def centred(x, pad_mask):
    real = (~pad_mask)[..., None]
    x = x * real
    return (x - x.sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real


class Coords:
    key = "coords"

    def __init__(self, noise_scale=1.0, scale_noise_by_log_num_atoms=False):
        self.noise_scale = noise_scale
        self.scale_noise_by_log_num_atoms = scale_noise_by_log_num_atoms

    def sample_noise(self, shape, pad_mask):
        x_0 = torch.randn(shape) * self.noise_scale
        if self.scale_noise_by_log_num_atoms:
            x_0 = x_0 * torch.log((~pad_mask).sum(dim=-1)[..., None, None])
        return centred(x_0, pad_mask)

    def create_path(self, x_1, t, x_0):
        t = t[:, None, None]
        one, zero = (centred(x["coords"], x_1["padding_mask"]) for x in (x_1, x_0))
        return (1 - t) * zero + t * one

    def step(self, x_t, pred, t, dt):
        velocity = (pred["coords"] - x_t["coords"]) / (1 - t[:, None, None])
        return centred(x_t["coords"] + velocity * dt[:, None, None], x_t["padding_mask"])


class Atomics:
    key = "atomics"

    def sample_noise(self, shape, pad_mask):
        return F.one_hot(torch.randint(0, shape[-1], shape[:-1]), num_classes=shape[-1])

    def create_path(self, x_1, t, x_0):
        hidden = (torch.rand(x_1["atomics"].shape[:-1]) > t[:, None])[..., None].int()
        return x_0["atomics"] * hidden + x_1["atomics"] * (1 - hidden)

    def step(self, x_t, pred, t, dt):
        rate = ((dt / (1 - t))[:, None, None] * pred["atomics"].softmax(-1)).clamp(max=1)
        now = x_t["atomics"].argmax(-1, keepdim=True)
        rate = rate.scatter(-1, now, 0.0)
        rate = rate.scatter(-1, now, 1 - rate.sum(-1, keepdim=True)).clamp(min=0)
        drawn = torch.distributions.Categorical(rate / rate.sum(-1, keepdim=True)).sample()
        return F.one_hot(drawn, num_classes=rate.shape[-1])


class FlowMatchingModel(nn.Module):
    def __init__(self, net, coords_interpolant, atomics_interpolant, sample_schedule="linear"):
        super().__init__()
        self.net = net
        self.coords_interpolant = coords_interpolant
        self.atomics_interpolant = atomics_interpolant
        self.time_distribution = torch.distributions.Beta(1.8, 1)
        self.sample_schedule = sample_schedule

    def set_data_stats(self, stats):
        self.data_stats = stats

    def _call_net(self, batch, t):
        coords, logits = self.net(batch["coords"], batch["atomics"], batch["padding_mask"], t)
        return Batch(coords=coords, atomics=logits, padding_mask=batch["padding_mask"])

    def forward(self, batch, compute_stats=True):
        path = self._create_path(batch)
        pred = self._call_net(path.x_t, path.t)
        real = ~batch["padding_mask"]
        error = ((pred["coords"] - batch["coords"]) * real[..., None]).square().mean()
        types = F.cross_entropy(pred["atomics"].mT, batch["atomics"].argmax(-1))
        return error + types, {}

    def _create_path(self, x_1, t=None, noise_batch=None):
        if t is None:
            t = self.time_distribution.sample((x_1["padding_mask"].shape[0],)).to(x_1.device)
        if noise_batch is None:
            noise_batch = self._sample_noise_like_batch(x_1)
        parts = (self.coords_interpolant, self.atomics_interpolant)
        x_t = Batch({p.key: p.create_path(x_1=x_1, t=t, x_0=noise_batch) for p in parts})
        x_t["padding_mask"] = x_1["padding_mask"]
        return SimpleNamespace(x_t=x_t, t=t, x_1=x_1, x_0=noise_batch)

    def _get_sample_schedule(self, num_steps):
        if self.sample_schedule == "linear":
            return torch.linspace(0, 1, num_steps + 1)
        times = 1.0 - torch.logspace(-2, 0, num_steps + 1).flip(0)
        times = times - torch.amin(times)
        return times / torch.amax(times)

    def sample(self, batch=None, num_steps=100, batch_size=None, return_trajectories=False):
        x_t = self._sample_noise_like_batch(batch, batch_size)
        times = self._get_sample_schedule(num_steps)[:, None].repeat(1, x_t["coords"].shape[0])
        for i in range(1, len(times)):
            x_t = self._step(x_t, times[i - 1], times[i] - times[i - 1])
        return x_t

    def _step(self, x_t, t, step_size):
        with torch.no_grad():
            pred = self._call_net(x_t, t)
        for part in (self.coords_interpolant, self.atomics_interpolant):
            x_t[part.key] = part.step(x_t, pred, t, step_size)
        return x_t

    def _sample_noise_like_batch(self, batch=None, batch_size=None):
        if batch is None:
            known = self.data_stats["num_atoms_histogram"]
            sizes = torch.tensor(random.choices(list(known), list(known.values()), k=batch_size))
            pad_mask = torch.arange(self.data_stats["max_num_atoms"])[None] >= sizes[:, None]
            n_types = self.data_stats["atom_dim"]
        else:
            pad_mask, n_types = batch["padding_mask"], batch["atomics"].shape[-1]
        coords = self.coords_interpolant.sample_noise((*pad_mask.shape, 3), pad_mask)
        atomics = self.atomics_interpolant.sample_noise((*pad_mask.shape, n_types), pad_mask)
        return Batch(coords=coords, atomics=atomics, padding_mask=pad_mask)


def make_model(n_types=4, **noise):
    torch.manual_seed(0)
    model = FlowMatchingModel(TinyNet(n_types), Coords(**noise), Atomics())
    model.set_data_stats(
        {"num_atoms_histogram": {4: 2, 6: 3, 7: 1}, "max_num_atoms": 7, "spatial_dim": 3,
         "atom_dim": n_types}
    )  # fmt: skip
    return model.eval()
