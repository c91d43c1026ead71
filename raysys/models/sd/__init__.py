"""The Stable Diffusion family: CLIP text encoder, AutoencoderKL, U-Net. All families have the same file names."""
