"""Streams video through a bundle or an engine set. Imports neither torch nor onnx."""
