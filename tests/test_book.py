"""The book of a small made-up run: what its pages say, and what they never load."""

import base64
import html.parser
import json
import re
import urllib.parse
from pathlib import Path

import nbformat
import pytest

from prefill_router import book, project
from prefill_router.errors import InputError

HOSTILE = "<script>alert('owned')</script> $$x^2$$ **bold** {math}`y` ```{note} z```"
ESCAPED = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
SENTENCE = "<p>Routing closes a gap<span>&#46;</span></p>"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADU"
    "lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
NOTEBOOKS = sorted(path.stem for path in (project.project_root() / "notebooks").glob("*.ipynb"))


def executed_cell(*outputs):
    return nbformat.v4.new_code_cell("show()", execution_count=1, outputs=list(outputs))


def glued(name, kind, value):
    mark = {"scrapbook": {"name": name, "mime_prefix": ""}}
    return nbformat.v4.new_output("display_data", data={kind: value}, metadata=mark)


def write_run(run_dir: Path, sentence_kind: str = "text/html") -> Path:
    (run_dir / "notebooks").mkdir(parents=True)
    for name in NOTEBOOKS:
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        notebook.cells = [nbformat.v4.new_markdown_cell(f"# {name}\n\nA formula: $a^2$.")]
        notebook.cells.append(
            executed_cell(
                nbformat.v4.new_output("stream", name="stdout", text=f"made by this run {HOSTILE}"),
                nbformat.v4.new_output(
                    "display_data",
                    data={"text/html": f"<table><tr><td>{ESCAPED}</td></tr></table>"},
                ),
            )
        )
        if name.startswith("06"):
            table = f"<table><tr><td>{ESCAPED}</td></tr></table>"
            figure = executed_cell(glued("headline_figure", "image/png", PIXEL))
            figure.metadata["mystnb"] = {
                "image": {"alt": "Accuracy against cost."},
                "figure": {"caption": "The headline.", "name": "fig-routers"},
            }
            notebook.cells += [
                executed_cell(glued("headline_sentence", sentence_kind, SENTENCE)),
                executed_cell(glued("headline_table", "text/html", table)),
                figure,
            ]
        nbformat.write(notebook, run_dir / "notebooks" / f"{name}.ipynb")
    return run_dir


LOADING_TAGS = {"script", "img", "iframe", "source", "embed", "audio", "video"}


