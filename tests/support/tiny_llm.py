"""Tiny language models with random weights, of the architectures that the real ones have, in Hugging Face folders.

Random, so their answers mean nothing; but they are definite: weights are drawn widely enough for greedy decoding to
have clear winners, and the end token is made likely enough for some answers to stop by themselves.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

PAD, START, END, IMAGE = "<pad>", "<s>", "</s>", "<image>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    " ASSISTANT:"
)

CORPUS = (
    "a red circle on a black background, and a small blue square beside it",
    "two yellow stars above a green triangle in the middle of the picture",
    "Convert this caption of an image to a more general caption: three orange rings",
    "黒い背景に赤い円と青い四角があります。左上に小さい黄色い星が見えます。",
)

IMAGE_SIZE = 32
N_QUERIES = 4
"""Image tokens of the BLIP-2."""
N_LLAVA_TOKENS = 16
"""Image tokens of the LLaVA: (32 / 8)² patches."""


def tokenizer(start: str = START, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has tokens, `start` comes before them; `named` are more special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [PAD, START, END, IMAGE]
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, min_frequency=1
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, bpe.token_to_id(start))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=start, eos_token=END, pad_token=PAD, extra_special_tokens=named
    )


def write_llama(
    folder: Path,
    *,
    chat: bool = True,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    context: int = 256,
    seed: int = 0,
) -> Path:
    """A Llama with 400 tokens and, if `chat`, a chat template. vLLM's attention on CPUs takes no heads below 32."""
    words = tokenizer()
    if chat:
        words.chat_template = CHAT_TEMPLATE
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=0.2 * (64 / hidden) ** 0.5,
        **_token_ids(words),
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[words.eos_token_id] *= 1.5
    model.save_pretrained(folder)
    return folder


def write_lora(folder: Path, base: Path, seed: int) -> Path:
    """A LoRA adapter of the Llama in `base` that changes its answers."""
    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # starts at zero: the adapter would change nothing
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def write_blip2(folder: Path, *, hidden: int = 64, layers: int = 2, heads: int = 2, seed: int = 0) -> Path:
    """A BLIP-2 (ViT, Q-Former, OPT) for pictures of 32×32; 4 image tokens, 128 positions."""
    words = tokenizer(start=END)
    images = BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    Blip2Processor(images, words, num_query_tokens=N_QUERIES).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    vision = Blip2VisionConfig(**sizes, intermediate_size=2 * hidden, image_size=IMAGE_SIZE, patch_size=8)
    qformer = Blip2QFormerConfig(
        **sizes,
        vocab_size=len(words),
        intermediate_size=2 * hidden,
        encoder_hidden_size=hidden,
        cross_attention_frequency=1,
    )
    text = OPTConfig(
        **sizes,
        vocab_size=len(words),
        word_embed_proj_dim=hidden,
        ffn_dim=2 * hidden,
        max_position_embeddings=128,
        **_token_ids(words),
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=N_QUERIES,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
    )
    model = _widened(Blip2ForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    return folder


def write_florence2(folder: Path, seed: int = 0) -> Path:
    """A Florence-2 (DaViT, BART) for pictures of 32×32; its processor reads the real task prompts."""
    words = tokenizer(image_token=IMAGE)
    images = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False, image_seq_length=2
    )
    Florence2Processor(images, words, post_processor_config={"pure_text": {}}).save_pretrained(folder)
    torch.manual_seed(seed)
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1),
        embed_dim=(16, 16, 32, 32),
        num_heads=(1, 1, 2, 2),
        num_groups=(1, 1, 2, 2),
        window_size=2,
        projection_dim=32,
    )
    text = BartConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        decoder_start_token_id=words.eos_token_id,
        **_token_ids(words),
    )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=words.image_token_id)
    model = _widened(Florence2ForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    return folder


def write_llava(folder: Path, seed: int = 0) -> Path:
    """A LLaVA (CLIP's vision tower, Llama) for pictures of 32×32; its chat template takes parts."""
    words = tokenizer(image_token=IMAGE)
    words.chat_template = LLAVA_TEMPLATE
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(size=side, crop_size=side)
    LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=IMAGE_SIZE, patch_size=8)
    text = LlamaConfig(**sizes, vocab_size=len(words), max_position_embeddings=256, **_token_ids(words))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=words.convert_tokens_to_ids(IMAGE))
    model = _widened(LlavaForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    return folder


def _widened(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every matrix drawn anew with a spread that keeps random answers from being one token for ever."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
    return model


def _token_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
