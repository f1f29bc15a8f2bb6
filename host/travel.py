"""SAMPLER and NOISE values that pickle in one process and open in another, wherever this pack lies there.

The host names a pack's modules by their folder, so a plain pickle names modules that no other process has.
Here a pickle names places in the pack (`.host.noise`) instead, and brings the few lines that find the pack:
among the loaded modules, else in the custom_nodes folders of the ComfyUI that opens it.
"""

import functools
from collections.abc import Callable
from dataclasses import fields, replace

# Runs in the process that opens a pickle, by itself and without the pack: the standard library and ComfyUI's
# own `folder_paths` are all there is.
FINDER = '''
import importlib, importlib.util, os, re, sys

def root(folder):
    """The file that a folder of custom_nodes loads as this pack, or None if it is another pack."""
    try:
        with open(os.path.join(folder, "pyproject.toml"), encoding="utf-8") as file:
            named = re.search(r'^name = "ddim-toolkit"', file.read(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return os.path.join(folder, "__init__.py") if named else None

def loaded():
    """The name under which the pack is loaded, or None."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "comfy_entrypoint" in vars(module) and file and root(os.path.dirname(file)):
            return name

def load():
    """Load the pack from custom_nodes, under the name that ComfyUI gives it; None if it is not there."""
    try:
        import folder_paths
    except ImportError:
        return None
    for parent in folder_paths.get_folder_paths("custom_nodes"):
        for folder in sorted(os.scandir(parent), key=lambda each: each.name) if os.path.isdir(parent) else ():
            file = root(folder.path)
            if file:
                name = folder.path.replace(".", "_x_")
                spec = importlib.util.spec_from_file_location(name, file)
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])
                return name

def find(place, name):
    """A function or class by its place: ".host.noise" in the pack, or "comfy_extras.x" of ComfyUI."""
    package = loaded() or load() if place.startswith(".") else None
    if place.startswith(".") and package is None:
        raise ModuleNotFoundError(
            "This SAMPLER or NOISE was made by DDIM Toolkit, which this ComfyUI does not have. Install the"
            " node pack ddim-toolkit in its custom_nodes folder."
        )
    return getattr(importlib.import_module(place, package), name)

def rebuild(place, name, state):
    """The value of that class with those fields."""
    made = object.__new__(find(place, name))
    made.__dict__.update(state)
    return made
'''


class _Finder:
    """One of FINDER's functions; it pickles as FINDER itself."""

    def __init__(self, name):
        self.name = name
        space = {}
        exec(FINDER, space)
        self.function = space[name]

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __reduce__(self):
        return eval, (f"(exec(finder), {self.name})[1]", {"finder": FINDER})


_FIND, _REBUILD = _Finder("find"), _Finder("rebuild")


class SamplerFunction:
    """A sampler function of this pack, which a SAMPLER holds: called like it, pickled by its place."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)

    def __call__(self, *arguments, **options) -> object:
        return self.__wrapped__(*arguments, **options)

    def __reduce__(self):
        return _FIND, (_place(self.__module__), self.__name__)


class Travels:
    """Base of the pack's dataclasses that pass through the graph, pickled by their place and their fields."""

    def __reduce__(self):
        state = {field.name: _packed(getattr(self, field.name)) for field in fields(self)}
        return _REBUILD, (_place(type(self).__module__), type(self).__name__, state)

    def __copy__(self):
        return replace(self)


class _Guest:
    """Stands for a field's value whose class lies in a module that the host names by its folder."""

    def __init__(self, value, place):
        self.value, self.place = value, place

    def __reduce__(self):
        return _REBUILD, (self.place, type(self.value).__name__, vars(self.value))


def _packed(value):
    if isinstance(value, tuple):
        return tuple(_packed(each) for each in value)
    place = _place(type(value).__module__)
    movable = place != type(value).__module__ and not isinstance(value, Travels)
    return _Guest(value, place) if movable else value


def _place(module):
    """A module's name, from the pack's folder (".host.noise") or ComfyUI's ("comfy_extras.nodes_x") on."""
    package = __name__.rpartition(".host.")[0]
    if module.startswith(package + "."):
        return module.removeprefix(package)
    extra = module.replace("\\", "/").rpartition("/comfy_extras/")
    return f"comfy_extras.{extra[2]}" if extra[1] else module
