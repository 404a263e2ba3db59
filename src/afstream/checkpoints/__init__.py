"""Checkpoints in the wild: folders, students and LoRA, read into one kind of backbone.

How they name their weights, their sizes and their files stands here and nowhere else.
"""

from afstream.checkpoints.backbone import BackboneSource
from afstream.checkpoints.layouts import WanFolder
from afstream.checkpoints.lora import Lora, merge_loras, read_lora, read_loras
from afstream.checkpoints.manifest import Manifest, read_manifest
from afstream.checkpoints.parts import Parts, resolve
from afstream.checkpoints.sizes import read_config, sizes_of
from afstream.checkpoints.students import Student, read_student

__all__ = [
    "BackboneSource",
    "Lora",
    "Manifest",
    "Parts",
    "Student",
    "WanFolder",
    "merge_loras",
    "read_config",
    "read_lora",
    "read_loras",
    "read_manifest",
    "read_student",
    "resolve",
    "sizes_of",
]
