"""LoRA and its kin: changes of weights, merged once, when a model is loaded.

A file is read (`file`), its names are undone (`names`), its strength is looked for (`settings`) and
agreed on (`strength`); `kinds` makes changes of weights of it, and `merge` adds them. A new kind is
a module beside `pair` and a row in `kinds`.
"""

from afstream.checkpoints.lora.file import is_lora, is_lora_folder
from afstream.checkpoints.lora.merge import Lora, merge_loras, merged_weight
from afstream.checkpoints.lora.read import read_lora, read_loras

__all__ = [
    "Lora",
    "is_lora",
    "is_lora_folder",
    "merge_loras",
    "merged_weight",
    "read_lora",
    "read_loras",
]
