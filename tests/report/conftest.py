"""A rich report to draw, with pictures made here and hostile strings, and a browser to look at it with."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from ironglass.core.findings import Bars, Curve, Finding, Gallery, Limit, Picture, Report, Section, Series, Table

EPS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'quoted'",
    "]]><!-- --> ]]>",
    "pipe | `code` **bold** [link](http://example.org) ![x](//example.org/x.png)",
    "two\nlines\r\nand\ttabs",
    "\u202etxt.exe\u2066 bidi \u05e9\u05dc\u05d5\u05dd",
    "bell\x07 null\x00 \ud800 surrogate",
    "$\\frac{broken {0} {% raw %} {{ 7*7 }}",
)


def embed(pixels: np.ndarray, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=88) if kind == "JPEG" else Image.fromarray(pixels).save(
        buffer, kind
    )
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo(seed: int, size: int = 224) -> np.ndarray:
    """A sky, a hill and an object, with grain: compresses like a photo."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    hue = rng.uniform(0, 1, 3)
    sky = np.stack([0.55 + 0.35 * hue[c] * (1 - y) for c in range(3)], -1)
    hill = 0.55 + 0.12 * np.sin(5 * x + 6 * hue[0]) + 0.05 * np.sin(19 * x + 3 * hue[1])
    ground = np.stack([0.25 + 0.2 * hue[2] + 0.15 * y, 0.35 + 0.2 * hue[0] * x, 0.2 + 0.1 * y], -1)
    scene = np.where((y > hill)[..., None], ground, sky)
    centre = rng.uniform(0.35, 0.65, 2)
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.03
    scene[disc] = 0.2 + 0.7 * rng.uniform(0, 1, 3)
    scene = scene + 0.035 * rng.standard_normal(scene.shape) + 0.05 * np.sin(60 * (x + y))[..., None]
    return (255 * scene.clip(0, 1)).astype(np.uint8)


def signed_map(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    value = sum(
        s * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.02)
        for a, b, s in zip(rng.uniform(0.2, 0.8, 5), rng.uniform(0.2, 0.8, 5), (1, 0.8, -0.7, 0.5, -0.9), strict=True)
    )
    return (255 * colormaps["coolwarm"](0.5 + 0.5 * value / np.abs(value).max())[..., :3]).astype(np.uint8)


def digit(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:8]
    ring = np.exp(-((np.hypot(x - 3.5, (y - 3.5) * 0.8) - 2.2) ** 2))
    return (255 * (ring * rng.uniform(0.6, 1, ring.shape)).clip(0, 1)).astype(np.uint8)


def line(label: str, ys: tuple[float, ...], role: str = "attack", half: float = 0.04) -> Series:
    low, high = tuple(max(0.0, y - half) for y in ys), tuple(min(1.0, y + half) for y in ys)
    return Series(label=label, x=EPS, y=ys, low=low, high=high, role=role)


