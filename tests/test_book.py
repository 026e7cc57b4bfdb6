"""The book of a small made-up run: what its pages say, and what they never load."""

import base64
import re
import urllib.parse

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from prefill_router import book
from prefill_router.config import project_root
from prefill_router.errors import InputError
from prefill_router.run import notebooks
from prefill_router.storage import file_hash, write_json

HOSTILE = "<script>alert('owned')</script> $$x^2$$ **bold** {math}`y` ```{note} z```"
ESCAPED = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
TABLE = f"<table><tr><td>{ESCAPED}</td></tr></table>"
SENTENCE = "<p>Routing closes a gap<span>&#46;</span></p>"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADU"
    "lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
NOTEBOOKS = [path.relative_to(project_root()) for path in notebooks()]
APPENDIX = [path.relative_to(project_root()) for path in notebooks(appendix=True)[len(NOTEBOOKS) :]]
LOADING = ["script", "img", "iframe", "source", "embed", "audio", "video"]


def executed_cell(*outputs, **metadata):
    return new_code_cell("show()", execution_count=1, outputs=list(outputs), metadata=metadata)


def glued(name, kind, value):
    mark = {"scrapbook": {"name": name, "mime_prefix": ""}}
    return new_output("display_data", data={kind: value}, metadata=mark)


def write_run(
    run_dir, sentence_kind="text/html", text="made by this run", appendix=False, **parameters
):
    (run_dir / "notebooks/appendix").mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    hashes = {}
    for path in NOTEBOOKS + APPENDIX * appendix:
        cells = [
            new_markdown_cell(f"# {path.stem}\n\nA formula: $a^2$."),
            executed_cell(
                new_output("stream", name="stdout", text=f"{text} {HOSTILE}"),
                new_output("display_data", data={"text/html": TABLE}),
            ),
        ]
        if path.name.startswith("06"):
            shown = {"figure": {"caption": "The headline.", "name": "fig-routers"}}
            shown["image"] = {"alt": "Accuracy against cost."}
            cells += [
                executed_cell(glued("headline_sentence", sentence_kind, SENTENCE)),
                executed_cell(glued("headline_table", "text/html", TABLE)),
                executed_cell(glued("headline_figure", "image/png", PIXEL), mystnb=shown),
            ]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, run_dir / path)
        hashes[str(path)] = file_hash(run_dir / path)
    write_json(run_dir / "manifest.json", {"notebooks": hashes, "parameters": parameters})
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", seed=1)


@pytest.fixture(scope="module")
def pages(run_dir):
    index = book.build_book(run_dir)
    return {
        path.relative_to(index.parent).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in index.parent.rglob("*.html")
        if "_static" not in path.parts
    }


def test_book_shows_the_notebooks_of_the_run_and_its_headline(run_dir, pages):
    for path in NOTEBOOKS:
        assert "made by this run" in pages[str(path.with_suffix(".html"))].text
    for path in APPENDIX:  # committed, but of another study
        page = pages[str(path.with_suffix(".html"))]
        assert "did not run the appendix" in page.text and not page.find("div", class_="cell")
    introduction = pages["book/intro.html"]
    assert "Routing closes a gap." in introduction.text
    image = introduction.find("img", src=re.compile("headline"))
    assert (run_dir / "book/book" / image["src"]).read_bytes() == base64.b64decode(PIXEL)
    for image in (image for page in pages.values() for image in page("img")):
        assert image.get("alt") and not image["alt"].endswith(".png")
    links = [link.get("href", "") for link in pages["notebooks/03_layer_probing.html"]("a")]
    for host in ["mybinder.org", "colab.research.google.com"]:
        assert [link for link in links if host in link and "03_layer_probing.ipynb" in link]


