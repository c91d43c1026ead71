"""Sampling as pure functions over a denoiser: noise from identities, guidance, DPM-Solver++."""