def sections() -> tuple[Section, ...]:
    accuracy = Curve(
        id="accuracy",
        caption="Correct answers under the strongest attack found, against how far each pixel may move. "
        "Bands are 95% intervals; the hatched part is neither broken nor proven.",
        x_label="Largest change per pixel (eps, linf)",
        y_label="Correct answers",
        series=(
            line("Random noise of the same size", (0.982, 0.98, 0.978, 0.972, 0.966, 0.958), "control", 0.015),
            line("FGSM, one step", (0.982, 0.93, 0.86, 0.77, 0.70, 0.62)),
            line("PGD, 40 steps × 5 restarts", (0.982, 0.91, 0.80, 0.70, 0.60, 0.527)),
            line("Square, 5,000 queries (scores only)", (0.982, 0.915, 0.82, 0.73, 0.645, 0.57)),
            line("Proven by CROWN", (0.982, 0.86, 0.66, 0.50, 0.38, 0.31), "proof"),
        ),
    )
    queries = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 5000.0)
    rights = Curve(
        id="rights",
        caption="Attacks that succeed at eps 0.1 against queries spent, one line for each level of access.",
        x_label="Queries per sample",
        y_label="Attacks that succeed",
        log_x=True,
        series=(
            Series(label="Gradient: PGD", x=queries[:3], y=(0.31, 0.46, 0.473)),
            Series(label="Scores: Square", x=queries, y=(0.02, 0.05, 0.13, 0.24, 0.36, 0.41, 0.43)),
            Series(label="Labels: HopSkipJump", x=queries, y=(0.0, 0.01, 0.04, 0.11, 0.25, 0.36, 0.40)),
            Series(
                label="Labels: random noise",
                x=queries,
                y=(0.01, 0.015, 0.02, 0.022, 0.024, 0.024, 0.024),
                role="control",
            ),
        ),
    )
    proven = Bars(
        id="proven",
        caption="Share of the samples that are proven, broken, or open: neither a proof nor an attack was found.",
        labels=("eps 0.02", "eps 0.04", "eps 0.06", "eps 0.08", "eps 0.1"),
        parts=("proven", "open", "broken"),
        values=((0.86, 0.05, 0.09), (0.66, 0.14, 0.20), (0.50, 0.20, 0.30), (0.38, 0.22, 0.40), (0.31, 0.22, 0.47)),
    )
    balance = Bars(
        id="balance",
        caption="Samples of each class.",
        labels=tuple(str(k) for k in range(10)),
        parts=("share",),
        values=tuple((v,) for v in (0.101, 0.103, 0.097, 0.105, 0.099, 0.101, 0.101, 0.099, 0.096, 0.098)),
    )
    worst = Gallery(
        id="worst",
        caption="Four samples that PGD breaks at eps 0.1, and the change alone: ±0.1 spans the colours.",
        columns=("Sample", "Change", "Broken"),
        row_heads=("Smallest change", "Second", "Median", "Largest"),
        rows=tuple(
            (
                Picture(
                    data=embed(digit(k)), alt=f"Sample {k}: a digit, eight by eight pixels", line=f"read as {k}, 99.1%"
                ),
                Picture(data=embed(signed_map(k, 8)), alt=f"The change made to sample {k}", line="‖δ‖∞ = 0.1"),
                Picture(data=embed(digit(k + 9)), alt=f"Sample {k} after the change", line=f"read as {k + 3}, 87.4%"),
            )
            for k in range(4)
        ),
        scale="Per-pixel change, one scale for all: −0.1 (left) to +0.1 (right)",
        colormap="coolwarm",
    )
    maps = Gallery(
        id="maps",
        caption="Inputs over their attributions. Warm parts speak for the predicted class, cool parts against it.",
        columns=("Input", "Integrated gradients", "LRP", "Grad-CAM"),
        row_heads=("Clearest", "Least clear", "Wrong"),
        rows=tuple(
            (
                Picture(data=embed(photo(k), "JPEG"), alt=f"Photo {k}: a disc over a hill", line="tabby cat, 93.0%"),
                *(
                    Picture(
                        data=embed(signed_map(10 * k + m, 224), "JPEG"),
                        alt=f"{method} of photo {k}: the largest values lie on the disc",
                        line=f"sum {0.4 + 0.1 * m:+.2f}",
                    )
                    for m, method in enumerate(("Integrated gradients", "LRP", "Grad-CAM"))
                ),
            )
            for k in range(3)
        ),
        scale="Attribution, symmetric, one scale for each column: against (left), for (right)",
        colormap="coolwarm",
    )
    sanity = Table(
        id="sanity",
        caption="Whether the maps depend on what the model has learned: rank correlation with the map of the model "
        "whose weights are randomised, from the last layer down. Lower is better.",
        columns=("Method", "Last layer", "Half", "All layers", "95% interval", "Verdict"),
        rows=(
            ("Integrated gradients", "0.41", "0.18", "0.06", "0.02 to 0.10", "passes"),
            ("LRP", "0.47", "0.22", "0.09", "0.05 to 0.13", "passes"),
            ("Guided backpropagation", "0.93", "0.91", "0.88", "0.86 to 0.90", "does not depend on the weights"),
        ),
    )
    hostile = Table(
        id="hostile",
        caption="Names as they came: " + HOSTILE[0],
        columns=("File", HOSTILE[0], "Size"),
        rows=tuple((name, name, f"{k}.5 kB") for k, name in enumerate(HOSTILE)),
    )
    return (
        Section(
            id="data",
            title="What was audited?",
            sentence="digits-cnn is right on 98.2% of 497 held-out samples (95% interval 96.6 to 99.1%).",
            bars=(balance,),
        ),
        Section(
            id="evasion",
            title="How hard is it to break?",
            sentence="At 0.1 per pixel, PGD leaves 52.7% of the answers right; random noise of the same size leaves "
            "95.8%, so the weakness is one of direction and not of size.",
            curves=(accuracy,),
            galleries=(worst,),
        ),
        Section(
            id="rights",
            title="And with fewer rights?",
            sentence="Scores suffice after about 1,000 queries, labels alone after about 3,000.",
            curves=(rights,),
        ),
        Section(
            id="proof",
            title="What can be proven?",
            sentence="At eps 0.1, 31% is proven, 22% is open and 47% is broken.",
            bars=(proven,),
        ),
        Section(
            id="explain",
            title="What does it look at?",
            sentence="The maps change when the weights are randomised, except those of guided backpropagation.",
            galleries=(maps,),
            tables=(sanity,),
        ),
        Section(
            id='hostile" onload="alert(1)',
            title="Names <script>alert(1)</script>",
            sentence=" ".join(HOSTILE),
            tables=(hostile,),
            curves=(
                Curve(
                    id="<hostile>",
                    caption=HOSTILE[3],
                    x_label=HOSTILE[7],
                    y_label=HOSTILE[2],
                    y_unit="dB",
                    series=tuple(
                        Series(label=name, x=(1, 2, 3), y=(k, k + 2, 1.5 * k)) for k, name in enumerate(HOSTILE)
                    ),
                ),
            ),
        ),
    )


