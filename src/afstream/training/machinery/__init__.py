"""What every kind of training stands on: loop, optimizers, processes, checkpoints, health."""
