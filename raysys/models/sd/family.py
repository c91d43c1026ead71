"""The loaders of the Stable Diffusion family."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from raysys.models.family import Family, Pipeline
from raysys.models.loading import digest_of, loaded, model_hash, part_folder, ready, vocabulary_folder
from raysys.models.schedule import NoiseScheduleConfig, build_noise_scheduler, load_noise_scheduler
from raysys.models.sd import pipeline as saved
from raysys.models.sd.autoencoder import SdAutoencoder
from raysys.models.sd.config import SdDenoiserConfig
from raysys.models.sd.denoiser import SdDenoiser, build_unet
from raysys.models.sd.text_encoder import SdTextEncoder

AUTOENCODER, DENOISER, TEXT_ENCODER = "vae", "unet", "text_encoder"
"""The folders of the parts in a saved pipeline."""


class SdFamily(Family):
    """Stable Diffusion 1.x and 2.x, and small models of the same architecture."""

    name = "sd"

    def load_text_encoder(
        self,
        place: str | Path,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> SdTextEncoder:
        folder, words = part_folder(place, TEXT_ENCODER), vocabulary_folder(place, TEXT_ENCODER, tokenizer)
        load = CLIPTextModel.from_pretrained
        model = loaded(folder, lambda: load(folder, dtype=dtype, use_safetensors=True, local_files_only=True))
        vocabulary = loaded(words, lambda: CLIPTokenizer.from_pretrained(words, local_files_only=True))
        return SdTextEncoder(vocabulary, ready(model, device))

    def text_encoder_hashes(self, place: str | Path, tokenizer: str | Path | None = None) -> dict[str, str]:
        words = vocabulary_folder(place, TEXT_ENCODER, tokenizer)
        return {
            "text_encoder_hash": model_hash(part_folder(place, TEXT_ENCODER)),
            "tokenizer_hash": digest_of(words, (".json", ".txt", ".model")),
        }

    def load_autoencoder(
        self, place: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> SdAutoencoder:
        folder = part_folder(place, AUTOENCODER)
        load = AutoencoderKL.from_pretrained
        model = loaded(folder, lambda: load(folder, torch_dtype=dtype, use_safetensors=True))
        return SdAutoencoder(ready(model, device))

    def autoencoder_hash(self, place: str | Path) -> str:
        return model_hash(part_folder(place, AUTOENCODER))

    def build_denoiser(self, config: SdDenoiserConfig, noise_schedule: NoiseScheduleConfig, seed: int) -> SdDenoiser:
        return SdDenoiser(build_unet(config, seed), build_noise_scheduler(noise_schedule))

    def load_denoiser(
        self,
        place: str | Path,
        noise_schedule: NoiseScheduleConfig | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> SdDenoiser:
        folder = part_folder(place, DENOISER)
        load = UNet2DConditionModel.from_pretrained
        scheduler = load_noise_scheduler(place) if noise_schedule is None else build_noise_scheduler(noise_schedule)
        unet = loaded(folder, lambda: load(folder, torch_dtype=dtype, use_safetensors=True))
        return ready(SdDenoiser(unet, scheduler), device)

    def denoiser_hash(self, place: str | Path) -> str:
        return model_hash(part_folder(place, DENOISER))

    def save_pipeline(self, folder: str | Path, pipeline: Pipeline) -> Path:
        return saved.save_pipeline(folder, pipeline)

    def load_pipeline(self, folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
        return Pipeline(
            text_encoder=self.load_text_encoder(folder, dtype=dtype, device=device),
            denoiser=self.load_denoiser(folder, dtype=dtype, device=device),
            autoencoder=self.load_autoencoder(folder, dtype=dtype, device=device),
        )


FAMILY = SdFamily()
