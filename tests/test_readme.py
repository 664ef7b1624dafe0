"""Both READMEs say the same of commands, files, flags and figures, and what they name exists."""

import contextlib
import difflib
import io
import itertools
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from src.config.keys import Config
from src.pruning.methods import METHODS
from src.run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
README, TRANSLATION = "README.md", "README_CN.md"
SPAN = re.compile(r"`([^`]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z]\w*")
GENERATED = {"best.mindir"}  # named in examples; nothing of that name is in the repository


class Block(NamedTuple):
    """A heading, a line of commands, a table row or a paragraph, with what a translation may not change."""

    line: int
    kind: str
    facts: tuple


def blocks_of(text):
    """The Blocks of a README. Words may differ between languages; code, links and figures may not."""
    blocks, paragraph, fenced = [], [], False

    def end_paragraph():
        if paragraph:
            blocks.append(Block(paragraph[0][0], "paragraph", facts_of(" ".join(line for _, line in paragraph))))
            paragraph.clear()

    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            end_paragraph()
            fenced = not fenced
        elif fenced or (line.startswith("    ") and not paragraph):
            # Behind two spaces comes an explanation, which is translated.
            kind, text = ("output", line) if fenced else ("command", re.split(r" {2,}", line.strip())[0])
            blocks.append(Block(number, kind, (text,)))
        elif line.startswith("#"):
            end_paragraph()
            blocks.append(Block(number, "heading " + line.split()[0], facts_of(line)))
        elif line.startswith("|"):
            end_paragraph()
            cells = [facts_of(cell) for cell in line.strip().strip("|").split("|")]
            blocks.append(Block(number, "table row", tuple(cells)))
        elif line.startswith("* "):
            end_paragraph()
            paragraph.append((number, line))
        elif line.strip():
            paragraph.append((number, line))
        else:
            end_paragraph()
    end_paragraph()
    return blocks


def facts_of(text):
    """Code, links and figures of a text, sorted, since languages put them in another order."""
    code = SPAN.findall(text)
    words = SPAN.sub(" ", text)
    links = re.findall(r"\]\(([^)]+)\)", words)
    words = re.sub(r"\[[^]]*\]\([^)]+\)", " ", words)
    return tuple(sorted(code)) + tuple(sorted(links)) + tuple(sorted(re.findall(r"\d[\d.,]*\d|\d", words)))


def differences(one, other):
    """Where two READMEs differ, a line each, naming the lines of both and what only one of them has."""
    one, other = blocks_of(one), blocks_of(other)
    plain = [[(block.kind, block.facts) for block in blocks] for blocks in (one, other)]
    found = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, *plain, autojunk=False).get_opcodes():
        if kind != "equal":
            pairs = itertools.zip_longest(one[a:b], other[c:d])
            found += [f"{describe(README, left, right)}; {describe(TRANSLATION, right, left)}" for left, right in pairs]
    return found


def describe(name, block, counterpart):
    if block is None:
        return f"{name} lacks it"
    others = [] if counterpart is None else list(counterpart.facts)
    own = [fact for fact in block.facts if fact not in others]
    return f"{name}:{block.line} ({block.kind}) alone has {own or 'nothing, or another order'}"


def words_of(text):
    """Everything that stands as code, commands and spans, but what programs print."""
    commands = [fact for block in blocks_of(text) if block.kind == "command" for fact in block.facts]
    return commands + SPAN.findall(re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def expand(word):
    """The words that a pattern with {a,b} stands for."""
    parts = re.split(r"\{([^}]*)\}", word)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def help_of(program):
    """What `python PROGRAM --help` prints."""
    output, arguments = io.StringIO(), sys.argv
    sys.argv = [str(ROOT / program), "--help"]
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / program), run_name="__main__")
    finally:
        sys.argv = arguments
    return output.getvalue()


