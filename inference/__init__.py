"""Published models, loaded and run with numpy in and numpy out: no torch, no HTTP, no SQL."""
