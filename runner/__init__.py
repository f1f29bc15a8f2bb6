"""What run.py is made of: finding or setting up a ComfyUI, serving it, queueing workflows. Standard library
only."""
