"""Distribution matching distillation (DMD) in the student's own long rollouts."""
