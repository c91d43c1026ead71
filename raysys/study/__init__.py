"""A study: named models × named prompts × evaluations, planned as a list of steps; each step is one job."""
