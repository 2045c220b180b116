"""
What MkDocs does not do by itself: pages that lie beside docs/, and links that GitHub follows.

The pages are written for both. On GitHub a link is a path in the repository; on the site,
where README.md is the first page, it is a page, or leads to the repository.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Files beside docs/ -> their pages.
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: ROOT / name for name, page in BESIDE.items()}
#: The folder of the site for pictures that lie beside docs/.
PICTURES = "pictures/"
LINK = re.compile(r"(?P<text>\[[^\]]*\])\((?P<path>[^)#\s:]+)(?P<anchor>#[^)]*)?\)")
#: Who searches for a line of the log or for a check wants these first.
FIRST = {"log.md": 8, "checks.md": 4, "troubleshooting.md": 4}
#: The name of a block, where it is that of a file, and the fence below it.
FILE = re.compile(
    r"^(?P<indent> *)<!-- (?P<name>(?:end of |top of )?[\w/.-]+\.\w+(?:, [\w ]+)?) -->\n"
    r" *```(?P<language>\w+)$",
    re.MULTILINE,
)
#: A heading such as "`RECHECK`: float, default ..." is its name alone in the table of contents.
SETTING = re.compile(r"[A-Z_]+(?=: )")


def on_files(files, config):
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, content=source.read_text()))
    for picture in pictures():
        files.append(File.generated(config, PICTURES + picture.name, abs_src_path=str(picture)))
    return files


def pictures():
    """Those beside docs/ that pages show."""
    found = set()
    for source in (*SOURCES.values(), *DOCS.glob("*.md")):
        for link in LINK.finditer(source.read_text()):
            target = target_of(link, source)
            if target.suffix == ".svg" and not target.is_relative_to(DOCS):
                found.add(target)
    return sorted(found)


def target_of(link, source):
    return Path(os.path.normpath(source.parent / link["path"]))


def on_page_markdown(markdown, page, config, files):
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri in FIRST:
        page.meta["search"] = {"boost": FIRST[page.file.src_uri]}
    source = SOURCES.get(page.file.src_uri, DOCS / page.file.src_uri)
    markdown = FILE.sub(r'\g<indent>```\g<language> title="\g<name>"', markdown)
    return LINK.sub(lambda link: as_on_site(link, source, config.repo_url), markdown)


def as_on_site(link, source, repository):
    target = target_of(link, source)
    path = target.relative_to(ROOT).as_posix()
    anchor = link["anchor"] or ""
    if path in BESIDE:
        return f"{link['text']}({BESIDE[path]}{anchor})"
    if target.is_relative_to(DOCS):
        return f"{link['text']}({target.relative_to(DOCS).as_posix()}{anchor})"
    if target.suffix == ".svg":
        return f"{link['text']}({PICTURES}{target.name})"
    if repository:
        return f"{link['text']}({repository.rstrip('/')}/blob/HEAD/{path}{anchor})"
    return link["text"][1:-1]


def on_page_content(html, page, config, files):
    shorten(page.toc)
    return html


def shorten(headings):
    for heading in headings:
        if setting := SETTING.match(heading.title):
            heading.title = setting[0]
        shorten(heading.children)
