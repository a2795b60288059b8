"""Costs of a step: its model FLOPs, and the hardware that computes them."""
