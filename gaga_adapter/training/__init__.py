"""Training on the shorter trajectory: timesteps in [0, t*], and the bound of the truncated model.

timesteps = scheduler.sample_timesteps(batch_size, generator)  # of a GAGAScheduler
sigma = TruncatedTimesteps.log_normal(stats.sigma_star, -1.2, 1.2).sample(batch_size)
elbo = truncated_elbo(model, batches, path, stats)
"""

from gaga_adapter.trained import check_trained, record_trained, trained_log_snr
from gaga_adapter.training.elbo import TruncatedELBO, truncated_elbo
from gaga_adapter.training.timesteps import TruncatedTimesteps

__all__ = [
    "TruncatedELBO",
    "TruncatedTimesteps",
    "check_trained",
    "record_trained",
    "trained_log_snr",
    "truncated_elbo",
]
