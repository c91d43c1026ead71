"""Model families, their parts and the embedded zoo. Everything is loaded from local folders, safetensors only."""
