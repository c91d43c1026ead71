"""Synthetic images: seeded drawn scenes with ground truth, captions from a grammar, and demo shards."""

from raysys.scenes.captions import HAZARD_WORDS, LANGUAGES, caption
from raysys.scenes.demo_shards import ScenesConfig, write_demo_shards
from raysys.scenes.drawing import draw
from raysys.scenes.generalized import GENERALIZED_LEVELS, generalize_caption
from raysys.scenes.patterns import FUSION_CLASSES, PatternScene, sample_class_scene
from raysys.scenes.scene import PALETTE, SHAPES, Background, Scene, SceneObject, sample_scene, with_hazard

__all__ = [
    "FUSION_CLASSES",
    "GENERALIZED_LEVELS",
    "HAZARD_WORDS",
    "LANGUAGES",
    "PALETTE",
    "SHAPES",
    "Background",
    "PatternScene",
    "Scene",
    "SceneObject",
    "ScenesConfig",
    "caption",
    "draw",
    "generalize_caption",
    "sample_class_scene",
    "sample_scene",
    "with_hazard",
    "write_demo_shards",
]
