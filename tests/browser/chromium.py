"""A page in headless Chromium, by the DevTools protocol."""

import base64
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import websocket

ARGUMENTS = [
    "--headless=new", "--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run", "--no-sandbox",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--force-color-profile=srgb",
]
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}


class Fault(Exception):
    """What the page threw, or what the protocol refused."""


class Page:
    """One page. Network is off unless asked for; what it asks for, logs and throws is kept in `requests`, `told` and `thrown`."""

    def __init__(self, width=1400, height=1000, scale=1, dark=False, offline=True):
        self.folder = tempfile.mkdtemp(prefix="kvscope-chromium-")
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            raise SystemExit("no chromium: apt-get install chromium")
        self.process = subprocess.Popen(
            [program, *ARGUMENTS, f"--user-data-dir={self.folder}", f"--window-size={width},{height}", "about:blank"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )
        for line in self.process.stderr:
            found = re.search(r"ws://127\.0\.0\.1:(\d+)/", line)
            if found:
                break
        else:
            raise SystemExit("chromium did not start")
        self.numbers = itertools.count(1)
        self.requests, self.told, self.thrown = [], [], []
        address = found.string.strip().split()[-1]
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.size(width, height, scale)
        if dark:
            self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def size(self, width, height, scale=1):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def send(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise Fault(f"{method}: {answer['error']}")
                return answer["result"]
            self.event(answer)

    def event(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.thrown.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ["error", "warning", "assert"]:
            self.told.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ["error", "warning"]:
            self.told.append(params["entry"]["text"])

    def open(self, path, fragment=""):
        self.go(pathlib.Path(path).resolve().as_uri() + fragment)

    def go(self, url):
        # From elsewhere: another fragment of the same page would load nothing.
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, expression):
        """The value of an expression, which may be a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Fault(answer["exceptionDetails"].get("exception", {}).get("description", answer["exceptionDetails"]["text"]))
        return answer["result"].get("value")

    def wait(self, expression, seconds=20):
        """Until an expression is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(expression)
            if value:
                return value
            time.sleep(0.03)
        raise Fault(f"not within {seconds} s: {expression}")

    def settle(self):
        """After what was begun is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 60))))")

    def key(self, key, shift=False):
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0), "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind, x, y, **more):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y, count=1):
        for kind in ["mousePressed", "mouseReleased"]:
            self.mouse(kind, x, y, button="left", clickCount=count)

    def picture(self, path, whole=False):
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        try:
            self.session = None
            self.send("Browser.close")
        except Exception:  # noqa: BLE001 - it may be gone before it answers
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
