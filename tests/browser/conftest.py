"""The service, a stand-in in front of it, and the browser.

Owns starting and ending them. Every browser that a test was given is looked at when the test is over: it must have asked nobody but the
service, and its policy must have kept it from nothing (`Browser.check`).
"""

import base64
import http.client
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import urllib.parse

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "onnx" / "examples"
KEY = "a-key-of-the-test"

# Seconds until something that must come is given up.
PATIENCE = 60

# Runs before the page's own scripts: the policy tells of each thing that it keeps the page from.
WATCH_POLICY = "window.kept = []; addEventListener('securitypolicyviolation', (e) => kept.push(`${e.violatedDirective} ${e.blockedURI}`))"


class Service:
    """One `clipserve serve` with the model in the box, on a free port."""

    def __init__(self, *settings: str) -> None:
        command = [os.environ["CLIPSERVE"], "serve", "--model", str(ROOT / "onnx" / "emoji-clip"), "--listen", "127.0.0.1:0"]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--log-format", "json", "--set", "server.shutdown_delay=0ms"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = []
        for line in self.process.stdout:
            said.append(line)
            found = re.search(r'"address":"(127\.0\.0\.1:\d+)"', line)
            if found:
                self.host = found.group(1)
            if '"ready"' in line:
                break
        else:
            raise RuntimeError(f"the service did not start: {''.join(said)}")
        # The pipe must not fill up.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.url = f"http://{self.host}"

    def post(self, pictures: list[pathlib.Path], texts: list[str]) -> dict:
        """What `/similarity` answers."""
        body = {"images": [base64.b64encode(path.read_bytes()).decode() for path in pictures], "texts": texts}
        connection = http.client.HTTPConnection(self.host)
        connection.request("POST", "/similarity", json.dumps(body), {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


class StandIn:
    """In front of a service: passes all on, but for answers that a test has laid out for a path."""

    def __init__(self, service: Service) -> None:
        self.answers: dict[str, list] = {}
        self.asked: list[str] = []
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = urllib.parse.urlsplit(self.path).path
                stand_in.asked.append(path)
                laid_out = stand_in.answers.get(path)
                if laid_out:
                    status, headers, content = laid_out.pop(0)
                else:
                    connection = http.client.HTTPConnection(service.host)
                    connection.request(self.command, self.path, body or None, dict(self.headers))
                    answer = connection.getresponse()
                    status, content = answer.status, answer.read()
                    headers = {k: v for k, v in answer.getheaders() if k not in ("content-length", "connection", "date")}
                    connection.close()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = handle_one

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def refuse(self, path: str, status: int, code: str, message: str, times: int = 1, **headers: str) -> None:
        """The next `times` answers of `path`, in the service's own shape."""
        error = {"code": code, "message": message, "request_id": "id-of-the-test"}
        sent = {"content-type": "application/json", "x-request-id": "id-of-the-test"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.setdefault(path, []).extend([(status, sent, json.dumps({"error": error}).encode())] * times)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Browser:
    """A headless Chromium with nothing in it from an earlier test."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        # In a container there is neither a sandbox nor a large /dev/shm.
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Driver(shutil.which("chromedriver")))
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH_POLICY})
        self.size(1100, 900)
        self.origin = ""

    def open(self, url: str) -> "Browser":
        self.origin = url
        self.driver.get(f"{url}/")
        return self

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, is_dark: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def until(self, condition) -> object:
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: condition())

    def until_said(self, selector: str, words: str) -> str:
        self.until(lambda: words in self.text(selector))
        return self.text(selector)

    def choose(self, pictures: list[pathlib.Path]) -> None:
        self.one("#files").send_keys("\n".join(str(path) for path in pictures))
        self.until(lambda: len(self.all(".picture")) >= len(pictures))

    def type(self, texts: list[str]) -> None:
        self.one("#texts").send_keys("\n".join(texts))

    def compare(self) -> None:
        self.one("#compare").click()
        self.until_said("#status", "Compared")

    def numbers(self, selector: str) -> list[float]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((found) => Number(found.value))", selector)

    def asked(self) -> list[str]:
        """Every address that the page has asked for so far, by the browser's own log."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def check(self) -> None:
        asked = self.asked()
        assert asked, "the browser's log has no request"
        elsewhere = [url for url in asked if not url.startswith((f"{self.origin}/", f"blob:{self.origin}/", "data:"))]
        assert elsewhere == []
        assert self.run("return window.kept") == []
        # An answer that is no 200 is in the console as well; it is the page's own business.
        faults = [entry for entry in self.driver.get_log("browser") if "the server responded with a status" not in entry["message"]]
        assert faults == []


@pytest.fixture(scope="session")
def service():
    started = Service()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def keyed_service():
    started = Service(f"server.api_key={KEY}")
    yield started
    started.stop()


@pytest.fixture
def stand_in(service):
    started = StandIn(service)
    yield started
    started.stop()


@pytest.fixture
def unchecked_browser():
    started = Browser()
    yield started
    started.driver.quit()


@pytest.fixture
def browser(unchecked_browser):
    yield unchecked_browser
    unchecked_browser.check()
