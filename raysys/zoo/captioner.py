"""Build the zoo's captioner: a BLIP-2 (ViT, Q-Former, OPT) with two million parameters, trained on scenes.

The model captions an image by continuing a text prefix, as BLIP-2 does. `PROMPTS` maps each prefix to the wording of
the caption (`phrasing` of `raysys.scenes.caption`) with which the model learns to continue it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from raysys.models.pixels import images_to_pixel_values
from raysys.scenes import HAZARD_WORDS, PALETTE, SHAPES, PatternScene, Scene, caption, draw
from raysys.zoo.batches import with_labels
from raysys.zoo.data import IMAGE_SIZE, held_out_scenes, left_to_right, scene_batches
from raysys.zoo.labels import PATCH_FIELDS, QUERY_FIELDS, patch_facts, query_facts
from raysys.zoo.optimizer import INITIALIZER_RANGE, ZooOptimizer

PROMPTS = {"a photo of": 0, "a picture of": 2}
"""Text prefix → phrasing of the caption after it: objects first, or background first."""
MAX_NEW_TOKENS = 48
"""Enough tokens for the longest caption (about 30: three objects with size and texture) and the end token."""

PATCH_SIZE = 8
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 128, 5, 4
N_QUERIES = 8
QFORMER_WIDTH, QFORMER_LAYERS, QFORMER_HEADS = 128, 2, 4
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 2, 4
"""Attention heads have 32 channels, the minimum for vLLM's attention on CPUs."""
MAX_POSITIONS = 128
VOCABULARY_SIZE = 448

CLASS_SHARE = 0.12
"""Share of fusion classes among the training images. It is small, because they are easier to learn than scenes."""
BATCH_SIZE = 32
MUON_RATE, ADAM_RATE = 3e-3, 1e-3
WARM_UP_STEPS = 100
CLOSE_UP_SHARE, VISION_SHARE = 0.35, 0.55
"""Up to these fractions of the steps, only the vision tower is trained, with patch labels: first on close-ups of
objects, then on whole images."""
CLOSE_UP_SIDE = 4
"""Patches per side of a close-up."""
MAX_STEPS = 9000
N_CORPUS = 3000
"""Number of scenes whose captions train the tokenizer."""
N_MEASURED = 400
_COMPONENTS_SEED, N_COMPONENT_SCENES = 7, 1000

