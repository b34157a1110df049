"""The page of a text diffusion run, from made-up numbers: what it says is checked, not how it looks."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from recipes import cdcd_figures
from recipes.cdcd_figures import cross_entropy_figure, frontier_figure, training_figure, training_view, warp_figure
from recipes.cdcd_page import (
    BitsRow,
    CostRow,
    Film,
    FrontierPoint,
    InfillRow,
    PageData,
    Samples,
    TextRow,
    TrainingView,
    WarpView,
    write_page,
)

PIECES = ("a", "b", " ", "\n", "<i>", "", "\t")


class Text(HTMLParser):
    """The texts of a page, and the hints of its spans."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hints: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.hints += [value for name, value in attrs if name == "title" and value]

    def handle_data(self, data):
        self.parts.append(data)


def read(path: Path) -> Text:
    text = Text()
    text.feed(path.read_text(encoding="utf-8"))
    return text


def sections(path: Path) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)<", path.read_text(encoding="utf-8"))


def film() -> Film:
    return Film(
        step_F=np.array([0, 7]),
        t_F=np.array([40.0, 0.3]),
        tokens_FL=np.array([[0, 2, 3], [4, 1, 3]]),
        p_FL=np.array([[0.2, 0.4, 1.0], [0.9, 0.75, 1.0]]),
        entropy_FL=np.array([[2.0, 0.8, 0.0], [0.02, 0.4, 0.0]]),
        given_L=np.array([False, False, True]),
        note="two frames",
    )


def measured(nll: float, entropy: float) -> dict[str, float]:
    return {"ar_nll": nll, "entropy_pooled": entropy, "entropy_sequence": entropy - 0.3, "samples": 64.0}


def texts() -> list[TextRow]:
    model = measured(5.0, 2.8) | {"ar_nll_low": 4.9, "ar_nll_high": 5.1, "copy_rate": 0.125}
    model |= {"js1": 0.02, "js2": 0.2, "js1_floor": 0.001, "js2_floor": 0.0215}
    nonsense = measured(6.2, 2.85) | {"js1": 0.001, "js2": 0.15}
    return [
        TextRow("this run", "model", model),
        TextRow("unigram", "nonsense", nonsense),
        TextRow("held-out", "real", measured(1.2, 2.7)),
    ]


def frontier() -> list[FrontierPoint]:
    return [FrontierPoint("T", f"{t}", measured(5.0 - 10 * (1 - t), 2.8 - (1 - t))) for t in (0.8, 0.9, 1.0)]


def warp() -> WarpView:
    t_G = np.geomspace(0.3, 40.0, 101)
    u_B = (np.arange(20) + 0.5) / 20
    return WarpView(
        t_G=t_G, cdf_G=np.linspace(0, 1, 101), u_B=u_B, ce_B=2.8 * u_B + 0.1, plateau=2.8, deviation=0.1 / 2.8
    )


def full() -> PageData:
    training = TrainingView(
        np.array([0, 100]), np.array([0.3, 2.0, 40.0]), np.array([[3.2, 3.3, 3.3], [0.1, 1.3, 2.8]])
    )
    return PageData(
        title="CDCD",
        pieces=PIECES,
        scorers={"ar_nll": "the large model"},
        film=film(),
        samples=Samples(
            np.array([[0, 1, 2, 0], [3, 4, 5, 6]]), np.array([[False, True, True, False], [False] * 4]), copy_length=2
        ),
        texts=texts(),
        frontier=frontier(),
        warp=warp(),
        training=training,
        bits=[
            BitsRow("bound, k = 0", 3.291, 0.012, 2.28),
            BitsRow("bound, k = 1", 3.272, 0.012, 2.27),
            BitsRow("the large model", 1.72, exact=True),
        ],
        infill=[InfillRow(0.5, {"exact_match": 0.41, "exact_match_floor": 0.38, "cross_entropy": 2.0}, 320)],
        cost=[CostRow(32, 200, 201, 0.78)],
        protocol={"seed": 0, "sampling": {"steps": 8, "top_p": 1.0, "passes": (0, 1)}},
    )


def test_an_empty_page_has_no_sections(tmp_path: Path):
    path = write_page(tmp_path, PageData("CDCD"))
    assert path == tmp_path / "page.html"
    assert sections(path) == []
    assert not (tmp_path / "figures").exists()


PARTS = {
    "film": ["Denoising film"],
    "samples": ["Samples"],
    "texts": ["Beside nonsense and real text", "n-grams"],
    "frontier": ["Frontier"],
    "bits": ["Likelihood"],
    "infill": ["Infilling"],
    "warp": ["Time warp"],
    "training": ["Training"],
    "cost": ["Cost of sampling"],
    "protocol": ["Protocol"],
}


