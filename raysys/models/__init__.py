"""Model families and their parts, and where the shipped ones lie. Loaded from local folders, safetensors only."""
