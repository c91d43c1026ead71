"""Build the zoo's CLIP: tokenizer, text encoder and vision encoder, trained contrastively on scenes and captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers import CLIPVisionConfig as VisionConfig

from raysys.models.pixels import images_to_pixel_values
from raysys.zoo.data import IMAGE_SIZE, held_out, training_batches
from raysys.zoo.optimizer import warm_up_cosine

MAX_LENGTH = 48
"""Tokens with start and end: the longest scene caption has about 35, and a joined class name must fit, too."""
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 3, 4
VISION_WIDTH, VISION_LAYERS, VISION_HEADS, PATCH_SIZE = 96, 3, 3, 8
PROJECTION_DIM = 96
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 100
MAX_STEPS = 1200
N_CORPUS = 3000
"""Number of captions that train the tokenizer."""
MAX_MERGES = 600
N_MEASURED = 256

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path, seed: int) -> dict[str, Any]:
    """Train a tokenizer on scene captions and save it as a `CLIPTokenizer` folder."""
    batches = training_batches(seed, 100)
    corpus = [text for _, captions in islice(batches, N_CORPUS // 100) for text in captions]
    tokenizer = train_tokenizer(corpus, MAX_MERGES)
    tokenizer.save_pretrained(folder)
    lengths = [len(ids) for ids in tokenizer(held_out(N_MEASURED)[1]).input_ids]
    return {"vocab_size": len(tokenizer), "tokens_mean": round(float(np.mean(lengths)), 1), "tokens_max": max(lengths)}


def train_tokenizer(corpus: Iterable[str], max_merges: int) -> CLIPTokenizer:
    """A CLIP tokenizer with byte-pair merges of `corpus` (Sennrich et al. 2016), built like CLIP's vocabulary.

    The vocabulary consists of 256 byte symbols, the same with the end-of-word mark, one symbol per merge, start and
    end, so it can encode any text. Among equally frequent pairs, the first in string order is merged.
    """
    alphabet = sorted(ByteLevel.alphabet())
    symbols = alphabet + [character + "</w>" for character in alphabet]
    merges = _byte_pair_merges(_word_counts(corpus), max_merges)
    symbols += [left + right for left, right in merges] + [START, END]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def _word_counts(corpus: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Counts of the words given by CLIP's normalizer and pre-tokenizer, as byte symbols with the last one marked."""
    backend = CLIPTokenizer().backend_tokenizer
    counts: Counter[tuple[str, ...]] = Counter()
    for text in corpus:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            counts[(*word[:-1], word[-1] + "</w>")] += 1
    return counts


def _byte_pair_merges(counts: Counter[tuple[str, ...]], max_merges: int) -> list[tuple[str, str]]:
    """Merge the most frequent adjacent pair repeatedly, until no pair is left or `max_merges` are found."""
    merges: list[tuple[str, str]] = []
    words = dict(counts)
    while len(merges) < max_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            merged[_merge(word, best)] += count
        words = dict(merged)
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def build_clip(
    folder: Path, tokenizer_folder: Path, text_folder: Path, seed: int, max_steps: int, progress: Callable
) -> dict[str, Any]:
    """Train CLIP; save it in `folder` and its text encoder in `text_folder`, in half precision.

    Returns retrieval metrics of the saved model on held-out images. Calls `progress(step, loss)` after every step.
    """
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    model = new_clip(tokenizer)
    train(model, tokenizer, seed, max_steps, progress)
    model.half().save_pretrained(folder)
    image_processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = CLIPModel.from_pretrained(folder, dtype=torch.float16)
    text_encoder = CLIPTextModel(saved.config.text_config).half()
    text_encoder.load_state_dict(_text_state(saved, text_encoder))
    text_encoder.save_pretrained(text_folder)
    return measure(CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The model with random weights, for the vocabulary of `tokenizer`."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=PROJECTION_DIM,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = VisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=PROJECTION_DIM,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION_DIM)
    )


def image_processor() -> CLIPImageProcessorPil:
    """Preprocessing of the vision encoder: resize to 64×64, scale pixels to [−1, 1]."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def train(model: CLIPModel, tokenizer: CLIPTokenizer, seed: int, max_steps: int, progress: Callable) -> None:
    """Train in place with the symmetric cross-entropy of image–caption similarities (Radford et al. 2021)."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    batches = training_batches(seed, BATCH_SIZE)
    for step in range(max_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm_up_cosine(step, max_steps, WARM_UP_STEPS)
        images, captions = next(batches)
        loss = model(**_inputs(tokenizer, images, captions), return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100.0)))
        progress(step, loss.item())
    model.eval()


def _inputs(tokenizer: CLIPTokenizer, images: np.ndarray, captions: list[str]) -> dict[str, torch.Tensor]:
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return {"input_ids": tokens.input_ids, "pixel_values": images_to_pixel_values(images)}


def _text_state(model: CLIPModel, text_encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The weights of the text encoder from the whole model. Their prefix differs between transformers releases."""
    whole = model.state_dict()
    return {name: whole[name if name in whole else f"text_model.{name}"] for name in text_encoder.state_dict()}


@torch.inference_mode()
def measure(model: CLIPModel, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Recall@1 among N_MEASURED held-out scenes, in both directions; images with the same caption count as correct."""
    images, captions = held_out(N_MEASURED, scenes_only=True)
    similarity = model(**_inputs(tokenizer, images, captions)).logits_per_image
    same = np.array([[a == b for b in captions] for a in captions])
    rows = np.arange(len(captions))
    return {
        "retrieval_at_1_image_to_text": round(float(same[rows, similarity.argmax(1).numpy()].mean()), 3),
        "retrieval_at_1_text_to_image": round(float(same[rows, similarity.argmax(0).numpy()].mean()), 3),
        "n_held_out": len(captions),
    }
