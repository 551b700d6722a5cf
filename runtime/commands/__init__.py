"""The commands of `flashvsr-trt`, one module each, imported when called."""