def test_every_part_has_its_section_and_stands_alone(tmp_path: Path):
    data = full()
    path = write_page(tmp_path, data)
    assert sections(path) == [name for names in PARTS.values() for name in names]
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<img ") == len(list((tmp_path / "figures").iterdir())) == 5
    for part, names in PARTS.items():
        if part not in {"frontier", "warp", "training"}:  # figures take seconds, and are drawn above
            alone = replace(PageData("CDCD", pieces=PIECES), **{part: getattr(data, part)})
            assert sections(write_page(tmp_path / part, alone)) == names


def test_the_headline_takes_the_last_number_of_the_run_itself(tmp_path: Path):
    data = full()
    text = "".join(
        read(
            write_page(tmp_path, replace(PageData("CDCD"), texts=data.texts, bits=data.bits, scorers=data.scorers))
        ).parts
    )
    assert "AR-NLL 5.00 nats (real text 1.20); pooled entropy 2.80 nats (real text 2.70)" in text
    assert "at most 3.27 bits a character (bound, k = 1)." in text


def test_the_film_shades_by_entropy_and_shows_what_is_invisible(tmp_path: Path):
    path = write_page(tmp_path, PageData("CDCD", pieces=PIECES, film=film()))
    page = path.read_text(encoding="utf-8")
    lines = re.findall(r'<div class="label">([^<]*)</div><div class="tokens">(.*?)</div>', page)
    assert [label for label, _ in lines] == ["   0 · t    40 · H 1.40", "   7 · t   0.3 · H 0.21"]
    assert re.findall(r'<span class="([\w-]+)"', lines[0][1]) == ["level-4", "level-2", "given"]
    assert re.findall(r'<span class="([\w-]+)"', lines[1][1]) == ["level-0", "level-1", "given"]
    assert [re.sub(r"<[^>]*>", "", line) for _, line in lines] == ["a ↵", "&lt;i&gt;b↵"]
    assert "p 0.75, entropy 0.40 nats" in read(path).hints
    assert 'class="level-4">up to 2 nats<' in page
    assert '<div class="lines">' in page
    characters = PageData("CDCD", pieces=("a", "b", "c", "d", "e"), film=film())
    assert '<div class="lines aligned">' in write_page(tmp_path, characters).read_text(encoding="utf-8")


def test_a_film_without_noise_levels_or_hesitation(tmp_path: Path):
    sure = replace(film(), t_F=np.full(2, np.nan), entropy_FL=np.zeros((2, 3)), given_L=None)
    page = write_page(tmp_path, PageData("CDCD", pieces=PIECES, film=sure)).read_text(encoding="utf-8")
    assert re.findall(r'<div class="label">([^<]*)</div>', page) == ["   0 · H 0.00", "   7 · H 0.00"]
    assert "nan" not in page


def test_copied_runs_are_marked(tmp_path: Path):
    page = write_page(tmp_path, PageData("CDCD", pieces=PIECES, samples=full().samples)).read_text(encoding="utf-8")
    assert '<div class="tokens">a<mark>b </mark>a</div>' in page
    assert '<div class="tokens">↵\n&lt;i&gt;∅⇥</div>' in page
    assert "2 or more tokens in a row from the training text (50 % of these 2)" in page
    plain = replace(full(), samples=Samples(np.array([[0, 1]])), film=None, frontier=(), warp=None, training=None)
    assert "<mark" not in write_page(tmp_path, plain).read_text(encoding="utf-8")


def test_tokens_need_their_texts(tmp_path: Path):
    with pytest.raises(ValueError, match="`pieces`"):
        write_page(tmp_path, PageData("CDCD", film=film()))


def cells(page: str, first: str) -> list[str]:
    row = re.search(rf"<tr><td[^>]*>{re.escape(first)}</td>(.*?)</tr>", page)
    assert row is not None
    return re.findall(r"<td[^>]*>([^<]*)</td>", row[1])


def test_tables_say_the_numbers_beside_their_floors(tmp_path: Path):
    page = write_page(tmp_path, replace(full(), frontier=(), warp=None, training=None)).read_text(encoding="utf-8")
    assert cells(page, "AR-NLL") == ["5.00 [4.90, 5.10]", "6.20", "1.20"]
    assert cells(page, "copying samples") == ["12.5 %", "–", "–"]
    assert "self-BLEU" not in page  # nobody measured it
    assert cells(page, "sampling") == ["steps 8, top p 1.0, passes 0, 1"]
    assert cells(page, "this run") == ["0.020", "0.200"]
    assert cells(page, "floor: other real text") == ["0.001", "0.021"]
    assert cells(page, "bound, k = 0") == ["3.291 ± 0.012", "2.28", "an upper bound"]
    assert cells(page, "the large model") == ["1.720", "–", "exact"]
    assert cells(page, "50 %") == ["41.0 %", "38.0 %", "2.00", "–", "320"]
    assert "AR-NLL: scored by the large model." in page


