"""The HTTP API. It validates requests, remembers jobs and serves predictions; it never imports torch."""
