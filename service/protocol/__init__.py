"""The Open Inference Protocol v2, as Triton and KServe clients speak it over HTTP: bodies in, bodies out."""
