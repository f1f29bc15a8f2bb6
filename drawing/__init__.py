"""Pictures of figures, drawn with Pillow. Nothing of the host."""
