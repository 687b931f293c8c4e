"""Servers that others offer, each around the same network in PyTorch, as short as their own examples."""
