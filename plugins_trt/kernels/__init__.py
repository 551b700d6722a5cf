"""Kernels of the ops, in Triton, compiled ahead of time: no Python and no compiler where they run."""
