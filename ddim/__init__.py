"""The engine: the mathematics of DDIM on tensors and Python floats. It needs torch and nothing of the
host."""
