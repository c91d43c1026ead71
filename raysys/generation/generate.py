"""The stage of job `generate`: prompts → GENERATIONS rows. (model, seed, prompt id, index) determine the PNG bytes."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from raysys import outcomes
from raysys.config import OPERATIONAL
from raysys.generation.images import ImageGenerator, Request, SamplingConfig, png_bytes
from raysys.models.families import load_pipeline
from raysys.models.loading import model_hash
from raysys.tables.stage import Stage


class GenerateConfig(SamplingConfig):
    """The model, and how it generates images for each prompt."""

    model: Annotated[str, OPERATIONAL] = Field(
        description="folder of a saved pipeline (diffusers layout), identified by its contents"
    )
    seed: int = Field(0, ge=0, description="seed of the run; the noise of an image depends on (seed, prompt_id, index)")


class Generate(Stage):
    """A table with `prompt_id` and `prompt` → num_images_per_prompt GENERATIONS rows per prompt, in order."""

    name, heavy = "generate", True

    def __init__(self, config: GenerateConfig) -> None:
        """Load the model. Raises InputError if it is missing or damaged or cannot generate the image size."""
        self.config = config
        self.generator = ImageGenerator(load_pipeline(config.model, config.dtype, config.device), config, config.seed)
        self.model_hash = model_hash(config.model)

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a prompt, without images."""
        return [
            {"gen_id": f"{item['prompt_id']}-{i}", "index": i, "seed": self.config.seed}
            | {name: item[name] for name in ("prompt_id", "prompt")}
            for i in range(self.config.num_images_per_prompt)
        ]

    def __call__(self, prompts: pa.Table) -> list[dict[str, Any]]:
        """One row per (prompt, index). A null prompt is rejected; an image with NaN or infinity is an error row."""
        rows = [row for item in prompts.to_pylist() for row in self.expand(item)]
        asked = [row for row in rows if row["prompt"] is not None]
        images = self.generator([Request(row["prompt_id"], row["index"], row["prompt"]) for row in asked])
        image_of = {row["gen_id"]: image for row, image in zip(asked, images, strict=True)}
        return [row | self._facts() | self._outcome(row, image_of) for row in rows]

    def _facts(self) -> dict[str, Any]:
        return {
            "guidance_scale": self.config.guidance_scale,
            "num_inference_steps": self.config.num_inference_steps,
            "model_hash": self.model_hash,
            "width": self.generator.width,
            "height": self.generator.height,
        }

    @staticmethod
    def _outcome(row: dict[str, Any], image_of: dict[str, Any]) -> dict[str, Any]:
        if row["prompt"] is None:
            return {"image": None, **outcomes.rejected("no_prompt")}
        image = image_of[row["gen_id"]]
        if image is None:
            return {"image": None, **outcomes.error("generate", "not_finite", "latents hold NaN or infinity")}
        return {"image": png_bytes(image), **outcomes.kept()}