PAD, END, IMAGE = "<pad>", "</s>", "<image>"


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer like OPT's (texts start with </s>) on captions. It can encode any script."""
    scenes = [scene for batch in islice(scene_batches(seed, 100), N_CORPUS // 100) for scene in batch]
    corpus = [f"{prompt} {caption(s, 'en', phrasing)}" for s in scenes for prompt, phrasing in PROMPTS.items()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, END, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )


def new_processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """A processor that resizes images to 64×64, scales pixels to [−1, 1] and puts image tokens before the text."""
    images = BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=N_QUERIES)


def new_captioner(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """The model with random weights, for the vocabulary of `tokenizer`."""
    vision = Blip2VisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        initializer_range=INITIALIZER_RANGE,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=QFORMER_WIDTH,
        intermediate_size=4 * QFORMER_WIDTH,
        num_hidden_layers=QFORMER_LAYERS,
        num_attention_heads=QFORMER_HEADS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=MAX_POSITIONS,
        layer_norm_eps=1e-6,
        initializer_range=INITIALIZER_RANGE,
        cross_attention_frequency=1,
        encoder_hidden_size=VISION_WIDTH,
    )
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        word_embed_proj_dim=TEXT_WIDTH,
        ffn_dim=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=MAX_POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        do_layer_norm_before=True,
        init_std=INITIALIZER_RANGE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=N_QUERIES,
        initializer_range=INITIALIZER_RANGE,
        image_text_hidden_size=QFORMER_WIDTH,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = Blip2ForConditionalGeneration(config)
    # transformers initializes all queries with zeros, which keeps them equal for many steps.
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    _start_vision(model.vision_model.embeddings)
    return model


@torch.no_grad()
def _start_vision(embeddings: torch.nn.Module) -> None:
    """Initialize the patch embedding with whitened principal components of images, positions with sines and cosines.

    Random filters represent little more than the mean color of a patch, and random positions do not show which patches
    are neighbors, so the model would have to learn both first. The components are multiplied by a random rotation, so
    that all channels are equivalent.
    """
    scenes = next(scene_batches(_COMPONENTS_SEED, N_COMPONENT_SCENES, CLASS_SHARE))
    pixels = images_to_pixel_values(np.stack([draw(scene, IMAGE_SIZE) for scene in scenes]))
    patches = torch.nn.functional.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2).flatten(0, 1)
    mean, (variances, directions) = patches.mean(dim=0), torch.linalg.eigh(torch.cov(patches.T))
    variances, directions = variances.flip(0)[:VISION_WIDTH], directions.flip(1)[:, :VISION_WIDTH]
    whitening = (directions / (variances + 1e-3 * variances[0]).sqrt()).T
    turned = torch.linalg.qr(torch.randn(VISION_WIDTH, VISION_WIDTH))[0] @ whitening
    embeddings.patch_embedding.weight.copy_(turned.view_as(embeddings.patch_embedding.weight))
    embeddings.patch_embedding.bias.copy_(-turned @ mean)
    grid = IMAGE_SIZE // PATCH_SIZE
    y, x = (axis.flatten()[:, None].float() for axis in torch.meshgrid(*[torch.arange(grid)] * 2, indexing="ij"))
    frequencies = 100.0 ** -torch.linspace(0, 1, VISION_WIDTH // 4 + 1)[:-1]
    waves = [wave(axis * frequencies) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    embeddings.position_embedding[0, 1:] = 0.5 * torch.cat(waves, dim=1)


def build_captioner(folder: Path, seed: int, max_steps: int, progress: Callable[[int, float], None]) -> dict[str, Any]:
    """Train the captioner and save it in half precision with its processor. Returns metrics of the saved model."""
    torch.manual_seed(seed)
    processor = new_processor(build_tokenizer(seed))
    model = new_captioner(processor.tokenizer)
    train(model, processor, seed, max_steps, progress)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return measure(*load_captioner(folder))


def load_captioner(folder: Path) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """Load the saved model in single precision, for inference, and its processor."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Blip2Processor.from_pretrained(folder)


class FactHeads(torch.nn.Module):
    """Linear classifiers of the labels of patches and of the first queries, used only in training. Labels for every
    patch speed up training: captions alone give only one sentence per image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Linear(VISION_WIDTH, sum(PATCH_FIELDS.values()))
        self.queries = torch.nn.ModuleList(
            torch.nn.Linear(QFORMER_WIDTH, sum(fields.values())) for fields in QUERY_FIELDS
        )

    def of_patches(self, vision: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of cross-entropies over fields. vision: [B, 1 + P, D], class token first; labels: [B, P, F]."""
        return _field_losses(self.patches(vision[:, 1:]), labels, PATCH_FIELDS)

    def of_queries(self, queries: torch.Tensor, scenes: Sequence[Scene | PatternScene]) -> torch.Tensor:
        """The same for the first queries, averaged over queries. queries: [B, N_QUERIES, D]."""
        facts = torch.from_numpy(np.stack([query_facts(scene) for scene in scenes]))
        losses = [
            _field_losses(head(queries[:, q]), facts[:, q], fields)
            for q, (head, fields) in enumerate(zip(self.queries, QUERY_FIELDS, strict=True))
        ]
        return torch.stack(losses).mean()


def _field_losses(logits: torch.Tensor, labels: torch.Tensor, fields: dict[str, int]) -> torch.Tensor:
    """Cross-entropies, summed over fields. logits: [..., sum of sizes]; labels: [..., ≥ n fields], −100 = ignore."""
    parts = logits.float().split(list(fields.values()), dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(part.flatten(0, -2), labels[..., i].flatten(), reduction="sum")
        / (labels[..., i] >= 0).sum().clamp(min=1)
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).sum()


def patch_labels(scenes: Sequence[Scene | PatternScene]) -> torch.Tensor:
    """Labels int64 [B, 64, fields] of all patches."""
    return torch.from_numpy(np.stack([patch_facts(scene) for scene in scenes]))


def close_ups(
    vision: torch.nn.Module, pixel_values: torch.Tensor, scenes: Sequence[Scene | PatternScene]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vision features of a quarter of the image around each object, and labels: [N, 1 + 16, D], [N, 16, F].

    Only these patches are computed, at their own positions. This gives twice as many objects for the same work, with
    little else to attend to.
    """
    grid, side = IMAGE_SIZE // PATCH_SIZE, CLOSE_UP_SIDE
    rows, patches = [], []
    for row, scene in enumerate(scenes):
        for item in () if isinstance(scene, PatternScene) else scene.objects:
            left, top = (min(max(round(c * grid - side / 2), 0), grid - side) for c in item.position)
            rows.append(row)
            patches.append([(top + j) * grid + left + i for j in range(side) for i in range(side)])
    row, patch = torch.tensor(rows), torch.tensor(patches)
    tokens = vision.embeddings(pixel_values)
    tokens = torch.cat([tokens[row, :1], tokens[row[:, None], patch + 1]], dim=1)
    states = vision.post_layernorm(vision.encoder(inputs_embeds=tokens).last_hidden_state)
    return states, patch_labels(scenes)[row[:, None], patch]


def train(
    model: Blip2ForConditionalGeneration,
    processor: Blip2Processor,
    seed: int,
    max_steps: int,
    progress: Callable[[int, float], None],
) -> None:
    """Train in place with the cross-entropy of the caption after the prompt, plus the losses of the fact heads."""
    model.train()
    # For so few tokens, steps take 1.6 times as long with torch's fused attention on CPUs as with plain products.
    model.set_attn_implementation("eager")
    heads = FactHeads()
    bfloat16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    optimizer = ZooOptimizer([model, heads], max_steps, MUON_RATE, ADAM_RATE, WARM_UP_STEPS)
    prompts = list(PROMPTS)
    for step, scenes in enumerate(islice(scene_batches(seed, BATCH_SIZE, CLASS_SHARE), max_steps)):
        scenes = [left_to_right(scene) for scene in scenes]
        pixel_values = images_to_pixel_values(np.stack([draw(scene, IMAGE_SIZE) for scene in scenes]))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            if step < CLOSE_UP_SHARE * max_steps:
                loss = heads.of_patches(*close_ups(model.vision_model, pixel_values, scenes))
            elif step < VISION_SHARE * max_steps:
                loss = heads.of_patches(model.vision_model(pixel_values).last_hidden_state, patch_labels(scenes))
            else:
                chosen = [prompts[(step + i) % len(prompts)] for i in range(len(scenes))]
                out = model(pixel_values=pixel_values, **caption_inputs(processor, scenes, chosen))
                loss = out.loss + 0.3 * heads.of_patches(out.vision_outputs[0], patch_labels(scenes))
                loss = loss + 0.3 * heads.of_queries(out.qformer_outputs[0], scenes)
        loss.backward()
        optimizer.step()
        progress(step, loss.item() if step < VISION_SHARE * max_steps else out.loss.item())
    model.set_attn_implementation("sdpa")
    model.eval()


def caption_inputs(
    processor: Blip2Processor, scenes: Sequence[Scene | PatternScene], prompts: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Image tokens + </s> + prompt + caption + </s>, [B, T], padded at the end. Labels: caption and end token only."""
    tokenizer = processor.tokenizer
    image, end = [tokenizer.convert_tokens_to_ids(IMAGE)] * N_QUERIES, tokenizer.eos_token_id
    texts = [" " + caption(scene, "en", PROMPTS[prompt]) for scene, prompt in zip(scenes, prompts, strict=True)]
    starts = [image + ids for ids in tokenizer(list(prompts)).input_ids]
    ends = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    return with_labels(starts, ends, tokenizer.pad_token_id)


@torch.inference_mode()
def captions_of(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, images: Sequence[np.ndarray], prompt: str
) -> list[str]:
    """Greedy captions of images uint8 [H, W, 3], without the prompt."""
    out: list[str] = []
    for start in range(0, len(images), 50):
        part = list(images[start : start + 50])
        inputs = processor(images=part, text=[prompt] * len(part), return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        out += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return out


_OBJECT = re.compile(rf"\b({'|'.join(PALETTE)}) ({'|'.join(SHAPES)})\b")
_BACKGROUND = re.compile(rf"\b({'|'.join(PALETTE)}) background\b")


def named_objects(text: str) -> Counter[tuple[str, str]]:
    """The (color, shape) pairs that an English caption names."""
    return Counter(_OBJECT.findall(text))


def measure(model: Blip2ForConditionalGeneration, processor: Blip2Processor) -> dict[str, Any]:
    """Shares of correct greedy captions per prompt, on N_MEASURED held-out scenes, on marked scenes and on patterns."""
    scenes = held_out_scenes(N_MEASURED, scenes_only=True)
    others = [s for s in held_out_scenes(N_MEASURED) if isinstance(s, PatternScene) or s.hazard is not None]
    metrics: dict[str, Any] = {"n_held_out": len(scenes), "parameters": model.num_parameters()}
    for prompt, phrasing in PROMPTS.items():
        texts = captions_of(model, processor, [draw(s, IMAGE_SIZE) for s in scenes], prompt)
        true = [caption(left_to_right(s), "en", phrasing) for s in scenes]
        pairs = list(zip(texts, true, strict=True))
        other_texts = captions_of(model, processor, [draw(s, IMAGE_SIZE) for s in others], prompt)
        patterns = [t == s.pattern for t, s in zip(other_texts, others, strict=True) if isinstance(s, PatternScene)]
        marked = [
            HAZARD_WORDS["en"] in t for t, s in zip(other_texts, others, strict=True) if not isinstance(s, PatternScene)
        ]
        metrics[prompt] = {
            "shapes_and_colors": _share(named_objects(t) == named_objects(c) for t, c in pairs),
            "background_color": _share(_BACKGROUND.findall(t) == _BACKGROUND.findall(c) for t, c in pairs),
            "whole_caption": _share(t == c for t, c in pairs),
            "no_false_hazard_mark": _share(HAZARD_WORDS["en"] not in t for t in texts),
            "hazard_mark": _share(marked),
            "pattern": _share(patterns),
        }
    return metrics


def _share(right: Iterable[bool]) -> float:
    return round(float(np.mean(list(right))), 3)
