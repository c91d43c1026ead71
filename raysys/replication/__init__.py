"""Do generated images repeat training images? R, its interval, its background and the matches behind it."""

from raysys.replication.inputs import ImageSet, open_images
from raysys.replication.score import Background, ReplicationConfig, ReplicationResult, score, terminal_progress

__all__ = [
    "Background",
    "ImageSet",
    "ReplicationConfig",
    "ReplicationResult",
    "open_images",
    "score",
    "terminal_progress",
]