def test_scores_without_a_scorer_are_not_shown(tmp_path: Path):
    data = replace(full(), scorers={}, warp=None, training=None)
    page = write_page(tmp_path, data).read_text(encoding="utf-8")
    assert "AR-NLL" not in page
    assert "Frontier" not in page
    assert cells(page, "pooled entropy") == ["2.80", "2.85", "2.70"]


def test_the_training_curve_is_read_from_the_run(tmp_path: Path):
    lines = [
        {"step": 0, "loss": 3.0, "curve/t=0.3": 3.2, "curve/t=40": 3.3},
        {"step": 50, "loss": 2.0},
        {"step": 100, "loss": 1.4, "curve/t=40": 2.8, "curve/t=0.3": 0.1},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = training_view(log)
    assert view is not None
    assert view.step_N.tolist() == [0, 100]
    assert view.t_K.tolist() == [0.3, 40.0]
    assert view.ce_NK.tolist() == [[3.2, 3.3], [0.1, 2.8]]
    assert sections(write_page(tmp_path, PageData("CDCD"))) == ["Training"]
    log.write_text(json.dumps({"step": 0, "curve/nats": 2.5}) + "\n" + json.dumps({"step": 1, "curve/nats": 2.0}))
    view = training_view(log)
    assert view is not None
    assert np.isnan(view.t_K).tolist() == [True]
    assert view.ce_NK.tolist() == [[2.5], [2.0]]
    log.write_text(json.dumps({"step": 0, "loss": 2.5}) + "\n")
    assert training_view(log) is None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    seen: list[Figure] = []
    save = cdcd_figures.save_figure

    def spy(figure: Figure, path: str | Path) -> Path:
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(cdcd_figures, "save_figure", spy)
    return seen


def words(figure: Figure) -> list[str]:
    return [t.get_text().strip() for t in (*figure.texts, *(t for ax in figure.axes for t in ax.texts))]


def test_figures_say_what_is_seen(tmp_path: Path, drawn: list[Figure]):
    path = warp_figure(warp(), path=tmp_path / "warp.png")
    with Image.open(path) as picture:
        assert picture.width == 860  # 430 on the page: two fit side by side, one fits a telephone
    # The warp of the example is uniform in log t.
    quartiles = np.geomspace(0.3, 40.0, 5)[[1, 3]]
    assert "Half of the noise levels lie in {:.3g} to {:.3g}".format(*quartiles) in words(drawn[-1])
    cross_entropy_figure(warp(), path=tmp_path / "ce.png")
    assert "Off the straight line by 4 % of H at most" in words(drawn[-1])
    bent = replace(warp(), shape_B=warp().u_B ** 2, ce_se_B=np.full(20, 0.1))
    cross_entropy_figure(bent, path=tmp_path / "ce.png")
    assert "Off the wanted curve by 4 % of H at most" in words(drawn[-1])
    wanted = next(line for line in drawn[-1].axes[0].lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(np.asarray(wanted.get_ydata()), 2.8 * warp().u_B ** 2)
    training = full().training
    assert training is not None
    training_figure(training, path=tmp_path / "training.png")
    assert {"At t = 2 from 3.30 to 1.30 nats", "t = 0.3", "t = 2", "t = 40"} <= set(words(drawn[-1]))
    likelihood = TrainingView(np.array([0, 9]), np.array([np.nan]), np.array([[3.0], [2.0]]))
    training_figure(likelihood, path=tmp_path / "training.png")
    assert {"Held-out loss: from 3.00 to 2.00 nats", "2.00"} <= set(words(drawn[-1]))


def test_the_frontier_compares_at_equal_entropy(tmp_path: Path, drawn: list[Figure]):
    path = tmp_path / "frontier.png"
    frontier_figure(frontier(), texts(), score="ar_nll", entropy="entropy_pooled", path=path)
    said = words(drawn[-1])
    # Real text has 2.7 nats, as the samples at T = 0.9, which score 4.0.
    assert "At like entropy: 4.00 nats, real text 1.20" in said
    assert "nearest to real text of 3 settings: T 0.9" in said
    assert {"0.8", "1.0", "unigram", "held-out"} <= set(said)
    assert "this run" not in said
    frontier_figure(frontier(), [], score="ar_nll", entropy="entropy_sequence", path=path)
    assert "Score against entropy" in words(drawn[-1])
    with pytest.raises(ValueError, match="no point of a sweep has ngram_nll"):
        frontier_figure(frontier(), texts(), score="ngram_nll", entropy="entropy_pooled", path=path)
