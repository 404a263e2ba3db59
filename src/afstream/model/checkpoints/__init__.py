"""Checkpoints in the wild: folders, students and LoRA, read into one kind of backbone.

How they name their weights, their sizes and their files stands here and nowhere else.
"""

from afstream.model.checkpoints.assemble import BackboneSource
from afstream.model.checkpoints.folders import WanFolder, find_parts
from afstream.model.checkpoints.lora import Lora, merge_loras, read_lora, read_loras
from afstream.model.checkpoints.sizes import read_config, sizes_of
from afstream.model.checkpoints.students import Student, read_student

__all__ = [
    "BackboneSource",
    "Lora",
    "Student",
    "WanFolder",
    "find_parts",
    "merge_loras",
    "read_config",
    "read_lora",
    "read_loras",
    "read_student",
    "sizes_of",
]
