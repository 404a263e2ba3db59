"""Training: recipes and their stages, DMD, ODE regression, teacher forcing."""
