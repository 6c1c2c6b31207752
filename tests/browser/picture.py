"""The picture of the page in the README: picture.py PAGE OUT.png, of the demo's page. Needs headless Chromium, and the packages of
requirements.txt.
"""

import sys

from chromium import Page

# Some words of a story, a pair of them pointed at.
VIEW = "#x:a=0,15,0,k&at=62,62,30&scale=0"
ROW, COLUMN = 81, 71


def main():
    html, out = sys.argv[1:]
    page = Page(width=1280, height=1640)
    try:
        page.open(html, VIEW)
        page.wait("document.getElementById('x-words').textContent")
        page.run("document.getElementById('x').scrollIntoView()")
        page.settle()
        x, y = page.run(f"""(() => {{
          const canvas = document.getElementById('x-map-0'), box = canvas.getBoundingClientRect();
          const gutter = Math.min(Math.max(Math.round(box.width * 0.13), 44), 92), cell = (box.width - gutter - 1) / 30;
          return [box.left + gutter + ({COLUMN} + 0.5 - 62) * cell, box.top + gutter + ({ROW} + 0.5 - 62) * cell];
        }})()""")
        page.mouse("mouseMoved", x, y)
        page.run("new Promise((done) => setTimeout(done, 500))")
        page.picture(out)
    finally:
        page.close()


if __name__ == "__main__":
    main()
