"""Networks: building, training, pruning, measuring and publishing them. The only room that imports torch."""