class Page(html.parser.HTMLParser):
    """Collect a page's loads, links, scripts, images and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.loads, self.links, self.scripts, self.images, self.text = [], [], [], [], []
        self.within = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.within = tag
        if tag in LOADING_TAGS and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "link" and not {"canonical", "next", "prev", "index", "search"} & set(
            attributes.get("rel", "").split()
        ):
            self.loads.append(attributes["href"])
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        if tag == "img":
            self.images.append(attributes)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def style_loads(path: Path) -> list[str]:
    style = path.read_text(encoding="utf-8")
    return re.findall(r"""(?:url\(|@import\s+)\s*["']?([^"')\s]+)""", style)


def is_remote(address: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", address))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def pages(run_dir):
    index = book.build_book(run_dir)
    return {
        path.relative_to(index.parent).as_posix(): Page(path)
        for path in index.parent.rglob("*.html")
        if "_static" not in path.parts
    }


def test_book_shows_the_notebooks_of_the_run(pages):
    for name in NOTEBOOKS:
        assert "made by this run" in "".join(pages[f"notebooks/{name}.html"].text)
    assert "Routing closes a gap." in "".join(pages["book/intro.html"].text)


def test_introduction_shows_the_figure_of_the_run(run_dir, pages):
    image = next(i for i in pages["book/intro.html"].images if "headline" in i["src"])
    path = run_dir / "book" / "book" / image["src"]
    assert path.read_bytes() == base64.b64decode(PIXEL)
    assert len(image["alt"]) > 40


def test_nothing_loads_from_another_server(run_dir, pages):
    loads = {(name, load) for name, page in pages.items() for load in page.loads}
    assert len(loads) > 50
    assert not [load for load in loads if is_remote(load[1])]
    styles = {
        (run_dir / "book" / name).parent.joinpath(urllib.parse.urlsplit(load).path).resolve()
        for name, load in loads
        if urllib.parse.urlsplit(load).path.endswith(".css")
    }
    assert any(path.name == "custom.css" for path in styles)
    for style in styles:
        assert not [load for load in style_loads(style) if is_remote(load)]
    for page in pages.values():
        assert "unpkg.com" not in "".join(page.scripts)


def test_what_the_pages_load_exists(run_dir, pages):
    for name, page in pages.items():
        for load in page.loads:
            path = urllib.parse.unquote(urllib.parse.urlsplit(load).path)
            if path and not load.startswith("data:"):
                assert ((run_dir / "book" / name).parent / path).is_file(), (name, load)


def test_formulas_are_set_by_the_vendored_mathjax(run_dir, pages):
    scripts = [load for load in pages["book/method.html"].loads if "mathjax" in load]
    assert len(scripts) == 1
    assert (run_dir / "book/book" / urllib.parse.urlsplit(scripts[0]).path).stat().st_size > 1e6
    assert (run_dir / "book/_static/mathjax/LICENSE").is_file()


def test_hostile_text_stays_text(pages):
    for name in ["notebooks/01_labels_and_headroom.html", "book/intro.html"]:
        page = pages[name]
        assert HOSTILE in "".join(page.text)
        assert not [script for script in page.scripts if "owned" in script]
    settings = [s for s in pages["book/method.html"].scripts if "processHtmlClass" in s]
    assert settings and all('"processHtmlClass": "math"' in s for s in settings)


def test_notebooks_can_be_launched(pages):
    links = pages["notebooks/03_layer_probing.html"].links
    for host in ["mybinder.org", "colab.research.google.com"]:
        assert [link for link in links if host in link and "03_layer_probing.ipynb" in link]


def test_every_image_says_what_it_shows(pages):
    for page in pages.values():
        for image in page.images:
            assert image.get("alt") and not image["alt"].endswith(".png")


# What follows fakes the slow step, to look at what happens around it.


@pytest.fixture()
def fake_render(monkeypatch):
    calls = []

    def render(tree, root, log):
        calls.append(json.loads((tree / book.HEADLINE_NOTEBOOK).read_text()))
        built = tree / "_build/html"
        built.mkdir(parents=True)
        (built / "index.html").write_text(f"build {len(calls)}")
        return built

    monkeypatch.setattr(book, "render", render)
    return calls


def test_unchanged_sources_are_not_built_again(tmp_path, fake_render):
    run_dir = write_run(tmp_path / "run")
    assert book.build_book(run_dir).read_text() == "build 1"
    assert book.build_book(run_dir).read_text() == "build 1"
    path = run_dir / "notebooks/01_labels_and_headroom.ipynb"
    path.write_text(path.read_text().replace("made by this run", "made anew"))
    assert book.build_book(run_dir).read_text() == "build 2"
    assert [p.name for p in run_dir.iterdir() if p.name.startswith(".")] == []


def test_a_failed_build_keeps_the_pages_and_a_log(tmp_path, fake_render, monkeypatch):
    run_dir = write_run(tmp_path / "run")
    index = book.build_book(run_dir)
    path = run_dir / "notebooks/01_labels_and_headroom.ipynb"
    path.write_text(path.read_text().replace("made by this run", "made anew"))
    monkeypatch.undo()
    monkeypatch.setattr(book.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"book\.log"):
        book.build_book(run_dir)
    assert index.read_text() == "build 1"
    assert (run_dir / "book.log").is_file()


def test_a_directory_of_something_else_is_not_replaced(tmp_path, fake_render):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a book"):
        book.build_book(write_run(tmp_path / "run"), precious)
    assert (precious / "thesis.tex").read_text() == "years of work"


def test_a_directory_without_a_run_is_told_from_an_unfinished_one(tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no run; there are "):
        book.build_book(tmp_path / "nowhere")


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"execution_count": None}, "did not run to its end"),
        ({"outputs": [ERROR]}, "stopped with an error"),
        (None, "is missing"),
        ([], "is not a notebook"),
    ],
)
def test_an_unfinished_notebook_is_refused(tmp_path, cell, message):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "notebooks/02_activation_extraction.ipynb"
    notebook = json.loads(path.read_text())
    if cell:
        notebook["cells"][-1].update(cell)
    path.write_text(json.dumps(notebook if cell else []))
    if cell is None:
        path.unlink()
    with pytest.raises(InputError, match=f"02_activation_extraction.*{message}"):
        book.build_book(run_dir)


def test_a_glued_value_in_a_form_that_cannot_be_shown_is_refused(tmp_path):
    run_dir = write_run(tmp_path / "run", sentence_kind="text/markdown")
    with pytest.raises(InputError, match=r"headline_sentence.*text/html"):
        book.build_book(run_dir)
