"""Parts that every trainer uses: loop, optimizers, processes, checkpoints, LoRA, health."""
