"""The explorer on the page of a report, in headless Chromium without network.

explorer.py KVSCOPE [KEEP]: the program, and a folder for screenshots. Prints what holds and what was measured; fails at the first fault.
"""

import importlib.util
import json
import math
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

from chromium import Page
from dumps import DIM, cosine, logit_gap, write_dump

LONG, SHORT = 8192, 300
KVSCOPE = pathlib.Path(sys.argv[1]).resolve()
KEEP = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None


def kvscope(folder, *args):
    done = subprocess.run([KVSCOPE, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def holds(what):
    print(f"  {what}", flush=True)


def picture(page, name):
    if KEEP:
        KEEP.mkdir(parents=True, exist_ok=True)
        page.picture(KEEP / name)


def ready(page):
    page.wait("document.getElementById('x') && !document.getElementById('x').hidden && document.getElementById('x-words').textContent")
    page.settle()


def text(page, element):
    return page.run(f"document.getElementById('{element}').textContent")


def choose(page, element, value):
    page.run(f"(() => {{ const e = document.getElementById('{element}'); e.value = {json.dumps(str(value))}; "
             "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change')); })()")
    page.settle()


def map_box(page, index=0):
    page.run(f"document.getElementById('x-map-{index}').scrollIntoView({{ block: 'center' }})")
    page.settle()
    return page.run(f"(() => {{ const b = document.getElementById('x-map-{index}').getBoundingClientRect(); return [b.left, b.top, b.width]; }})()")


def facts(page):
    """Lines of the readout at the pointer."""
    lines = page.run("[...document.getElementById('x-tip').children].map((e) => e.textContent)")
    return lines[0], dict(line.rsplit(": ", 1) for line in lines[1:] if ": " in line)


def number(words):
    return float(words.replace("−", "-"))


def address(page):
    time.sleep(0.4)
    words = page.run("location.hash")
    assert words.startswith("#x:"), words
    return dict(pair.split("=") for pair in words[3:].split("&"))


def check_quiet(page):
    others = [url for url in page.requests if not url.startswith(("data:", "file:", "about:"))]
    files = [url for url in page.requests if url.startswith("file:")]
    assert not others and all(url.split("#")[0].endswith(".html") for url in files), page.requests
    assert not page.told and not page.thrown, (page.told, page.thrown)


def check_values(page, html, found):
    """One token a cell, read off by the pointer and by keys; texts are those of the dump."""
    texts, numbers = found
    page.open(html, "#x:a=0,0,1,k&at=4096,1000,8")
    ready(page)
    left, top, width = map_box(page)
    side = page.run("(() => { const w = document.getElementById('x-map-0').clientWidth; return w - Math.min(Math.max(Math.round(w * 0.13), 44), 92) - 1; })()")
    gutter = width - side - 1
    x, y = left + gutter + side * 2.5 / 8, top + gutter + side * 3.5 / 8
    page.mouse("mouseMoved", x, y)
    page.settle()
    row, column = 1003, 4098
    head, values = facts(page)
    assert head == f"{row} “·w{row}” and {column} “·w{column}”", head
    for name, state in [("keys", "k"), ("keys before RoPE", "k_pre_rope"), ("values", "v")]:
        expected = cosine(numbers, state, LONG, 1, row, column)
        assert abs(number(values[f"Cosine, {name}"]) - expected) < 6e-5, (name, values, expected)
    gap = logit_gap(numbers, LONG, 1, row, column)
    assert abs(number(values["Logit gap, nats"]) - gap) < 6e-4, (values, gap)
    masses = [numbers["layers.0.attn_mass"][LONG + t] for t in [row, column]]
    shown = [float(word) for word in values["Attention mass"].split(" and ")]
    assert all(abs(a - b) <= 0.06 * b for a, b in zip(shown, masses)), (shown, masses)
    holds(f"at one token a cell the pointer reads what the dump holds: {values['Cosine, keys']} of tokens {row} and {column}")
    page.click(x, y)
    page.settle()
    assert not page.run("document.getElementById('x-pair').hidden")
    assert text(page, "x-row-text").count(f" w{row}") == 1 and address(page)["pin"] == f"{row},{column}"
    best = text(page, "x-nearest").split("“")[0]
    holds(f"a click pins the pair in its text; most alike: {best}")
    picture(page, "pair.png")


def check_highest(page, html, found):
    """A repeat far away shows in the coarsest cells."""
    page.open(html, "#x:a=0,0,0,k&kind=highest")
    ready(page)
    # Token 2777 repeats token 2277.
    words = page.run("""(async () => {
      const canvas = document.getElementById('x-map-0');
      await new Promise((done) => setTimeout(done, 600));
      const w = canvas.clientWidth, gutter = Math.min(Math.max(Math.round(w * 0.13), 44), 92), side = w - gutter - 1;
      const at = (t) => gutter + ((Math.floor(t / 16) * 16 + 8) / 8192) * side;
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / w, pixel = canvas.getContext('2d').getImageData(at(2777) * scale, at(2277) * scale, 1, 1).data;
      canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + at(2777), clientY: box.top + at(2277) }));
      await new Promise((done) => setTimeout(done, 100));
      return [[...pixel], document.getElementById('x-tip').textContent];
    })()""")
    pixel, tip = words
    assert "highest 1.000 of 2277 and 2777" in tip, tip
    assert pixel[0] > 240 and pixel[1] > 220 and pixel[2] < 80, pixel
    holds("a single repeat 500 tokens away is a bright cell of 16 x 16 pairs, and the readout names it")
    picture(page, "highest.png")


def check_sets(page, html, folder, dump, analysis):
    """Slots and sets at five thresholds, and at budgets, are those of `analyze` and `show`."""
    page.open(html, "#x:a=1,0,0,k")
    ready(page)
    grid = analysis["eps_grid"]
    sparsity = next(one for one in analysis["datasets"] if one["dataset"] == "plain")["sparsity"]
    for head in [0, 1]:
        choose(page, "x-head", head)
        for at in [0, 3, 6, 9, 13]:
            choose(page, "x-eps", grid[at])
            shown = json.loads(kvscope(folder, "--json", "show", dump, "--sample", "1", "--layer", "0", "--head", str(head), "--eps", str(grid[at])))
            compare(page, shown)
            kept = next(one for one in sparsity if one["kv_head"] == head)["kept_fraction"][at]
            assert abs(shown["counters"]["kept"] / SHORT - kept) < 1e-9
    holds("sets, slots and fates at five thresholds of two heads equal those of `analyze` and `show`")
    policies = page.run("[...document.getElementById('x-policy').options].map((e) => e.value)")[1:]
    assert policies == ["kvmerger", "evict", "h2o", "streaming", "restkv", "snapkv:window=32"], policies
    for policy in policies:
        choose(page, "x-policy", policy)
        for budget in ["0.8", "0.5", "0.37", "0.12"]:
            choose(page, "x-budget", budget)
            shown = json.loads(kvscope(folder, "--json", "show", dump, "--sample", "1", "--layer", "0", "--head", "1", "--policy", policy, "--kept-fraction", budget))
            compare(page, shown)
    # A window that does not fit the budget ranks otherwise: the page says who knows.
    choose(page, "x-budget", "0.05")
    command = text(page, "x-command")
    assert not page.run("document.getElementById('x-elsewhere').hidden") and command.startswith("kvscope show dumps/made "), command
    kvscope(folder, *shlex.split(command)[1:])
    choose(page, "x-policy", "kvmerger")
    page.run("document.getElementById('x-bridge').click()")
    for budget in ["0.5", "0.3"]:
        choose(page, "x-budget", budget)
        shown = json.loads(kvscope(folder, "--json", "show", dump, "--sample", "1", "--layer", "0", "--head", "1", "--policy", "kvmerger:bridge=true", "--kept-fraction", budget))
        compare(page, shown)
    holds("six policies at four budgets, and chains across protected tokens, equal `show`")
    picture(page, "sets.png")


def check_profiles(page, folder):
    """The budget slider gives every head the size and the policy that `tune --from` does, by every search; and tokens what `show` says."""
    dump, policies = "dumps/small", ["restkv", "h2o:first=4,last=8", "kvmerger:bridge=true"]
    write_dump(folder / dump, [SHORT], n_layers=6)
    kvscope(folder, "analyze", dump, "--budgets", "none", "--out", "reports/small")
    kvscope(folder, "tune", dump, *[word for spec in policies for word in ["--policy", spec]], "--refit", "none", "--hold-out", "0", "--late", "16",
            "--budget", "0.5", "--out", "tuned")
    [base] = (folder / "tuned").glob("*.profile.json")
    n_sizes = n_fates = 0
    for search in ["equal", "settings", "half", "hull", "lukv"]:
        kvscope(folder, "tune", "--from", str(base), "--search", search, "--budget", "0.5", "--out", f"tuned/{search}")
        [profile] = (folder / f"tuned/{search}").glob("*.profile.json")
        if search == "hull":
            profile.write_text(json.dumps({**json.loads(profile.read_text()), "beside": "window,share=0.25"}))
        html = folder / "reports/small/report.html"
        # One figure would leave a page that is there as it is.
        html.unlink(missing_ok=True)
        kvscope(folder, "report", "reports/small", str(profile), "--figure", "profile-thresholds")
        page.open(html, "#x:a=0,0,0,k&policy=profile-0")
        ready(page)
        page.run("document.getElementById('x-sizes').open = true")
        for budget in ["0.5", "0.8", "0.3", "0.123"]:
            choose(page, "x-budget-number", budget)
            assert text(page, "x-profile-command") == f"kvscope tune --from {shlex.quote(profile.name)} --budget {budget}"
            told = json.loads(kvscope(folder, "--json", "tune", "--from", str(profile), "--budget", budget, "--out", "tuned/again"))
            solved = json.loads((folder / told["profiles"][0]["profile"]).read_text())
            expected = [[str(head["layer"]), str(head["kv_head"]), head["kept_fraction"], solved["settings"][head["setting"]]] for head in solved["heads"]]
            rows = [line.split("\t") for line in text(page, "x-sizes-table").split("\n")[1:]]
            assert [[a, b, float(c), d] for a, b, c, d in rows] == expected, (search, budget, rows, expected)
            n_sizes += len(rows)
            for layer, head, size, _ in rows[:: 5]:
                choose(page, "x-layer", layer)
                choose(page, "x-head", head)
                assert f"Layer {layer}, head {head}: {float(size):.3f}" in text(page, "x-grid-readout"), text(page, "x-grid-readout")
                shown = json.loads(kvscope(folder, "--json", "show", dump, "--layer", layer, "--head", head, "--profile", str(profile), "--kept-fraction", budget))
                if page.run("document.getElementById('x-elsewhere').hidden"):
                    compare(page, shown)
                    n_fates += 1
    assert n_fates > 20, n_fates
    holds(f"{n_sizes} sizes and policies of heads equal those of `tune --from` by five searches, and fates in {n_fates} heads those of `show --profile`")
    picture(page, "profile.png")


def check_served(folder, name, found):
    """`report --serve`: the same page, whose numbers come when they are looked at; nothing else is asked for."""
    texts, numbers = found
    server = subprocess.Popen([KVSCOPE, "report", name, "--serve"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        page = Page(offline=False)
        try:
            page.go(url + "#x:a=0,0,1,k&at=4096,1000,8&pin=1003,4098")
            ready(page)
            told = page.run("[...document.querySelectorAll('#x-pair-facts div')].map((e) => [e.children[0].textContent, e.children[1].textContent])")
            expected = cosine(numbers, "k", LONG, 1, 1003, 4098)
            assert abs(number(dict(told)["Cosine, keys"]) - expected) < 6e-5, told
            parts = [one.removeprefix(url + "part/") for one in page.requests if one.startswith(url + "part/")]
            assert "0.0.1.k" in parts and not any(part.startswith("1.") or part.startswith("0.0.0.") for part in parts), parts
            choose(page, "x-sample", 1)
            page.wait("!document.getElementById('x-words').textContent.includes('8,192')")
            shown = page.run("[...document.querySelectorAll('#x-prose [data-t]')].map((e) => e.textContent)")
            assert len(shown) == SHORT and not text(page, "x-elsewhere").endswith("kvscope")
            assert all(one.startswith((url, "about:")) for one in page.requests), page.requests
            assert not page.told and not page.thrown, (page.told, page.thrown)
            server.send_signal(signal.SIGINT)
            assert server.wait(10) == 0
            choose(page, "x-head", 0)
            page.wait("document.getElementById('x-failed').textContent.includes('start it again')")
        finally:
            page.close()
    finally:
        server.kill()
    holds(f"--serve gives {len(parts)} parts of a view when they are looked at, asks for nothing else, ends by Ctrl-C, and the page says so")


def check_change(page, html, folder, dump, found):
    """What merging does to a pair: the set's key is the mean by Gaussian weights about its heaviest token."""
    texts, numbers = found
    shown = json.loads(kvscope(folder, "--json", "show", dump, "--sample", "1", "--layer", "0", "--head", "1", "--eps", "0.5"))
    slots = [one.get("slot") for one in shown["tokens"]]
    members = max(([t for t, other in enumerate(slots) if other == slot] for slot in set(slots) - {None}), key=len)
    mass = numbers["layers.0.attn_mass"][SHORT:]
    pivot = max(members, key=lambda t: (mass[t], -t))
    row = lambda t: numbers["layers.0.k"][(SHORT + t) * DIM:][:DIM]  # noqa: E731
    squares = [sum((a - b) ** 2 for a, b in zip(row(pivot), row(t))) for t in members]
    sigma = sum(math.sqrt(x) for x in squares) / (math.sqrt(2) * len(members))
    weights = [math.exp(-x / (2 * sigma**2)) for x in squares]
    key = [sum(w * row(t)[d] for w, t in zip(weights, members)) / sum(weights) for d in range(DIM)]
    other = next(t for t, one in enumerate(shown["tokens"]) if one["fate"] in ["kept", "recent", "heavy"])
    token = members[0]
    dot = sum(a * b for a, b in zip(key, row(other)))
    after = dot / math.sqrt(sum(a * a for a in key) * sum(b * b for b in row(other)))
    expected = after - cosine(numbers, "k", SHORT, 1, token, other)
    page.open(html, f"#x:a=1,0,1,change&eps=0.5&pin={token},{other}")
    ready(page)
    told = page.run("[...document.querySelectorAll('#x-pair-facts div')].map((e) => [e.children[0].textContent, e.children[1].textContent])")
    told = number(dict(told)["Change of the keys' cosine by merging"])
    assert abs(told - expected) < 6e-5, (told, expected)
    holds(f"merging {len(members)} tokens changes a pair's cosine by {told:+.4f}, as computed from the dump")


def compare(page, shown):
    words = text(page, "x-words")
    counters = shown["counters"]
    expected = f"{counters['seen']} tokens in {counters['kept']} slots"
    assert expected in words, (words, expected)
    if shown["sets"]:
        assert f"{shown['sets']} set" in words and f"of 2 to {shown['largest_set']} tokens" in words, (words, shown["sets"])
    if shown["lowest_joined"] is not None:
        told = number(words.split("joined ")[1].split(";")[0].rstrip("."))
        assert abs(told - shown["lowest_joined"]) < 1.1e-3, (words, shown["lowest_joined"])
    assert counters["evicted"] == 0 or f"{counters['evicted']} dropped" in words, words
    fates = page.run("""[...document.querySelectorAll('#x-prose [data-t]')].map((e) => {
      const fate = ['kept', 'recent', 'heavy', 'evicted'].find((name) => e.classList.contains('x-' + name));
      return fate || 'merged' + [0, 1, 2, 3].find((set) => e.classList.contains('x-set-' + set));
    })""")
    expected = [one["fate"] + (str(one["slot"] % 4) if one["fate"] == "merged" else "") for one in shown["tokens"]]
    assert fates == expected, next((t, a, b) for t, (a, b) in enumerate(zip(fates, expected)) if a != b)


def check_text(page, html, found):
    """Hostile texts stay texts."""
    texts = found[0]
    page.open(html, "#x:a=1,0,0,k&at=0,0,12")
    ready(page)
    shown = page.run("[...document.querySelectorAll('#x-prose [data-t]')].map((e) => e.textContent)")
    assert len(shown) == len(texts) and shown[0] == texts[0] == "<script>alert(1)</script>"
    for a, b in zip(shown, texts):
        assert not any(ord(c) < 32 or 0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in a), ascii(a)
        if b.isprintable() and "\u202e" not in b:
            assert a == b, (a, b)
    inner = page.run("[document.querySelectorAll('#explorer img, #explorer script, #explorer b, #explorer i').length, document.scripts.length]")
    parts = page.run("document.querySelectorAll('script[data-part]').length")
    assert inner == [0, parts + 1], inner
    assert "</script><b>set" in page.run("document.getElementById('x-sample').innerText")
    holds(f"{len(texts)} hostile texts stay text: tags, quotes, directions, control characters")


def check_keys(page, html):
    """All of it without a pointer."""
    page.open(html, "#x:a=0,0,0,k")
    ready(page)
    page.run("document.getElementById('x-state').focus()")
    page.key("Tab")
    assert page.run("document.activeElement.id + getComputedStyle(document.activeElement).outlineStyle") == "x-map-0solid"
    page.key("ArrowDown")
    page.settle()
    before = float(address(page).get("at", f"0,0,{LONG}").split(",")[2])
    for _ in range(4):
        page.key("+")
    page.settle()
    assert float(address(page)["at"].split(",")[2]) == before / 16
    page.key("1")
    page.key("ArrowRight")
    page.settle()
    assert "and" in text(page, "x-live") and "Cosine, keys" in text(page, "x-live"), text(page, "x-live")
    page.key("Enter")
    page.settle()
    pin = address(page)["pin"].split(",")
    page.key("ArrowRight", shift=True)
    page.key("d")
    page.key("Enter")
    page.settle()
    assert int(address(page)["pin"].split(",")[1]) == int(pin[1]) + 10
    page.key("Escape")
    page.settle()
    assert page.run("document.getElementById('x-pair').hidden")
    page.key("0")
    page.settle()
    assert "at" not in address(page)
    page.run("document.getElementById('x-grid').focus()")
    page.key("ArrowRight")
    page.settle()
    assert page.run("document.getElementById('x-head').value") == "1"
    seen = []
    page.run("document.getElementById('x-kind').focus()")
    for _ in range(40):
        page.key("Tab")
        seen.append(page.run("document.activeElement.id"))
        if seen[-1] == "x-prose":
            break
    for element in ["x-two", "x-policy", "x-eps", "x-grid", "x-sample", "x-state", "x-map-0", "x-in", "x-copy", "x-start", "x-prose"]:
        assert element in seen, (element, seen)
    holds("zoom, move, point, pin, heads and every control work by keys alone")


def check_pointer(page, html):
    """Wheel, drag, double click and two fingers, about the place that is pointed at."""
    page.open(html, "#x:a=0,0,0,k")
    ready(page)
    left, top, width = map_box(page)
    x, y = left + width * 0.5, top + width * 0.5
    at = lambda: [float(word) for word in address(page)["at"].split(",")]  # noqa: E731
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-180)
    page.settle()
    before = at()
    assert before[2] == LONG / 2, before
    page.click(x, y, 1)
    page.click(x, y, 2)
    page.settle()
    twice = at()
    assert twice[2] == LONG / 4, twice
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    for step in range(1, 5):
        page.mouse("mouseMoved", x - 10 * step, y - 5 * step, button="left", buttons=1)
    page.mouse("mouseReleased", x - 40, y - 20, button="left", clickCount=1)
    page.settle()
    moved = at()
    assert moved[0] > twice[0] and moved[1] > twice[1] and moved[2] == twice[2], (twice, moved)
    page.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    fingers = lambda gap: [{"x": x - gap, "y": y, "id": 0}, {"x": x + gap, "y": y, "id": 1}]  # noqa: E731
    page.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=fingers(50))
    for gap in [60, 80, 100]:
        page.send("Input.dispatchTouchEvent", type="touchMove", touchPoints=fingers(gap))
    page.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.settle()
    pinched = at()
    assert abs(pinched[2] - moved[2] / 2) < 0.02 * moved[2], (moved, pinched)
    page.send("Emulation.setTouchEmulationEnabled", enabled=False)
    assert "tokens" in text(page, "x-view") and "mean cosine" in text(page, "x-view")
    holds("wheel, double click, drag and two fingers move the map about the pointer")


def check_link(page, html):
    """The address restores what was seen."""
    fragment = "#x:a=1,0,1,v&b=0,0,0,k_pre_rope&at=40,60,20&pin=61,44&kind=highest&scale=0&policy=kvmerger&eps=0.6&budget=0.4&recent=0.1&heavy=0.05&text=0"
    page.open(html, fragment)
    ready(page)
    values = {name: page.run(f"document.getElementById('{name}').value") for name in
              ["x-sample", "x-head", "x-state", "x-sample-2", "x-state-2", "x-kind", "x-scale", "x-policy", "x-budget"]}
    assert values == {"x-sample": "1", "x-head": "1", "x-state": "v", "x-sample-2": "0", "x-state-2": "k_pre_rope", "x-kind": "highest",
                      "x-scale": "0", "x-policy": "kvmerger", "x-budget": "0.4"}, values
    left, top, width = map_box(page, 1)
    page.mouse("mouseWheel", left + width * 0.6, top + width * 0.6, deltaX=0, deltaY=-180)
    page.settle()
    again = address(page)
    assert again["at"].split(",")[2] == "10" and again["pin"] == "61,44" and again["a"] == "1,0,1,v", again
    picture(page, "two.png")
    holds("a link restores samples, heads, states, zoom, pin and rule; both maps zoom together")


def check_axe(page, html, name):
    axe = pathlib.Path(importlib.util.find_spec("axe_playwright_python").origin).parent / "axe.min.js"
    page.open(html, "#x:a=1,0,1,k&b=0,0,0,v&at=40,60,20&pin=61,44" if name != "a profile" else "#x:policy=profile-0")
    ready(page)
    page.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    page.run(axe.read_text() + "; undefined")
    found = page.run("axe.run(document).then((r) => r.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary]))")
    assert not found, json.dumps(found, indent=1)
    holds(f"axe-core finds nothing ({name})")


def measure(page, html):
    page.open(html, "#x:a=0,0,0,k")
    ready(page)
    paint = page.run("performance.getEntriesByType('paint').find((e) => e.name === 'first-contentful-paint').startTime")
    frames = """(async (kind) => {
      const select = document.getElementById('x-kind');
      select.value = kind;
      select.dispatchEvent(new Event('change'));
      await new Promise((done) => setTimeout(done, 500));
      const canvas = document.getElementById('x-map-0'), box = canvas.getBoundingClientRect();
      const frame = () => new Promise((done) => requestAnimationFrame(done));
      const start = performance.now();
      let last = start, worst = 0, n = 0;
      for (const delta of [-30, 30]) {
        for (let i = 0; i < 60; i++) {
          canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: delta, clientX: box.left + box.width * 0.6, clientY: box.top + box.width * 0.55, cancelable: true }));
          const now = await frame();
          worst = Math.max(worst, now - last);
          last = now;
          n++;
        }
      }
      return [n / ((last - start) / 1000), worst];
    })"""
    map_box(page)
    print(f"measured: first paint {paint:.0f} ms")
    for kind in ["mean", "highest"]:
        rate, worst = page.run(f"{frames}('{kind}')")
        print(f"measured: {rate:.0f} frames a second while zooming {LONG:,} tokens, {kind} of cells (longest frame {worst:.0f} ms)")
        assert rate > 8, "the map does not follow"


def main():
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        found = write_dump(folder / "dumps/made", [LONG, SHORT])
        kvscope(folder, "analyze", "dumps/made", "--budgets", "none", "--out", "reports/made")
        kvscope(folder, "report", "reports/made")
        html = folder / "reports/made/report.html"
        analysis = json.loads((folder / "reports/made/analysis.json").read_text())
        size = html.stat().st_size
        assert size <= 10_000_000, size
        print(f"page of {size / 1e6:.1f} MB after {time.monotonic() - start:.0f} s")
        page = Page()
        try:
            check_values(page, html, found[0])
            check_highest(page, html, found[0])
            check_sets(page, html, folder, "dumps/made", analysis)
            check_change(page, html, folder, "dumps/made", found[1])
            check_text(page, html, found[1])
            check_keys(page, html)
            check_pointer(page, html)
            check_link(page, html)
            check_profiles(page, folder)
            check_axe(page, folder / "reports/small/report.html", "a profile")
            check_axe(page, html, "light")
            measure(page, html)
            check_quiet(page)
            holds("no request, nothing on the console, with the network off")
        finally:
            page.close()
        check_served(folder, "reports/made", found[0])
        page = Page(dark=True, width=700)
        try:
            check_axe(page, html, "dark, narrow")
            check_quiet(page)
            picture(page, "dark.png")
        finally:
            page.close()
    print(f"all of the explorer holds, after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
