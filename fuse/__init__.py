"""Fusion: experts, hierarchical gate and pseudo-token projector, as plain modules on tensors."""
