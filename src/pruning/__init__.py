"""Gradual pruning with drop and grow: schedule, layer budgets, mask update, and the pruner that applies them."""
