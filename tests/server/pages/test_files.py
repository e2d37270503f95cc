"""The files of the pages: small, of this server alone, and asking for routes that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flaxen.api_description.bodies import Schemas
from flaxen.api_description.operations import make_operations
from flaxen.server.pages import routes
from tests.routing.fakes import make_proxy
from tests.server.clients import get, make_app

FOLDER = Path(routes.__file__).parent / "page"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = {path.name: path.read_text() for path in FILES if path.suffix == ".js"}
HOME = (FOLDER.parent / "home.html").read_text()


def test_files_need_no_key_and_are_sent_once() -> None:
    app = make_app(api_keys=("secret-key",))
    for path in FILES:
        answer = get(app, f"/page/{path.name}")
        assert (answer.status_code, answer.content) == (200, path.read_bytes())
        kind = {".js": "text/javascript", ".css": "text/css"}[path.suffix]
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        again = get(app, f"/page/{path.name}", **{"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_files_are_below_the_path_of_a_proxy() -> None:
    app = make_app(root_path="/llm")
    assert 'src="/llm/page/main.js"' in get(app, "/").text
    assert get(app, "/llm/page/main.js").text == SCRIPTS["main.js"]


def test_nothing_else_is_sent() -> None:
    app = make_app()
    for name in ("none.js", "../home.html", "..%2froutes.py", "", "a/b"):
        assert get(app, f"/page/{name}").status_code == 404


def test_the_page_is_small() -> None:
    assert sum(len(path.read_bytes()) for path in FILES) + len(HOME.encode()) < 60_000
    assert {name for name, text in SCRIPTS.items() if len(text.splitlines()) >= 300} == set()


def test_no_file_names_another_site() -> None:
    for path in FILES:
        found = re.findall(r"https?://[^\s\"'`]*|url\(|@import", path.read_text())
        assert found in ([], ["http://www.w3.org/2000/svg"]), path.name


def test_no_text_becomes_html_or_code() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    assert [name for name, text in SCRIPTS.items() if re.search(forbidden, text)] == []


def test_what_is_imported_and_looked_up_is_there() -> None:
    ids = set(re.findall(r'id="([\w-]+)"', HOME))
    assert 'src="{{ root }}/page/main.js"' in HOME
    for name, text in SCRIPTS.items():
        for names, file in re.findall(r'^import \{([^}]*)\} from "\./(.*)";$', text, re.M):
            exported = re.findall(
                r"^export .*?(?:function|const|class) ([\w$]+)", SCRIPTS[file], re.M
            )
            assert {each.strip() for each in names.split(",")} <= set(exported), (name, file)
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= ids, name


def test_every_field_has_a_label() -> None:
    inside = "".join(re.findall(r"<label[^>]*>.*?</label>", HOME, re.S))
    for kind, name in re.findall(r'<(input|select|textarea) id="(\w[\w-]*)"', HOME):
        assert f'<{kind} id="{name}"' in inside or f'for="{name}"' in HOME, name


def test_every_path_that_is_asked_for_is_a_route() -> None:
    api = SCRIPTS["api.js"]
    paths = dict(re.findall(r'^  (\w+): "(/[^"]*)",$', api, re.M))
    known: set[Any] = {path for _, path in make_operations(Schemas())}
    known |= {path for _, path in make_proxy().service.own_routes}
    assert len(paths) == 7
    assert set(paths.values()) <= known
    below = {each for text in SCRIPTS.values() for each in re.findall(r"`(\$\{PATHS[^`?]*)", text)}
    for path in below:
        full = re.sub(r"\$\{PATHS\.(\w+)\}", lambda match: paths[match[1]], path)
        assert re.sub(r"\$\{[^}]*\}", "{job_id}", full) in known, path
    elsewhere = {name for name, text in SCRIPTS.items() if re.search(r'["`]/[a-z]\w', text)}
    assert elsewhere == {"api.js"}  # no other file spells a path
