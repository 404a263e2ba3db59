"""Reading what a generated video shows, and scoring models by it."""
