"""A study: named models × named prompts × evaluations, as a list of steps, each of which is a job."""
