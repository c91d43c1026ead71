"""Labels of patches and queries from the ground truth of scenes, for the captioner's training-only heads.

A field is a classification problem; the label −100 means that the field does not apply (torch's `ignore_index`).
"""

from __future__ import annotations

import numpy as np

from raysys.scenes import FUSION_CLASSES, PALETTE, SHAPES, PatternScene, Scene
from raysys.scenes.captions import relation
from raysys.scenes.scene import BACKGROUND_TEXTURES, OBJECT_TEXTURES, SIZES

GRID = 8
"""Patches per side of the image."""
MAX_OBJECTS = 3
_COLORS, _SIZES = tuple(PALETTE), tuple(SIZES)
_RELATIONS = ("left of", "above", "below")
"""Relations of the first object to the second, with objects ordered from left to right."""
_OBJECT_FIELDS = {
    "shape": len(SHAPES) + 1,
    "color": len(_COLORS),
    "texture": len(OBJECT_TEXTURES),
    "size": len(_SIZES),
}
PATCH_FIELDS = {"owner": MAX_OBJECTS + 2, **_OBJECT_FIELDS}
"""Owner of a patch: the index of an object in the scene, the hazard mark, or nothing."""
_SCENE_FIELDS = {
    "color": len(_COLORS),
    "texture": len(BACKGROUND_TEXTURES),
    "hazard": 2,
    "relation": len(_RELATIONS),
    "pattern": len(FUSION_CLASSES) + 1,
}
QUERY_FIELDS = (_OBJECT_FIELDS,) * MAX_OBJECTS + (_SCENE_FIELDS,)
FACT_QUERIES = len(QUERY_FIELDS)
"""Each of the first queries has the labels of one object, the next those of the background and the whole scene;
others have no labels."""
_NONE, _IGNORED = len(SHAPES), -100
_REACH = 6 / 64
"""A patch belongs to an object if the object's edge or center is within this distance of the patch center, in image
widths."""


def patch_facts(scene: Scene | PatternScene) -> np.ndarray:
    """Labels int64 [GRID², fields of PATCH_FIELDS], in the order of the patches."""
    labels = np.full((GRID * GRID, len(PATCH_FIELDS)), _IGNORED, dtype=np.int64)
    labels[:, 0] = MAX_OBJECTS + 1
    if isinstance(scene, PatternScene):
        return labels
    centers = (np.arange(GRID) + 0.5) / GRID
    x, y = (axis.ravel() for axis in np.meshgrid(centers, centers))
    nearest = np.ones(GRID * GRID)
    for rank, item in enumerate(scene.objects):
        distance = np.hypot(x - item.position[0], y - item.position[1]) / max(item.radius, _REACH)
        inside = distance < nearest
        nearest[inside] = distance[inside]
        labels[inside] = [rank, *_object_facts(scene, rank)]
    if scene.hazard is not None:
        mark = scene.hazard
        inside = np.hypot(x - mark.position[0], y - mark.position[1]) < 0.6 * mark.radius
        labels[inside] = [MAX_OBJECTS] + [_IGNORED] * len(_OBJECT_FIELDS)
    return labels


def query_facts(scene: Scene | PatternScene) -> np.ndarray:
    """Labels int64 [FACT_QUERIES, 5]: objects in the scene's order, then the background; −100 in unused columns."""
    labels = np.full((FACT_QUERIES, len(_SCENE_FIELDS)), _IGNORED, dtype=np.int64)
    labels[:MAX_OBJECTS, 0] = _NONE
    if isinstance(scene, PatternScene):
        labels[MAX_OBJECTS, 4] = FUSION_CLASSES.index(scene.pattern)
        return labels
    for rank in range(len(scene.objects)):
        labels[rank, : len(_OBJECT_FIELDS)] = _object_facts(scene, rank)
    background = scene.background
    place = _RELATIONS.index(relation(*scene.objects[:2])) if len(scene.objects) > 1 else _IGNORED
    labels[MAX_OBJECTS] = [
        _COLORS.index(background.color),
        BACKGROUND_TEXTURES.index(background.texture),
        int(scene.hazard is not None),
        place,
        len(FUSION_CLASSES),
    ]
    return labels


def _object_facts(scene: Scene, rank: int) -> list[int]:
    item = scene.objects[rank]
    return [
        SHAPES.index(item.shape),
        _COLORS.index(item.color),
        OBJECT_TEXTURES.index(item.texture),
        _SIZES.index(item.size),
    ]
