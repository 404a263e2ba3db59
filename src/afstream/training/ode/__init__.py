"""Causal initialisation by ODE regression: trajectories of the teacher, learned by their ends."""
