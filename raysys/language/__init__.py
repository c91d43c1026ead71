"""Words: tokens, parts of speech, entities, WordNet's nouns, and how general a text is."""
