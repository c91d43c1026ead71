"""Language models: prompts, with or without an image → completions, by vLLM, an OpenAI-compatible endpoint or
transformers."""
