"""MkDocs: what pages link to in the repository becomes pages of the site; nothing is loaded from outside.

So a link like `../src/k1s0_event_store/store.py` works where the repository is browsed and on the site,
and the site works without a network. What a page would load from elsewhere is a warning: --strict fails.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
REPOSITORY = "repository"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}
LOADING = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*?"
    r"\b(?:src|srcset|href|data)\s*=\s*[\"']?\s*((?:https?:)?//[^\s\"'>]+)",
    re.IGNORECASE,
)
LOADING_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\s\"')]+)", re.IGNORECASE)
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for everything outside docs/ that is linked to, also by such a page."""
    waiting = list(DOCS.glob("*.md"))
    while waiting:
        for target in linked_from(waiting.pop()):
            is_there = target.is_relative_to(DOCS) or files.get_file_from_path(uri(target))
            if target.exists() and not is_there:
                text, hidden = content(target), InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, uri(target), content=text, inclusion=hidden))
                waiting.append(target)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ into links to the pages made for them."""
    source = source_of(page.file.src_uri)
    if source.suffix != ".md":
        return markdown

    def moved(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        if source.is_relative_to(DOCS) and target.is_relative_to(DOCS):
            return link[1]
        return posixpath.relpath(uri(target), posixpath.dirname(page.file.src_uri))

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of everything that the page would load from outside."""
    for address in loaded_from_outside(output):
        log.warning("'%s' loads %s", page.file.src_uri, address)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """The same for style sheets."""
    for sheet in Path(config.site_dir).rglob("*.css"):
        for address in LOADING_STYLE.findall(sheet.read_text(encoding="utf-8")):
            log.warning("'%s' loads %s", sheet.name, address)


def loaded_from_outside(html: str) -> list[str]:
    """Addresses of scripts, styles, pictures and the like that are not the site's own."""
    return [*LOADING.findall(html), *LOADING_STYLE.findall(html)]


def linked_from(path: Path) -> Iterator[Path]:
    """What a page links to."""
    if path.suffix == ".md":
        for link in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
            yield (path.parent / link).resolve()
    elif path.is_dir():
        yield from listed(path)


def listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py"))


def uri(path: Path) -> str:
    """Where the page of a file stands on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = f"{REPOSITORY}/{path.relative_to(ROOT).as_posix()}"
    return name if path.suffix == ".md" else f"{name}.md"


def source_of(src_uri: str) -> Path:
    """The file that a page shows; the opposite of `uri`."""
    if not src_uri.startswith(f"{REPOSITORY}/"):
        return DOCS / src_uri
    path = ROOT / src_uri.removeprefix(f"{REPOSITORY}/")
    return path if path.exists() else path.with_suffix("")


def content(path: Path) -> str:
    """The page of a file: Markdown as it is, code in a block, a folder as a list. Not searched."""
    title = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.is_dir():
        body = "\n".join(f"- [{each.name}]({path.name}/{each.name}.md)" for each in listed(path))
    else:
        body = f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8')}````"
    return f"---\nsearch:\n  exclude: true\n---\n\n# {title}\n\n{body}\n"
