"""How things are written down: images, weights, graphs and manifests, as bytes and back."""
