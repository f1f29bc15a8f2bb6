"""A ComfyUI in this process, with every pack that it has, which runs prompts as its queue does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from ..comfyui import pack_arguments
from ..server import failure, refusal


class Worker:
    """ComfyUI starts once, with the worker; then its own queue takes one prompt after the other."""

    def __init__(self, comfyui: str, arguments: list[str]):
        self.folder = tempfile.TemporaryDirectory(prefix="ddim-toolkit-", ignore_cleanup_errors=True)
        private = Path(self.folder.name)
        (private / "user").mkdir()
        # ComfyUI wraps these two again, and would close what nothing else holds.
        self.log = (private / "comfyui.log").open("w", encoding="utf-8")
        sys.stdout = sys.stderr = self.log
        sys.path.insert(0, comfyui)
        os.chdir(comfyui)
        command = ["main.py", *arguments, *pack_arguments(Path(comfyui), private)]
        command += ["--output-directory", str(private / "output"), "--user-directory", str(private / "user")]
        command += ["--temp-directory", str(private), "--database-url", "sqlite:///:memory:"]
        sys.argv = [*command, "--disable-api-nodes"]  # read while ComfyUI is imported
        import main

        loop, self.server, _ = main.start_comfyui()
        # What the queue tells its listeners, of which there are none, would pile up.
        listening = threading.Thread(
            target=loop.run_until_complete, args=(self.server.publish_loop(),), daemon=True
        )
        listening.start()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.files = set()

    def ready(self) -> str:
        return self.name

    def object_info(self, types: list[str]) -> str:
        """JSON of what GET /object_info answers, for those of `types` that this ComfyUI has."""
        import nodes

        known = nodes.NODE_CLASS_MAPPINGS
        return json.dumps({each: describe(each, known[each]) for each in types if each in known})

    def run(self, prompt: dict, workflow: dict | None, outputs: list[str]):
        """([(suffix, content)] of the pictures that the output nodes show, seconds, name of this worker).

        Raises RuntimeError with the host's reasons when it refuses the prompt or fails.
        """
        import execution

        prompt_id, begin = str(uuid.uuid4()), time.perf_counter()
        valid, error, accepted, node_errors = asyncio.run(
            execution.validate_prompt(prompt_id, prompt, outputs)
        )
        if not valid or len(accepted) < len(outputs):
            titled = {key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()}
            body = {"node_errors": node_errors} | ({"error": error} if error else {})
            raise RuntimeError(refusal(body, titled))
        # With a client the queue names the pictures of cached nodes too, as it does for the page.
        extra = {"client_id": "sweep"}
        if workflow is not None:
            extra["extra_pnginfo"] = {"workflow": workflow}
        queue = self.server.prompt_queue
        queue.put((0, prompt_id, prompt, extra, accepted, {}))
        while not (history := queue.get_history(prompt_id)):
            time.sleep(0.002)
        queue.wipe_history()
        entry = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(failure(entry))
        shown = [each for node_id in outputs for each in entry["outputs"].get(node_id, {}).get("images", ())]
        if not shown:
            raise RuntimeError("it showed no picture")
        return self.collect(shown), time.perf_counter() - begin, self.name

    def collect(self, shown: list[dict]):
        """The contents of image files; those of the run before are deleted, unless the queue's cache named
        them again."""
        import folder_paths

        paths = []
        for each in shown:
            root = folder_paths.get_directory_by_type(each["type"])
            paths.append(Path(root, each["subfolder"], each["filename"]))
        for path in self.files - set(paths):
            path.unlink(missing_ok=True)
        self.files = set(paths)
        return [(path.suffix, path.read_bytes()) for path in paths]


def describe(name: str, node) -> dict:
    """A node type as the host's route /object_info tells it, as far as a sweep needs it."""
    import nodes

    if hasattr(node, "GET_NODE_INFO_V1"):
        return node.GET_NODE_INFO_V1()
    inputs = node.INPUT_TYPES()
    return {
        "input": inputs,
        "input_order": {group: list(names) for group, names in inputs.items()},
        "output": list(node.RETURN_TYPES),
        "output_node": getattr(node, "OUTPUT_NODE", False),
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
    }
