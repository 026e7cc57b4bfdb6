import matplotlib as mpl

mpl.use("Agg")

from matplotlib.colors import to_rgb

from prefill_router.report.style import colour, look_of, style


def test_style_sets_one_size_and_never_parses_mathematics():
    style()
    assert tuple(mpl.rcParams["figure.figsize"]) == (7, 4.3)
    assert not mpl.rcParams["text.parse_math"]


def test_the_colours_of_series_are_those_that_the_style_cycles_through():
    style()
    assert [colour(i) for i in range(12)] == [to_rgb(f"C{i}") for i in range(12)]


def test_series_of_one_colour_differ_in_line_or_marker():
    looks = [tuple(look_of(i).values()) for i in range(60)]
    assert len(set(looks)) == 60