def test_what_pages_load_exists_here(run_dir, pages):
    for_readers = {"canonical", "next", "prev", "index", "search"}
    loads, styles = set(), set()
    for name, page in pages.items():
        assert not page("script", string=re.compile("unpkg.com"))
        links = (link for link in page("link") if not for_readers & {*link.get("rel", ())})
        loads |= {(name, tag["src"]) for tag in page(LOADING, src=True)}
        loads |= {(name, link["href"]) for link in links}
    assert len(loads) > 50
    for name, load in loads:
        assert not re.match(r"(?:https?:)?//", load)
        path = urllib.parse.unquote(urllib.parse.urlsplit(load).path)
        if path and not load.startswith("data:"):
            file = (run_dir / "book" / name).parent / path
            assert file.is_file(), (name, load)
            styles |= {file.resolve()} if file.suffix == ".css" else set()
    assert any(path.name == "custom.css" for path in styles)
    for style in styles:
        used = re.findall(r"""(?:url\(|@import\s+)\s*["']?([^"')\s]+)""", style.read_text())
        assert not [load for load in used if re.match(r"(?:https?:)?//", load)]


def test_formulas_are_set_by_the_vendored_mathjax(run_dir, pages):
    [script] = pages["book/method.html"]("script", src=re.compile("mathjax"))
    assert (run_dir / "book/book" / urllib.parse.urlsplit(script["src"]).path).stat().st_size > 1e6
    assert (run_dir / "book/_static/mathjax/LICENSE").is_file()


def test_hostile_text_stays_text(pages):
    for name in ["notebooks/01_labels_and_headroom.html", "book/intro.html"]:
        assert HOSTILE in pages[name].text
        assert not pages[name]("script", string=re.compile("owned"))
    settings = pages["book/method.html"]("script", string=re.compile("processHtmlClass"))
    assert settings and all('"processHtmlClass": "math"' in s.string for s in settings)


# What follows fakes the slow step, to look at what happens around it.


@pytest.fixture()
def fake_render(monkeypatch):
    calls = []

    def render(tree, root, log):
        calls.append({path: (tree / path).read_bytes() for path in NOTEBOOKS + APPENDIX})
        built = tree / "_build/html"
        built.mkdir(parents=True)
        (built / "index.html").write_text(f"build {len(calls)}")
        (built / ".buildinfo").touch()
        return built

    monkeypatch.setattr(book, "render", render)
    return calls


def test_pages_are_replaced_at_once_and_kept_if_the_build_fails(tmp_path, fake_render, monkeypatch):
    run_dir = write_run(tmp_path / "run")
    for i in (1, 2):
        assert book.build_book(run_dir).read_text() == f"build {i}"
    assert [p.name for p in run_dir.iterdir() if p.name.startswith(".")] == []
    monkeypatch.undo()
    monkeypatch.setattr(book.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"book\.log"):
        book.build_book(run_dir)
    assert (run_dir / "book/index.html").read_text() == "build 2"
    assert (run_dir / "book.log").is_file()


def test_the_appendix_is_the_run_s_own_or_the_committed_one_of_the_same_study(
    tmp_path, fake_render
):
    for appendix in (False, True):
        run_dir = write_run(tmp_path / f"run-{appendix}", appendix=appendix, device="auto")
        book.build_book(run_dir)
        for path in APPENDIX:
            shown = run_dir if appendix else project_root()
            assert fake_render[-1][path] == (shown / path).read_bytes()


def test_a_directory_of_something_else_is_not_replaced(tmp_path, fake_render):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a book"):
        book.build_book(write_run(tmp_path / "run"), precious)
    assert (precious / "thesis.tex").read_text() == "years of work"


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no finished run; there are "):
        book.build_book(tmp_path / "nowhere")
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "notebooks/02_activation_extraction.ipynb"
    for spoil in (lambda: path.write_text("half"), path.unlink):
        spoil()
        with pytest.raises(InputError, match=r"02_activation.* is missing or not what"):
            book.build_book(run_dir)


def test_a_glued_value_in_a_form_that_cannot_be_shown_is_refused(tmp_path):
    run_dir = write_run(tmp_path / "run", sentence_kind="text/markdown")
    with pytest.raises(InputError, match=r"headline_sentence.*text/html"):
        book.build_book(run_dir)
