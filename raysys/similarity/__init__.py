"""Image descriptors and exact top-k search: which training image is nearest to a generated one."""

from raysys.similarity.descriptors import (
    PRESETS,
    Descriptor,
    DescriptorConfig,
    DescriptorFacts,
    descriptor_facts,
    make_descriptor,
)
from raysys.similarity.search import array_blocks, pairs_above, top_k

__all__ = [
    "PRESETS",
    "Descriptor",
    "DescriptorConfig",
    "DescriptorFacts",
    "array_blocks",
    "descriptor_facts",
    "make_descriptor",
    "pairs_above",
    "top_k",
]
