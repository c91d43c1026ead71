"""The Stable Diffusion family: CLIP text encoder, AutoencoderKL, U-Net. Every family's folder has these file names."""
