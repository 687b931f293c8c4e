"""What can be asked for: job specs and the catalogue of names and options."""
