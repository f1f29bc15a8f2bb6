"""ComfyUI and this checkout inside one Python process, for tests and measurements."""

import importlib
import importlib.util
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
NAME = "ddim_toolkit"


def start(comfyui, *arguments):
    """Put ComfyUI first on the path, let it read `arguments` (such as --cpu), and load the checkout as
    `ddim_toolkit`.

    ComfyUI reads its command line while it is imported, so this comes before anything else of comfy.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    sys.path.insert(0, str(comfyui))
    given, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = given
    spec = importlib.util.spec_from_file_location(
        NAME, CHECKOUT / "__init__.py", submodule_search_locations=[str(CHECKOUT)]
    )
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]
