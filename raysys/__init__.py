"""raysys: text-to-image models that are license-clean, do not copy their training images, and prove it. Runs on Ray."""

__version__ = "0.1.0"
