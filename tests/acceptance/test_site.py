"""The site: its reference is complete, and it asks nobody else for anything. `make docs` builds it."""

import importlib.util
import re
from pathlib import Path

import pytest

import k1s0_event_store
from k1s0_event_store import telemetry, testing, transfer, web

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "module", [k1s0_event_store, telemetry, testing, transfer, web], ids=lambda module: module.__name__
)
def test_every_public_name_stands_in_the_reference(module):
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference*.md"))
    shown = set(re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE))
    missing = {
        name
        for name in module.__all__
        if f"{module.__name__}.{name}" not in shown
        and getattr(getattr(module, name), "__module__", None) not in shown
    }
    assert missing == set()


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/a.js"></script>',
        "<link rel=stylesheet href=//fonts.example/a.css>",
        '<img alt="x" src = "http://pictures.example/a.png">',
        "<style>@import 'https://fonts.example/a.css'</style>",
        '<p style="background: url(https://pictures.example/a.png)">',
    ],
)
def test_what_a_page_would_load_from_outside_is_found(hooks, html):
    assert len(hooks.loaded_from_outside(html)) == 1


def test_a_link_loads_nothing(hooks):
    page = '<a href="https://zensical.org">x</a> <script src="../assets/a.js"></script> &lt;img src="https://x"&gt;'
    assert hooks.loaded_from_outside(page) == []
