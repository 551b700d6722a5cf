"""Bundles to TensorRT engine sets, one per VRAM tier."""
