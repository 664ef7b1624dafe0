"""The report page: it says what the files say, shows whatever they hold as text, and needs nothing else."""

import base64
import errno
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from test_pictures import RESNET20, layers_of, metrics_of

from src.config.keys import resolve
from src.platform.errors import InputError
from src.programs import train
from src.report.page import open_report_folder
from src.report.pictures import NARROW, WIDE
from src.report.run_report import write_evaluation_report, write_run_report

HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.com/x.png>&amp;"


class Reader(HTMLParser):
    """Tags with their attributes, and the cells of tables by the heading above them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.classes, self.heading, self.cell = [], {}, {}, "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables[self.heading], self.classes[self.heading] = [], []
        elif tag == "tr":
            self.tables[self.heading].append([])
            self.classes[self.heading].append(dict(attributes).get("class"))
        self.cell = "" if tag in ("h2", "th", "td") else self.cell

    def handle_endtag(self, tag):
        if tag == "h2":
            self.heading = self.cell
        elif tag in ("th", "td"):
            self.tables[self.heading][-1].append(self.cell)

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def columns(self, heading):
        """A table as a dict per row, by its headers."""
        headers, *rows = self.tables[heading]
        return [dict(zip(headers, row)) for row in rows]


def report_of(layers, **more):
    return {
        "sparsity": 0.98,
        "nonzeros": sum(layer["nonzeros"] for layer in layers),
        "weights": sum(layer["weights"] for layer in layers),
        "average_relative_rank": 0.9,
        "average_relative_tail_rank": 0.5,
        "layers": layers,
        **more,
    }


def evaluation_of(seed, ckpt):
    return report_of(layers_of(RESNET20, seed), ckpt=ckpt, top1=99.5, top5=100.0, loss=0.0123, images=360)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder and result of a made-up run whose output path is hostile, with its report."""
    folder = tmp_path_factory.mktemp("report")
    scores = {"epoch": 6, "top1": 99.5, "top5": 100.0, "loss": 0.1}
    initial = report_of(layers_of(RESNET20, 1))
    result = report_of(layers_of(RESNET20, 2, empty=RESNET20[3:4]), best=scores, last=scores, initial=initial)
    metrics = [{**line, "lr": 0.1, "images_per_second": 700.0} for line in metrics_of(6)]
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(resolve({"output_path": HOSTILE, "lr": 0.05}))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "result.json").write_text(json.dumps({**result, "seconds": 4000.0}))
    paths = write_run_report(folder)
    assert [path.relative_to(folder).name for path in paths] == ["curves.png", "layers.png", "report.html"]
    return folder, result


def page_of(folder):
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(run):
    page = page_of(run[0])
    addresses = ("src", "srcset", "href")
    fetched = [(tag, attributes[key]) for tag, attributes in page.tags for key in addresses if key in attributes]
    assert [tag for tag, _ in fetched] == ["link", "source", "img", "source", "img"]
    assert all(url.startswith("data:") for _, url in fetched)
    assert "url(" not in (run[0] / "report.html").read_text(encoding="utf-8")
    for (_, url), name in zip(fetched[2::2], ("curves.png", "layers.png")):
        assert base64.b64decode(url.partition(",")[2]) == (run[0] / name).read_bytes()
    for tag, attributes in page.tags:
        if tag == "img":
            assert re.search(r"\d.*\d", attributes["alt"])  # says something of what is to be seen
            assert int(attributes["width"]) == 896


def test_hostile_settings_are_shown_as_text(run):
    page = page_of(run[0])
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert {row["setting"]: row["value"] for row in page.columns("Settings")}["output_path"] == HOSTILE


def test_every_setting_is_there(run):
    config = yaml.safe_load((run[0] / "config.yaml").read_text())
    shown = {row["setting"]: row["value"] for row in page_of(run[0]).columns("Settings")}
    assert shown.keys() == config.keys()
    assert all(yaml.safe_load(text or "''") == config[key] for key, text in shown.items() if key != "output_path")


def test_layers_are_those_of_the_result(run):
    folder, result = run
    rows = page_of(folder).columns("Layers")
    assert len(rows) == len(RESNET20)
    for row, before, after in zip(rows, result["initial"]["layers"], result["layers"]):
        assert row["layer"] == after["name"]
        assert row["shape"] == "64x32x3x3"
        assert row["weights"] == "18,432"
        assert row["largest rank"] == "64"
        for label, layer in (("before", before), ("after", after)):
            assert row[f"density, % {label}"] == f"{100 * layer['density']:.2f}"
            assert row[f"non-zeros {label}"] == f"{layer['nonzeros']:,}"
            assert row[f"rank {label}"] == str(layer["rank"])
            assert row[f"tail-energy rank {label}"] == str(layer["tail_rank"])


