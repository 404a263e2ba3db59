"""Distribution matching: a student trained in its own rollouts against a teacher."""
