"""Model families and their parts, loaded from local folders in safetensors format only."""