def programs_of(command):
    """The Python programs that a command runs, itself or through a script."""
    found = re.findall(r"(?:^|\s)([\w/]+\.py)\b", command)
    for script in re.findall(r"scripts/\w+\.sh", command):
        found += re.findall(r"\$root/(\w+\.py)", (ROOT / script).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def text():
    return (ROOT / README).read_text(encoding="utf-8")


def test_both_languages_say_the_same(text):
    translation = (ROOT / TRANSLATION).read_text(encoding="utf-8")
    found = differences(text, translation)
    assert not found, "bring the two up to date:\n" + "\n".join(found)


@pytest.mark.parametrize(("name", "reference"), [(README, "# Reference"), (TRANSLATION, "# 参考")])
def test_what_a_newcomer_reads_is_short(name, reference):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines.index(reference) <= 150, "move depth to docs/, or below the reference's heading"


SAMPLE = """# Title

A paragraph of 1,437 words with `--rank_interval N` and a
second line: [docs](docs/edge.md).

    python train.py --seed 1      # explained in words
    source .venv/bin/activate

| method | weights |
| --- | --- |
| `rpg` | 5,412 |
| `gap` | `rank_weight` 0 |

## Section

* An item of 2 lines
  with `code`
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("1,437", "1,438", 3),
        ("`--rank_interval N`", "`--rank_interval`", 3),
        ("(docs/edge.md)", "(docs/recipes.md)", 3),
        ("--seed 1", "--seed 2", 6),
        ("    source .venv/bin/activate\n", "", 7),
        ("5,412", "5,413", 11),
        ("| `gap` | `rank_weight` 0 |\n", "", 12),
        ("| `gap` | `rank_weight` 0 |", "| `rank_weight` 0 | `gap` |", 12),
        ("## Section", "### Section", 14),
        ("`code`", "code", 16),
    ],
)
def test_a_difference_is_found_and_its_line_named(old, new, line):
    """Whichever of the two has changed, it is the only thing reported."""
    assert old in SAMPLE
    changed = SAMPLE.replace(old, new)
    for found in (differences(SAMPLE, changed), differences(changed, SAMPLE)):
        assert len(found) == 1
        assert f".md:{line} " in found[0]


def test_words_may_differ():
    other = SAMPLE.replace("explained in words", "erklärt").replace("A paragraph", "Ein Absatz")
    assert (
        differences(
            SAMPLE, other.replace("`--rank_interval N` and a\n", "").replace("[docs]", "`--rank_interval N`, [docs]")
        )
        == []
    )


def test_every_file_named_exists(text):
    folder = RunFolder("output")
    paths = [path for value in vars(folder).values() for path in (value if isinstance(value, list) else [value])]
    written = {path.name for path in paths if isinstance(path, Path)}
    known = {path.name for path in ROOT.rglob("*") if ".git" not in path.parts}
    missing = set()
    for word in itertools.chain.from_iterable(words.split() for words in words_of(text)):
        for name in expand(word.strip("[](),;:")):
            if name.startswith(("output", ".venv", "-", "$")) or not re.fullmatch(r"[\w./*-]+", name):
                continue
            if "/" in name:  # in prose also relative to src/, and without an ending that varies
                path = name.rstrip("/")
                exists = any(any(top.glob(path)) or any(top.glob(path + ".*")) for top in (ROOT, ROOT / "src"))
            elif re.search(r"\.(py|sh|md|yaml|txt|json|jsonl|ckpt|png|html|mindir)$", name):
                exists = name in known | written | GENERATED | {"config.yaml"}
            else:
                continue
            if not exists:
                missing.add(name)
    missing |= {link for link in re.findall(r"\]\(([^):]+)\)", text) if not (ROOT / link).exists()}
    assert not missing


def test_recipes_named_exist_and_none_is_left_out(text):
    recipes = {path.stem for path in (ROOT / "config").glob("*.yaml")}
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|") and "--config_path" in line]
    assert {name for row in rows for word in SPAN.findall(row) for name in expand(word)} <= recipes
    named = {Path(name).stem for words in words_of(text) for word in words.split() for name in expand(word)}
    assert recipes <= named


def test_every_flag_named_exists(text):
    """Flags of a command are its program's own; a flag named alone is one of some program."""
    commands = {word: programs_of(word) for word in words_of(text) if FLAG.search(word)}
    helps = {program: help_of(program) for program in ["train.py", "eval.py", "export.py", "infer.py"]}
    for program in set(itertools.chain.from_iterable(commands.values())) - set(helps):
        helps[program] = help_of(program)
    everything = set(FLAG.findall("".join(helps.values())))
    for command, programs in commands.items():
        allowed = set().union(*(FLAG.findall(helps[name]) for name in programs)) if programs else everything
        assert set(FLAG.findall(command)) - {"--key"} <= allowed, command


def test_methods_and_settings_named_exist(text):
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    methods = [SPAN.search(row).group(1) for row in rows]
    assert set(METHODS) <= set(methods)
    table = text[text.index("| `--method`") :].partition("\n\n")[0].splitlines()[2:]
    assert [SPAN.search(row).group(1) for row in table] == sorted(METHODS, key=methods.index)
    named = {word for row in table for word in SPAN.findall(row)} - set(METHODS)
    assert named <= set(Config.model_fields)
