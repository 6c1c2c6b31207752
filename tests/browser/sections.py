"""The page of a folder that holds one of everything, in headless Chromium without network.

sections.py KVSCOPE [KEEP]: the program, and a folder for screenshots. Prints what holds; fails at the first fault.
"""

import importlib.util
import json
import pathlib
import tempfile
import time

from chromium import Page
from explorer import KEEP, check_quiet, holds, kvscope

MODEL = pathlib.Path(__file__).resolve().parent.parent / "fixtures/models/llama-gqa"
WORDS = ["the ring", " and then", " in a stone", " on the shore", " another thing", " reeds", ", again."]


def phrases(seed, n):
    return "".join(WORDS[(i * seed + i // 3) % len(WORDS)] for i in range(n))


def make(folder):
    """An analysis, a comparison of three, profiles of two budgets, an evaluation with answers, generations and a measurement, in one folder."""
    rows = [{"context": phrases(i + 2, 14), "dataset": ["even", "odd"][i % 2], "_id": f"row{i}"} for i in range(8)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{"context": phrases(i + 2, 12), "input": "", "answers": ["reeds"], "dataset": "ruler_vt", "_id": f"q{i}"} for i in range(3)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    model = ["--model", str(MODEL)]
    kvscope(folder, "capture", *model, "--prompts", "prompts.jsonl", "--out", "dumps/run")
    kvscope(folder, "analyze", "dumps/run", "--out", "reports/run")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({**row, "context": row["context"][::2]}) for row in rows))
    kvscope(folder, "capture", *model, "--prompts", "prompts.jsonl", "--raw", "--out", "dumps/other")
    kvscope(folder, "analyze", "dumps/other", "--out", "reports/other")
    kvscope(folder, "capture", *model, "--prompts", "prompts.jsonl", "--raw", "--layers", "0", "--out", "dumps/part")
    kvscope(folder, "analyze", "dumps/part", "--out", "reports/part")
    kvscope(folder, "analyze", "--compare", "reports/run", "reports/other", "reports/part", "--out", "reports/run")
    kvscope(folder, "tune", "dumps/run", "--budget", "0.6,0.4", "--out", "reports/run")
    kvscope(folder, "eval", *model, "--prompts", "asked.jsonl", "--task", "ruler", "--policy", "h2o", "--policy", "kvmerger:bridge=true",
            "--budget", "0.5,0.3", "--raw", "--out", "reports/run")
    run = folder / "reports/run"
    for name, policy in [("first.json", "h2o"), ("second.json", "kvmerger:bridge=true")]:
        (run / name).write_text(kvscope(folder, "--json", "generate", *model, "--raw", "--prompt", phrases(3, 12), "--policy", policy,
                                        "--kept-fraction", "0.3", "--max-new-tokens", "8", "--compare"))
    kvscope(folder, "bench", *model, "--contexts", "32,64", "--max-new-tokens", "4", "--policy", "h2o", "--repeats", "1", "--out",
            "reports/run/speed.json")
    kvscope(folder, "verify", "reports/run")
    kvscope(folder, "inspect", "reports/run")
    kvscope(folder, "report", "reports/run")
    return run


def rows_of(page, table):
    """Texts of the rows that are shown of the table with that caption's id."""
    return page.run(f"[...document.getElementById('{table}').closest('table').tBodies[0].rows].filter((r) => !r.hidden)"
                    ".map((r) => [...r.cells].map((c) => c.textContent))")


def check_sections(page, html):
    page.open(html)
    expected = "summary explorer persistence profile evaluation generation speed comparison figures datasets heads provenance"
    found = page.run("[...document.querySelectorAll('main > section')].map((e) => e.id)")
    assert found == expected.split(), found
    holds(f"a section for each of {len(found)} things")


def check_tables(page, html, run):
    """A long table is filtered by words and numbers, and sorted."""
    analysis = json.loads((run / "analysis.json").read_text())
    heads = analysis["persistence"]["evidence"]["heads"]
    page.open(html)
    assert len(rows_of(page, "persistence-caption")) == len(heads)
    table = "document.getElementById('texts-ruler-0').closest('table')"
    values = page.run(f"[...{table}.tBodies[0].rows].map((r) => Number(r.cells[3].dataset.v))")
    page.run(f"{table}.tHead.rows[0].cells[3].querySelector('button').click()")
    assert page.run(f"[...{table}.tBodies[0].rows].map((r) => Number(r.cells[3].dataset.v))") == sorted(values)
    # The evaluation's table of policies has rows enough for a filter.
    page.run("""(() => { const e = document.getElementById('policies-caption').closest('.scroll').previousElementSibling;
      if (e && e.matches('.filter')) { const i = e.querySelector('input'); i.value = 'data=ruler_vt budget<=30'; i.dispatchEvent(new Event('input')); } })()""")
    shown = rows_of(page, "policies-caption")
    if page.run("document.getElementById('policies-caption').closest('.scroll').previousElementSibling.matches('.filter')"):
        assert shown and all(row[1] == "ruler_vt" and row[3] == "30" for row in shown), shown
    holds("tables are sorted and filtered")


def check_profiles(page, html, run):
    """The chosen profile alone is shown; a head's cell, its words and its curve are those of the file."""
    files = sorted(run.glob("*.profile.json"))
    assert len(files) == 2
    page.open(html)
    for at, file in enumerate(files):
        profile = json.loads(file.read_text())
        page.run(f"(() => {{ const e = document.querySelector('#profile-variants select'); e.value = {at}; e.dispatchEvent(new Event('change')); }})()")
        page.settle()
        shown = page.run("[...document.querySelectorAll('#profile-variants > .variant')].map((e) => e.getClientRects().length > 0)")
        assert shown == [one == at for one in range(2)], shown
        grid = f"document.getElementById('profile-{at}-grid').closest('.heads')"
        page.run(f"{grid}.querySelector('td[tabindex=\"0\"]').focus()")
        page.key("End")
        page.key("ArrowDown")
        page.settle()
        head = profile["heads"][-1]
        words = page.run(f"{grid}.querySelector('.head p').textContent")
        expected = f"Layer {head['layer']}, KV head {head['kv_head']}: keeps {100 * head['kept_fraction']:.1f} % by "
        assert words.startswith(expected) and "Error with" in words, words
        chosen = page.run(f"[...{grid}.querySelectorAll('[aria-selected]')].map((e) => [e.tabIndex, e === document.activeElement])")
        assert chosen == [[0, True]], chosen
        n_lines = page.run(f"{grid}.querySelectorAll('.curve polyline').length")
        known = [s for s in range(len(profile["settings"])) if any((p["errors"][s] or 0) > 0 for p in head["curve"])]
        assert n_lines == len(known), (n_lines, known)
        data = page.run(f"JSON.parse({grid}.dataset.profile)")
        assert data["budget"] == profile["target_kept_fraction"] and len(data["curves"][-1]) == len(head["curve"])
        errors = [p["errors"] for p in head["curve"]]
        assert all(abs((a or 0) - (b or 0)) <= 1e-6 * (a or 1) for x, y in zip(errors, data["curves"][-1]) for a, b in zip(x, y[3])), "curve"
    command = page.run("[...document.querySelectorAll('pre.command')].map((e) => e.textContent)")
    assert all(line.startswith("kvscope tune --from ") and "/" not in line for line in command), command
    holds("of two profiles the chosen one is shown; its heads' sizes and curves are the file's, by keys alone")


def check_generation(page, html, run):
    """Both texts as they were saved, token by token, with the level of each divergence."""
    page.open(html)
    for name in ["first.json", "second.json"]:
        saved = json.loads((run / name).read_text())
        prose = f"[...[...document.querySelectorAll('#generation-variants > .variant')].find((e) => e.dataset.name.startsWith('{name}')).querySelectorAll('.beside .words')]"
        full, compressed = page.run(f"{prose}.map((e) => e.textContent)")
        assert full == "".join(saved["full"]["token_texts"]) and compressed == "".join(saved["token_texts"]), (full, compressed)
        levels = page.run(f"[...{prose}[0].querySelectorAll('span')].map((e) => Number(e.className.slice(3)))")
        assert levels == [sum(kl >= edge for edge in [1e-3, 1e-2, 0.1, 0.5, 1]) for kl in saved["comparison"]["kl"]], levels
        part = saved["tokens_until_first_difference"]
        marks = page.run(f"{prose}.map((e) => [...e.querySelectorAll('mark')].map((m) => m.textContent))")
        expected = [[texts[part]] if part is not None and part < len(texts) else [] for texts in [saved["full"]["token_texts"], saved["token_texts"]]]
        assert marks == expected, (marks, expected)
    holds("generated texts stand side by side, token by token, marked where they part")


def check_evaluation(page, html, run):
    """Scores of every text at each budget, and the answers, are those of the rows."""
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    page.open(html)
    for at, budget in enumerate([0.3, 0.5]):
        titles = page.run(f"[...document.getElementById('texts-ruler-{at}').closest('table').tHead.rows[0].cells].map((c) => c.textContent)")
        for row in rows_of(page, f"texts-ruler-{at}"):
            for policy, shown in list(zip(titles, row))[3:]:
                found = next(r for r in rows if r["_id"] == row[1] and r["policy"] == policy and r["budget"] == (None if policy == "full" else budget))
                assert shown == f"{found['metrics']['score']:.2f}", (row, policy, found["metrics"])
    answers = rows_of(page, "answers-0")
    expected = [r for r in rows if r["_id"] == "q0"]
    whole = next(r["pred"] for r in expected if r["policy"] == "full")
    for shown, row in zip(answers, expected):
        same = row["policy"] != "full" and row["pred"] == whole
        assert shown[0] == row["policy"] and shown[3] == ("as the full cache" if same else row["pred"].strip()), (shown, row)
    holds(f"scores of {len(rows)} rows and their answers are those of the file")


def check_comparison(page, html, run):
    """The runs' table and figure have the numbers of the file, and what has no counterpart is told."""
    saved = json.loads((run / "comparison.json").read_text())
    page.open(html)
    shown = rows_of(page, "comparison-0-runs")
    assert [row[0] for row in shown] == [one["name"] for one in saved["runs"]] == ["run", "other", "part"], shown
    for row, one in zip(shown, saved["runs"]):
        sets = next(figure["mean"] for figure in one["figures"] if figure["metric"] == "set_ratio")
        assert row[5].startswith(f"{sets['estimate']:.3f}"), (row, sets)
    panels = page.run("[...document.querySelectorAll('#figure-sets-by-depth svg text')].map((e) => e.textContent.trim())")
    assert all(one["name"] in panels for one in saved["runs"]), panels
    text = page.run("document.getElementById('comparison').textContent")
    assert "no head of one is compared with a head of the other" in text
    assert page.run("document.querySelectorAll('#comparison .heads').length") == 1
    holds("three runs are compared, those of other heads by what they have in common")


def check_axe(page, html, name):
    axe = pathlib.Path(importlib.util.find_spec("axe_playwright_python").origin).parent / "axe.min.js"
    page.open(html)
    page.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    page.run("document.querySelectorAll('.variant').forEach((e) => e.classList.remove('out'))")
    page.settle()
    page.run(axe.read_text() + "; undefined")
    found = page.run("axe.run(document).then((r) => r.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary]))")
    assert not found, json.dumps(found, indent=1)
    wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels too wide"
    holds(f"axe-core finds nothing, and nothing is wider than the page ({name})")


def picture(page, name):
    if KEEP:
        KEEP.mkdir(parents=True, exist_ok=True)
        page.picture(KEEP / name, whole=True)


def main():
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = make(pathlib.Path(folder))
        html = run / "report.html"
        print(f"a folder with one of everything after {time.monotonic() - start:.0f} s")
        page = Page()
        try:
            check_sections(page, html)
            check_tables(page, html, run)
            check_profiles(page, html, run)
            check_generation(page, html, run)
            check_evaluation(page, html, run)
            check_comparison(page, html, run)
            check_axe(page, html, "light")
            picture(page, "sections.png")
            check_quiet(page)
            holds("no request, nothing on the console, with the network off")
        finally:
            page.close()
        page = Page(dark=True, width=700)
        try:
            check_axe(page, html, "dark, narrow")
            check_quiet(page)
        finally:
            page.close()
    print(f"all of the sections hold, after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
