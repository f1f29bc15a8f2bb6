"""The adapter: the only folder that touches ComfyUI's own modules."""
