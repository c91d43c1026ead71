"""generation: a saved model and a table of prompts → seeded images."""
