"""Builds the site from the pages of `docs`, the docstrings of the code, and what npm and pip install.

    python docs/make_site.py build     into build/site/html; any broken link is an error
    python docs/make_site.py check     the same without npm: the pages and their links
    python docs/make_site.py serve     the same at http://127.0.0.1:8000, built again when called again
    python docs/make_site.py browse    build, then visit every page in headless Chromium

It takes `pip install -e ".[docs]"` and npm. Nothing that it serves comes from another host.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

DOCS = Path(__file__).parent
SITE = DOCS / "site"
sys.path.insert(0, str(SITE))
import pages  # noqa: E402
import vendor  # noqa: E402

BUILT = DOCS.parent / "build" / "site"
PORT = 8000


def build(*, whole: bool = True) -> Path:
    """The site's folder, built.

    Args:
        whole: With what npm installs; without it the pages alone are built, and their links checked.
    """
    sources, html = BUILT / "pages", BUILT / "html"
    pages.stage(sources)
    if whole:
        vendor.gather(vendor.packages(BUILT / "npm"), sources / "assets")
    config = load_config(
        str(SITE / "mkdocs.yml"),
        docs_dir=str(sources),
        site_dir=str(html),
        nav=pages.navigation(pages.texts()),
        strict=True,
    )
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs_build(config)
    return html


def server(html: Path, port: int) -> ThreadingHTTPServer:
    """Serves a folder to this machine alone."""
    handler = partial(_Handler, directory=str(html))
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


class _Handler(SimpleHTTPRequestHandler):
    """Files with the kinds that browsers insist on, and no log."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def paths(html: Path) -> list[str]:
    """The pages of the built site, as addresses below its root."""
    found = (x.parent.relative_to(html).as_posix() for x in sorted(html.rglob("index.html")))
    return ["" if x == "." else f"{x}/" for x in found]


def browse(html: Path, arguments: Sequence[str]) -> int:
    """Visit the site in headless Chromium (`site/browse.mjs`); its exit code."""
    with server(html, 0) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{served.server_address[1]}/"
        script = BUILT / "npm" / "browse.mjs"
        script.write_bytes((SITE / "browse.mjs").read_bytes())
        listed = BUILT / "pages.json"
        listed.write_text(json.dumps(paths(html)), "utf-8")
        command = ["node", script, address, listed, BUILT / "screens", *arguments]
        code = subprocess.run(command).returncode
        served.shutdown()
    return code


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    match [*arguments]:
        case ["build"]:
            print(build())
        case ["check"]:
            build(whole=False)
        case ["serve"]:
            with server(build(), PORT) as served:
                print(f"http://127.0.0.1:{PORT}")
                served.serve_forever()
        case ["browse", *rest]:
            return browse(build(), rest)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        sys.exit(main(sys.argv[1:]))
    except (Abort, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"the site was not built: {problem}")
