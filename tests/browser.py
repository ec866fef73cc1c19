"""A headless Chromium for the tests of the report page: the system's `chromium` through selenium
where there is one with its driver, else the engine in the PyPI package PyQt6-WebEngine.

Both come as a context manager with `open`, `evaluate`, `press`, `drag` and `screenshot`.
"""

import base64
import contextlib
import json
import os
import shutil
import time
from pathlib import Path


def browser(*, width: int, height: int):
    """A window of so many CSS pixels."""
    chromium = os.environ.get("CHROME") or shutil.which("chromium")
    driver = shutil.which("chromedriver")
    kind = Selenium if chromium and driver else Qt
    return kind(width, height, chromium, driver)


def wait_for(condition, *, seconds: float = 120.0):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


class Selenium(contextlib.AbstractContextManager):
    def __init__(self, width, height, chromium, driver):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        # As root, and in containers with little shared memory, it would not start otherwise.
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
        self._command = self._driver.execute_cdp_cmd
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def __exit__(self, *_):
        self._driver.quit()

    def open(self, path: Path) -> None:
        self._driver.get(path.resolve().as_uri())

    def evaluate(self, script: str):
        """The value of a JavaScript expression."""
        return self._driver.execute_script(f"return ({script});")

    def press(self, key: str) -> None:
        """A key, by its name in selenium: "ARROW_LEFT", "TAB"."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self._driver).send_keys(getattr(Keys, key)).perform()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Moves the pressed mouse from a point of the window to another one."""
        for kind, (x, y), pressed in (
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            event = {"type": kind, "x": x, "y": y, "buttons": pressed, "clickCount": 1}
            self._command("Input.dispatchMouseEvent", event | {"button": "left"})

    def complaints(self) -> list[str]:
        """What the console has of errors and warnings."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def screenshot(self, path: Path) -> None:
        """The whole page, not only what the window shows."""
        picture = self._command(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        path.write_bytes(base64.b64decode(picture["data"]))


_application = None


class Qt(contextlib.AbstractContextManager):
    def __init__(self, width, height, *_):
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        # As root it would not start with a sandbox; there is no graphics processor to be had.
        os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"
        os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--disable-gpu"
        from PyQt6 import QtCore, QtGui, QtTest, QtWebEngineCore, QtWebEngineWidgets, QtWidgets

        self._core, self._gui, self._test = QtCore, QtGui, QtTest.QTest
        global _application  # one a process, which it must outlive
        _application = _application or QtWidgets.QApplication(["tests"])
        self._app = _application
        self._complaints = complaints = []

        class Page(QtWebEngineCore.QWebEnginePage):
            def javaScriptConsoleMessage(self, level, message, *_):  # noqa: N802 (Qt's name)
                if level != self.JavaScriptConsoleMessageLevel.InfoMessageLevel:
                    complaints.append(message)

        self._view = QtWebEngineWidgets.QWebEngineView()
        self._page = Page()
        self._page.settings().setAttribute(
            QtWebEngineCore.QWebEngineSettings.WebAttribute.ShowScrollBars, False
        )
        self._view.setPage(self._page)
        self._view.resize(width, height)
        self._view.show()

    def __exit__(self, *_):
        for each in (self._page, self._view):
            each.deleteLater()
            self._app.sendPostedEvents(each, self._core.QEvent.Type.DeferredDelete.value)

    def _wait(self, condition):
        def look():
            self._app.processEvents()
            return condition()

        return wait_for(look)

    def open(self, path: Path) -> None:
        loaded = []
        self._view.loadFinished.connect(loaded.append)
        self._view.load(self._core.QUrl.fromLocalFile(str(path.resolve())))
        self._wait(lambda: loaded)
        assert loaded[-1]

    def evaluate(self, script: str):
        found = []
        self._page.runJavaScript(f"JSON.stringify([{script}])", found.append)
        return json.loads(self._wait(lambda: found)[0])[0]

    def _target(self):
        """The widget that takes keys and the mouse."""
        return self._view.focusProxy() or self._view

    def press(self, key: str) -> None:
        name = "Key_" + key.removeprefix("ARROW_").title()
        self._test.keyClick(self._target(), getattr(self._core.Qt.Key, name))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        left = self._core.Qt.MouseButton.LeftButton
        start, end = (self._core.QPoint(*map(round, point)) for point in (start, end))
        none = self._core.Qt.KeyboardModifier.NoModifier
        self._test.mousePress(self._target(), left, none, start)
        self._test.mouseMove(self._target(), end)
        self._test.mouseRelease(self._target(), left, none, end)

    def complaints(self) -> list[str]:
        return self._complaints

    def screenshot(self, path: Path) -> None:
        size = self._view.size()
        height = round(self.evaluate("document.documentElement.scrollHeight"))
        self._view.resize(size.width(), height)
        self._test.qWait(500)  # until it is drawn
        self._view.grab().save(str(path))
        self._view.resize(size)
