"""The frames of seriatim-1, generated from client.proto by ``client/python/generate``."""
