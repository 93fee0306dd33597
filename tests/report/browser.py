"""Headless Chromium for the tests of the report: a WebDriver session with chromedriver, over plain HTTP."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
SECONDS = 60


def missing() -> str | None:
    """Why no Chromium can be started here, or None."""
    absent = [tool for tool in ("chromium", "chromedriver") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class BrowserError(RuntimeError):
    """What the driver said."""


class Browser:
    """One window. Use as a context manager; both processes and the profile are gone afterwards."""

    def __enter__(self) -> "Browser":
        self._folder = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)  # a profile of its own
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert self._driver.stdout is not None
            said = (re.search(r"started successfully on port (\d+)", line) for line in self._driver.stdout)
            port = next((match[1] for match in said if match), None)
            if port is None:
                raise BrowserError("chromedriver ended before it had started.")
            self._base = f"http://127.0.0.1:{port}/session"
            options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={self._folder.name}"]}
            capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            self._base += "/" + self._post("", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
            self._post("/url", {"url": "about:blank"})  # away from the new tab's page, whose own requests are not ours
            self.requests(), self.log("browser")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            self._send("DELETE", "", None)
        finally:
            self._stop()

    def _stop(self) -> None:
        self._driver.terminate()
        self._driver.wait(timeout=10)
        self._folder.cleanup()

    def _post(self, path: str, body: Any) -> Any:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            # no proxy: the driver listens at the loopback
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise BrowserError(json.load(error)["value"]["message"]) from None

    def open(self, path: Path) -> None:
        self._post("/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function in the page returns."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """A click as a user makes it: refused if something else lies on top."""
        element = next(iter(self._post("/element", {"using": "css selector", "value": selector}).values()))
        self._post(f"/element/{element}/click", {})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """The size of the window in CSS pixels, and the colours that the user prefers."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile)
        value = "dark" if dark else "light"
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What has been logged since the last call: "browser" (the console) or "performance" (events of the network)."""
        found: list[dict[str, Any]] = self._post("/se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, without those that the page's own policy refused (the console tells them)."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        failed = [e["params"] for e in events if e["method"] == "Network.loadingFailed"]
        refused = {p["requestId"] for p in failed if p.get("blockedReason") == "csp"}
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [p["request"]["url"] for p in sent if p["requestId"] not in refused]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.devtools("Page.printToPDF", preferCSSPageSize=False, printBackground=False)["data"])
