"""A headless Chromium, spoken to through a pipe in the DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One page at a time. `events` are the messages that came unasked since `open`."""

    def __init__(self, folder):
        """Args: folder: an empty one, for its profile."""
        theirs, self._ours = os.pipe(), os.pipe()  # what it reads, and what it writes

        def pipes():  # it reads from descriptor 3 and writes to 4
            ends = os.dup(theirs[0]), os.dup(self._ours[1])
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs[0])
        os.close(self._ours[1])
        self._to, self._from = open(theirs[1], "wb", 0), open(self._ours[0], "rb")
        self._count, self._session, self.events = 0, None, []
        found = self._call("Target.getTargets")["targetInfos"]
        (page,) = [each["targetId"] for each in found if each["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def _message(self):
        """The next message."""
        content = bytearray()
        while True:
            piece = self._from.read1(1 << 16) if not self._rest else self._rest
            if not piece:
                raise RuntimeError("the browser has ended")
            head, end, self._rest = piece.partition(b"\0")
            content += head
            if end:
                return json.loads(content)

    _rest = b""

    def _call(self, method, **parameters):
        """The result of a method of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width=1000, height=800, dark=False):
        """Show a file, to its load event."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.events = []
        self._call("Page.navigate", url=Path(path).resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, expression):
        """The value of a JavaScript expression, awaited."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key, code):
        """Press and release a key: its name and its Windows code."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def shot(self):
        """The page as it looks, all of it, as PNG."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def requests(self):
        """The addresses asked for since `open`, without the page and what it holds itself."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == REQUEST]
        return [url for url in asked[1:] if not url.startswith("data:")]

    def complaints(self):
        """What the page wrote to its console, and errors, since `open`."""
        return [event["params"] for event in self.events if event["method"] in COMPLAINTS]

    def close(self):
        """End the browser."""
        self._session = None
        self._call("Browser.close")
        self._to.close()
        self._from.close()
        self._process.wait(20)


REQUEST = "Network.requestWillBeSent"
COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