def findings() -> tuple[Finding, ...]:
    share: dict[str, Any] = {"unit": "share", "samples": 497}
    return (
        Finding(
            rule="data.accuracy",
            severity="ok",
            verdict="98.2% of the answers are right.",
            fix="",
            section="data",
            value=0.982,
            low=0.966,
            high=0.991,
            threshold="≥ 95%",
            better="higher",
            **share,
        ),
        Finding(
            rule="evasion.linf",
            severity="critical",
            verdict="A change of at most 0.1 per pixel breaks 46.3% of the correct answers.",
            fix="Train against PGD at eps 0.1, then audit again: ironglass defend adversarial_training.",
            section="evasion",
            value=0.463,
            low=0.419,
            high=0.507,
            threshold="> 40% is critical",
            method="pgd",
            better="lower",
            **share,
        ),
        Finding(
            rule="evasion.labels",
            severity="high",
            verdict="Someone who sees only labels breaks 40.0% with 5,000 queries each.",
            fix="Limit the queries that one client may make, and log near-duplicates.",
            section="rights",
            value=0.40,
            low=0.358,
            high=0.444,
            threshold="> 25% is high",
            method="hop_skip_jump",
            better="lower",
            **share,
        ),
        Finding(
            rule="evasion.queries",
            severity="medium",
            verdict="Half of the attacks that succeed from scores need fewer than 310 queries.",
            fix="Return labels only, or rounded scores.",
            section="rights",
            value=310,
            low=255,
            high=402,
            unit="queries",
            threshold="< 1,000 is medium",
            method="square",
            samples=214,
            better="higher",
        ),
        Finding(
            rule="certify.crown",
            severity="medium",
            verdict="31.0% of the answers are proven at eps 0.1; 22.0% are open.",
            fix="Train for certificates (crown_ibp_training), or try alpha_crown for a tighter bound.",
            section="proof",
            value=0.31,
            low=0.271,
            high=0.352,
            threshold="< 50% is medium",
            method="crown",
            better="higher",
            **share,
        ),
        Finding(
            rule="explain.randomization",
            severity="medium",
            verdict="Guided backpropagation maps a model with random weights nearly the same way (correlation 0.88).",
            fix="Do not use guided backpropagation to explain this model.",
            section="explain",
            value=0.88,
            low=0.86,
            high=0.90,
            threshold="> 0.5 is medium",
            method="parameter_randomization",
            samples=64,
            better="lower",
        ),
        Finding(
            rule="evasion.control",
            severity="ok",
            verdict="Random noise of the same size breaks 2.4% of the correct answers.",
            fix="",
            section="evasion",
            value=0.024,
            low=0.013,
            high=0.043,
            threshold="≤ 5%",
            method="random_noise",
            better="lower",
            **share,
        ),
        Finding(
            rule="evasion.masking",
            severity="low",
            verdict="One of five signs of gradient masking is present: FGSM beats PGD on 2 samples.",
            fix="Run auto_attack to be sure that gradients can be trusted.",
            section="evasion",
            value=1,
            threshold="≥ 1 is low",
            method="masking_alarms",
            samples=497,
        ),
        Finding(
            rule="explain.completeness",
            severity="ok",
            verdict="Integrated gradients add up to the logit difference within 0.4%.",
            fix="",
            section="explain",
            value=0.004,
            low=0.003,
            high=0.006,
            threshold="≤ 5%",
            method="completeness",
            better="lower",
            unit="share",
            samples=64,
        ),
        Finding(
            rule="leak.membership",
            severity="info",
            verdict="Membership was not measured, since no training data was given.",
            fix="Give the training data with --train.",
            section="nowhere",
        ),
        Finding(
            rule="model.pickle",
            severity="high",
            verdict="The weights were unpickled on request (--trust-pickle).",
            fix="Save the weights as safetensors.",
            section="data",
        ),
        Finding(
            rule="names|<b>",
            severity="low",
            verdict=HOSTILE[0] + " " + HOSTILE[3],
            fix=HOSTILE[5] + " " + HOSTILE[2],
            section='hostile" onload="alert(1)',
            value=0.5,
            unit=HOSTILE[0],
            threshold=HOSTILE[4],
            method=HOSTILE[1],
            samples=3,
        ),
    )


