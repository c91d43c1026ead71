"""Prompts, with or without a picture, in; completions out: vLLM, an OpenAI-compatible endpoint, or transformers."""
