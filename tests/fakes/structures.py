"""Stand-ins of the samplers of Boltz-2 and Chai-1: the structure of their loops, in small.

Both diffuse one of two dumbbells (two atoms, `lengths` angstrom apart, with probabilities
`weights`) in random orientation, and know its exact posterior mean: a Langevin function of the
distance of the two atoms. So a run from noise and a run from sigma* must end in the same law.
"""

import math

import torch

LENGTHS, WEIGHTS = (4.0, 12.0), (0.35, 0.65)


def dumbbell_mean(x, sigma, lengths=LENGTHS, weights=WEIGHTS):
    """E[x_0 | x] of states x (B, 2, 3): centred half vectors ± u l / 2 about the centre of x."""
    x, sigma = x.double(), float(sigma)
    half = (x[:, 0] - x[:, 1]) / 2
    size = half.norm(dim=1, keepdim=True)
    weight, length = torch.tensor(weights).double(), torch.tensor(lengths).double()
    k = size * length / sigma**2  # <x, x_0> / sigma² is k cos(angle)
    log_sinh = k + (-torch.expm1(-2 * k)).clamp(min=1e-300).log() - math.log(2)
    log_weight = weight.log() + log_sinh - k.clamp(min=1e-300).log() - length**2 / (4 * sigma**2)
    langevin = torch.where(k < 1e-4, k / 3, 1 / torch.tanh(k) - 1 / k.clamp(min=1e-12))
    mean = (log_weight.softmax(1) * langevin * length / 2).sum(1, keepdim=True)
    vector = half / size * mean
    return x.mean(1, keepdim=True) + torch.stack([vector, -vector], 1)


def turned(x):
    """Centred, turned and moved at random, as both codebases do before each step."""
    quaternion = torch.nn.functional.normalize(torch.randn(len(x), 4, dtype=x.dtype), dim=1)
    w, axis = quaternion[:, :1, None], quaternion[:, None, 1:]
    x = x - x.mean(1, keepdim=True)
    cross = torch.linalg.cross(axis.expand_as(x), x)
    x = x + 2 * (w * cross + torch.linalg.cross(axis.expand_as(x), cross))
    return x + torch.randn(len(x), 1, 3, dtype=x.dtype)


class AtomDiffusion(torch.nn.Module):
    """The sampler of Boltz-2, with the settings of its command line."""

    def __init__(self, num_sampling_steps=200, step_scale=1.5):
        super().__init__()
        self.num_sampling_steps, self.step_scale = num_sampling_steps, step_scale
        self.sigma_min, self.sigma_max, self.sigma_data, self.rho = 1e-4, 160.0, 16.0, 7
        self.gamma_0, self.gamma_min, self.noise_scale = 0.8, 1.0, 1.003
        self.seen, self.first = [], None

    def sample_schedule(self, num_sampling_steps=None):
        n = num_sampling_steps or self.num_sampling_steps
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = (high + torch.arange(n) / (n - 1) * (low - high)) ** self.rho
        return torch.cat([sigmas * self.sigma_data, torch.zeros(1)])

    def preconditioned_network_forward(self, noised_atom_coords, sigma, network_condition_kwargs):
        self.first = noised_atom_coords.clone() if not self.seen else self.first
        self.seen.append(sigma)
        return dumbbell_mean(noised_atom_coords, sigma).to(noised_atom_coords)

    def sample(
        self,
        atom_mask,
        num_sampling_steps=None,
        multiplicity=1,
        max_parallel_samples=None,
        steering_args=None,
        **network_condition_kwargs,
    ):
        self.seen = []
        sigmas = self.sample_schedule(num_sampling_steps)
        gammas = torch.where(sigmas > self.gamma_min, self.gamma_0, 0.0)
        x = sigmas[0] * torch.randn(multiplicity * len(atom_mask), atom_mask.shape[1], 3)
        for high, low, gamma in zip(
            sigmas.tolist(), sigmas[1:].tolist(), gammas[1:].tolist(), strict=False
        ):
            x, level = turned(x), high * (1 + gamma)
            noise = self.noise_scale * math.sqrt(level**2 - high**2) * torch.randn(x.shape)
            noisy = x + noise
            clean = self.preconditioned_network_forward(noisy, level, network_condition_kwargs)
            x = noisy + self.step_scale * (low - level) * (noisy - clean) / level
        return {"sample_atom_coords": x}


class InferenceNoiseSchedule:
    """The schedule of Chai-1."""

    s_max, s_min, p, sigma_data = 80.0, 4e-4, 7.0, 16.0

    def get_schedule(self, device, num_timesteps=200):
        times = torch.linspace(0, 1, 2 * num_timesteps + 1, device=device)[1::2]
        return self.get_noise_for_times(times)

    def get_noise_for_times(self, times):
        ends = self.s_max ** (1 / self.p), self.s_min ** (1 / self.p)
        return self.sigma_data * ((1 - times) * ends[0] + times * ends[1]) ** self.p


def fold(n_samples, num_diffn_timesteps=200):
    """Chai-1's loop over a schedule that it makes itself.

    Samples, the levels that the network saw, and its first input.
    """
    sigmas = InferenceNoiseSchedule().get_schedule(device="cpu", num_timesteps=num_diffn_timesteps)
    churn = min(80 / num_diffn_timesteps, math.sqrt(2) - 1)
    gammas = torch.where((sigmas >= 4e-4) & (sigmas <= 80.0), churn, 0.0)
    x, seen, inputs = sigmas[0] * torch.randn(n_samples, 2, 3), [], []

    def slope(x, sigma):
        inputs.append(x)
        seen.append(float(sigma))
        return (x - dumbbell_mean(x, sigma).to(x)) / sigma

    for high, low, gamma in zip(sigmas, sigmas[1:], gammas, strict=False):
        x, level = turned(x), high * (1 + gamma)
        x = x + 1.003 * torch.randn(x.shape) * (level**2 - high**2).clamp(min=1e-6).sqrt()
        first = slope(x, level)
        ahead = x + (low - level) * first
        x = x + (low - level) * (first + slope(ahead, low)) / 2
    return x, seen, inputs[0]
