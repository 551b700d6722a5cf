"""Custom ops of the domain `flashvsr`: their specification, kernels and TensorRT plug-ins."""
