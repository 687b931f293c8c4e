"""Claim jobs, run each in a child process, publish what comes of it."""
