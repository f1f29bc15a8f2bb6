"""DDIM Toolkit: the DDIM family (Song, Meng, Ermon 2021) as ComfyUI nodes."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    from .nodes import DDIMToolkit

    return DDIMToolkit()