@pytest.fixture(scope="session")
def photos() -> list[tuple[str, str]]:
    """Twelve photos as data addresses, and a map for each."""
    return [(embed(photo(k), "JPEG"), embed(signed_map(k, 224), "JPEG")) for k in range(12)]


@pytest.fixture(scope="session")
def report() -> Report:
    return Report(
        title="digits-cnn: a change of at most 0.1 per pixel breaks 46.3% of the correct answers",
        model="digits-cnn",
        data="Optical digits, held-out part, 497 samples",
        created="2026-11-22 18:57 UTC",
        status="partial",
        facts=(
            ("Samples", "497"),
            ("Threat", "linf, eps 0.1, inputs in [0, 1]"),
            ("Parameters", "15,082"),
            ("Access", "training"),
            ("Seed", "0"),
            ("Device", "cpu, 2 threads"),
        ),
        findings=findings(),
        sections=sections(),
        limits=(
            Limit(what="milp", why="The time budget of 10 minutes was spent; 130 of 497 samples are open."),
            Limit(what="carlini_wagner", why="RuntimeError: the loss became NaN on sample 17.", failed=True),
            Limit(what="Fairness", why="No groups were given."),
            Limit(what=HOSTILE[0], why=HOSTILE[2] + HOSTILE[6]),
        ),
        reproduce=(
            (
                "Command",
                "ironglass audit net.py:make --data digits.py:test --norm linf --eps 0.1 --suite standard --seed 0",
            ),
            ("Versions", "ironglass 0.1.0, torch 2.13.0, Python 3.11.2"),
            ("Weights", "sha256 5f2b9c0e4d1a7768a1f3c2b4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708"),
            ("Data", "sha256 a1f3c2b4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7085f2b9c0e4d1a7768"),
        ),
        metrics={"accuracy": 0.982, "evasion.linf.success": 0.463, "certify.crown.verified": 0.31, "queries": 52184.0},
    )


ON_PIPES_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """Headless Chromium over its debugging pipe: pages, emulation, scripts from outside, pictures, requests seen."""

    def __init__(self, binary: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="ironglass-chromium-")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.profile}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_PIPES_3_AND_4, str(high_in), str(high_out), binary, *flags],
            pass_fds=(high_in, high_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(high_in)
        os.close(high_out)
        self.reader, self.writer = ours_in, ours_out
        self.buffer, self.last, self.requests, self.session = b"", 0, [], ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.reader)
        os.close(self.writer)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends one command and returns its answer; requests that the page makes meanwhile are noted."""
        self.last += 1
        message: dict[str, Any] = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            event = self._receive()
            if event.get("id") == self.last:
                if "error" in event:
                    raise RuntimeError(f"{method}: {event['error']}")
                return dict(event["result"])

    def _receive(self) -> dict[str, Any]:
        limit = time.monotonic() + 60
        while b"\0" not in self.buffer:
            if not select.select([self.reader], [], [], limit - time.monotonic())[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self.reader, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self.buffer += chunk
        raw, self.buffer = self.buffer.split(b"\0", 1)
        event: dict[str, Any] = json.loads(raw)
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        return event

    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 900, scheme: str = "light", media: str = ""
    ) -> None:
        """Opens a file or an address in a window of this width in CSS pixels, and waits until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.requests.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.02)
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => 1)")

    def evaluate(self, script: str) -> Any:
        """Returns the value of a script that is run in the page from outside."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(
            base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=False, printBackground=False)["data"])
        )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    binary = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not binary:
        pytest.skip("needs Chromium (chromium, chromium-browser or google-chrome on PATH)")
    browser = Browser(binary)
    yield browser
    browser.close()
