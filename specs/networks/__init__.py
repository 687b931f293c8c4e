"""Options of networks: a file a family. `specs.architectures` lists them all."""
