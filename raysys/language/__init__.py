"""Language processing: tokens, parts of speech, entities, WordNet nouns, and the generality score."""
