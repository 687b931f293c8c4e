"""What is remembered: tables, the job queue, metrics, events, models, and artifacts on disk."""
