"""A ComfyUI server as a subprocess, and its queue over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from .comfyui import ComfyUI, RunError, this_pack_alone

START_LIMIT = 300  # seconds; a first start on a slow disk takes a minute


class Server:
    """A headless server for the length of a `with` block; it leaves no trace outside `output`.

    `arguments` of its command line say what it loads: this pack alone, unless others are given. Raises
    RunError with the end of its log when it does not start.
    """

    def __init__(self, comfyui: ComfyUI, output: Path, arguments: list[str] | None = None):
        self.comfyui = comfyui
        self.output = output
        self.arguments = this_pack_alone(comfyui.folder) if arguments is None else arguments

    def __enter__(self) -> Server:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = tempfile.TemporaryDirectory(prefix="ddim-toolkit-", ignore_cleanup_errors=True)
        private = Path(self.folder.name)
        (private / "user").mkdir()
        self.log = private / "server.log"
        command = self.comfyui.command(
            "--port",
            str(self.port),
            "--disable-auto-launch",
            "--output-directory",
            str(self.output),
            "--user-directory",
            str(private / "user"),
            "--temp-directory",
            str(private),
            "--database-url",
            "sqlite:///:memory:",
            "--disable-api-nodes",
            *self.arguments,
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.comfyui.folder,
                env=self.comfyui.small_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def wait_until_up(self) -> None:
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise RunError(f"ComfyUI stopped while starting. The end of its log:\n{self.log_tail()}")
            try:
                self.get("/queue")
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise RunError(
            f"ComfyUI did not answer within {START_LIMIT} s. The end of its log:\n{self.log_tail()}"
        )

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.get_bytes(path))

    def queue(self, prompt: dict, workflow: dict | None = None) -> dict:
        """Run a prompt through the queue and wait for it: its history entry. Raises RunError with the host's
        reasons.

        `workflow` is the page's file, which goes into the saved pictures beside the prompt."""
        body = {"prompt": prompt}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        body = json.dumps(body).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise RunError(refusal(error.read(), prompt)) from None
        prompt_id = answer["prompt_id"]
        if answer["node_errors"]:  # it runs the outputs that it can; here all are wanted
            raise RunError(refusal(json.dumps(answer), prompt))
        while True:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                break
            if self.process.poll() is not None:
                raise RunError(f"ComfyUI stopped. The end of its log:\n{self.log_tail()}")
            time.sleep(0.05)
        entry = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise RunError(failure(entry))
        return entry

    def image(self, saved: dict) -> bytes:
        """The file behind an image entry of the history: {"filename", "subfolder", "type"}."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(saved))


def seconds(entry: dict) -> float:
    """How long a history entry took, by the server's own clock."""
    times = {event: data["timestamp"] for event, data in entry["status"]["messages"]}
    return (times["execution_success"] - times["execution_start"]) / 1000


def refusal(body: str | bytes | dict, prompt: dict) -> str:
    """What the queue said when it did not take all of a prompt, a line for each reason."""
    try:
        answer = body if isinstance(body, dict) else json.loads(body)
        lines = [
            (
                f"ComfyUI refused the prompt: {answer['error']['message']}"
                if "error" in answer
                else "ComfyUI refused a part of the prompt."
            )
        ]
        for node_id, node in dict(answer["node_errors"]).items():
            lines += [
                f"  {prompt[node_id]['_meta']['title']}: {each['message']}: {each['details']}"
                for each in node["errors"]
            ]
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"ComfyUI refused the prompt: {body!r}"


def failure(entry: dict) -> str:
    """What went wrong in a prompt that the queue took."""
    for event, data in entry["status"]["messages"]:
        if event == "execution_error":
            return (
                f"{data['node_type']} failed: {data['exception_type']}: {data['exception_message'].strip()}"
            )
        if event == "execution_interrupted":
            return f"Interrupted in {data['node_type']}."
    return f"ComfyUI reports: {entry['status']}"


def free_port(preferred: int = 0) -> int:
    """`preferred` if nothing listens there, else any free port of this machine."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise RunError("This machine has no free port on 127.0.0.1.")


def end_on_terminate() -> None:
    """Let a plain kill unwind `with` blocks, so that no server is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
