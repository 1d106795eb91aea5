"""What a trained denoiser knows of noised data that the Gaussian does not."""
