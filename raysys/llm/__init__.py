"""Prompts, with or without an image, in; completions out: vLLM, an OpenAI-compatible endpoint, or transformers."""
