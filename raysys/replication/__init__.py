"""Do generated images copy training images? The score R, its confidence interval, background and matches."""

from raysys.replication.config import ReplicationConfig
from raysys.replication.inputs import ImageSet, open_images
from raysys.replication.result import Background, LeftOut, ReplicationResult
from raysys.replication.score import score
from raysys.replication.terminal import terminal_progress

__all__ = [
    "Background",
    "ImageSet",
    "LeftOut",
    "ReplicationConfig",
    "ReplicationResult",
    "open_images",
    "score",
    "terminal_progress",
]
