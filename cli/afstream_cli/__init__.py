"""The afstream command: thin commands over the engine."""