def test_a_run_from_before_first_reports_has_only_the_last(run, tmp_path):
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    (tmp_path / "result.json").write_text(json.dumps({**run[1], "initial": None, "seconds": 3.0}))
    write_run_report(tmp_path)
    assert "density, %" in page_of(tmp_path).columns("Layers")[0]


def test_two_checkpoints_side_by_side(tmp_path):
    evaluations = [evaluation_of(1, "one.ckpt"), evaluation_of(2, HOSTILE)]
    evaluations[1]["top1"] = 12.25
    evaluations[1]["layers"][-1]["name"] = "new.weight"
    configs = [resolve({"method": "gap"}), resolve({"method": "gmp", "seed": 3})]
    paths = write_evaluation_report(tmp_path, evaluations, configs)
    assert [path.name for path in paths] == ["layers.png", "report.html"]
    page = page_of(tmp_path)
    scores = {row[""]: (row["A"], row["B"]) for row in page.columns("")}
    assert scores["top-1 accuracy, %"] == ("99.50", "12.25")
    rows = page.columns("Layers")
    assert rows[0]["rank B"] == str(evaluations[1]["layers"][0]["rank"])
    assert (rows[-2]["rank B"], rows[-1]["rank A"]) == ("–", "–")  # a layer that only one of them has
    marked = [cells[0] for cells, name in zip(page.tables["Settings"], page.classes["Settings"]) if name == "marked"]
    assert marked == ["method", "drop_fraction", "seed"]
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_one_checkpoint(tmp_path):
    write_evaluation_report(tmp_path, [evaluation_of(1, "one.ckpt")], [resolve({})])
    assert [tag for tag, _ in page_of(tmp_path).tags].count("img") == 1
    assert "Checkpoint one.ckpt" in (tmp_path / "report.html").read_text()


def test_a_report_is_not_overwritten_unasked(run, tmp_path):
    with pytest.raises(InputError, match="already holds a report; replace it with --overwrite"):
        open_report_folder(run[0], overwrite=False)
    open_report_folder(run[0], overwrite=True)
    (tmp_path / "layers.png").touch()
    with pytest.raises(InputError, match="already holds a report"):
        open_report_folder(tmp_path, overwrite=False)
    with pytest.raises(InputError, match=r"report: cannot write to .*result\.json: File exists"):
        open_report_folder(run[0] / "result.json", overwrite=True)


@pytest.mark.parametrize("fault", ["no matplotlib", "disk full", "no run"])
def test_a_run_is_not_lost_where_pictures_fail(run, tmp_path, fault, monkeypatch, capsys):
    folder = tmp_path if fault == "no run" else run[0]
    before = {file: file.read_bytes() for file in folder.iterdir()}
    if fault == "no matplotlib":
        monkeypatch.delitem(train.sys.modules, "src.report.run_report")
        monkeypatch.delitem(train.sys.modules, "src.report.pictures")
        monkeypatch.setitem(train.sys.modules, "matplotlib.figure", None)
    elif fault == "disk full":

        def no_space(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", no_space)
    assert train.draw(folder) == []
    told = capsys.readouterr().err
    assert told.startswith("no pictures and report: ")
    assert told.count("\n") == 1
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def open_browser(playwright):
    """A Chromium of this machine, or the one that playwright installs; the test is skipped where there is neither."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")]
    path = next((name for name in (*found, playwright.chromium.executable_path) if name and Path(name).exists()), None)
    if path is None:
        pytest.skip("no Chromium: neither installed on this machine nor by `playwright install chromium`")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # the sandbox refuses root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_browser_shows_the_page(run, kind, tmp_path):
    """Pictures load, nothing is complained of or fetched, and the page fits a desk, a telephone and the dark."""
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright
    folder = run[0]
    if kind == "comparison":
        folder = tmp_path
        evaluations = [evaluation_of(1, "one.ckpt"), evaluation_of(2, "a-long-name/" * 20 + "two.ckpt")]
        write_evaluation_report(folder, evaluations, [resolve({}), resolve({"method": "gmp"})])
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        for width, scheme in ((1280, "light"), (400, "light"), (1280, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            complaints, requests = [], []
            page.on("console", lambda message, told=complaints: told.append(message.text))
            page.on("pageerror", lambda error, told=complaints: told.append(str(error)))
            page.on("request", lambda request, sent=requests: sent.append(request.url))
            page.goto((folder / "report.html").as_uri())
            pictures = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.width])")
            assert len(pictures) == (2 if kind == "run" else 1)
            narrow = width < 640
            for complete, natural, shown in pictures:
                assert complete
                assert natural == (816 if narrow else 896)
                inches = NARROW if narrow else WIDE
                assert 8 / 72 * shown / inches > 10  # the type of 8 points, in pixels on the screen
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll in their own boxes
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(255, 255, 255)") == (scheme == "light")
            shot = tmp_path / f"{width}_{scheme}.png"
            page.screenshot(path=shot, full_page=True)
            assert shot.stat().st_size > 50_000
            assert complaints == []
            assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
            page.close()
        browser.close()
