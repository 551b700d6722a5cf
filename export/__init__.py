"""Checkpoints to ONNX bundles: networks in torch, the custom-op stubs, weights, training of the demo model."""
