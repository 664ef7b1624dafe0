"""Configuration: precedence, the one place of types and ranges, what methods fix, and errors of one line."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from src.config.command_line import load_config
from src.config.files import DEFAULT_CONFIG, read_yaml, save_yaml
from src.config.keys import Config, resolve
from src.platform.errors import InputError

CONFIGS = sorted(Path(__file__).parent.parent.joinpath("config").glob("*.yaml"))


def load(tmp_path, text, *words):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load_config(["--config_path", str(file), *words])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_file_in_config_is_valid(path):
    resolve(read_yaml(path))


def test_default_is_the_embedded_run():
    config = load_config([])
    assert (config.model, config.dataset, config.method, config.sparsity) == ("resnet20", "digits", "rpg", 0.98)


def test_precedence(tmp_path):
    (tmp_path / "base.yaml").write_text("lr: 0.5\nseed: 1\nsparsity: 0.8\n")
    config = load(tmp_path, "base: base.yaml\nseed: 2\nsparsity: 0.9\n", "--sparsity", "0.95")
    assert (config.lr, config.seed, config.sparsity, config.momentum) == (0.5, 2, 0.95, 0.9)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({}, 0.0),
        ({"model": "resnet50", "dataset": "imagenet"}, 0.0),
        ({"dataset": "folder"}, "auto"),
        ({"model": "mindcv/mobilenet_v2_100", "dataset": "imagenet"}, "auto"),
        ({"dataset": "folder", "min_layer_density": 0}, 0.0),
        ({"dataset": "folder", "min_layer_density": 0.02}, 0.02),
        ({"min_layer_density": 0.02}, 0.02),
    ],
)
def test_the_recipes_of_the_paper_have_no_floors_unless_asked(settings, least):
    config = resolve(settings)
    assert config.min_layer_density == least
    assert resolve(dict(config)) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_only_files_of_transformers_have_floors(path):
    transformer = path.stem.startswith(("deit", "vit"))  # which prune networks of mindcv
    assert resolve(read_yaml(path)).min_layer_density == ("auto" if transformer else 0)


def test_numbers_in_exponent_notation_are_numbers(tmp_path):
    assert load(tmp_path, "weight_decay: 1e-4\n").weight_decay == 1e-4  # YAML 1.1 reads this as text


def test_resolved_configuration_reads_back_the_same(tmp_path):
    config = load(tmp_path, "method: gap\nsparsity: 0.9\n")
    save_yaml(config, tmp_path / "saved.yaml")
    assert load_config(["--config_path", str(tmp_path / "saved.yaml")]) == config


def test_switches_need_no_value(tmp_path):
    assert load(tmp_path, "", "--overwrite").overwrite is True
    assert load(tmp_path, "overwrite: true\n", "--overwrite", "false").overwrite is False


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("rpg", {"rank_weight": 0.5, "drop_fraction": 0.3, "distribution": "global"}),
        ("gap", {"rank_weight": 0.0, "drop_fraction": 0.3, "distribution": "global"}),
        ("gmp", {"rank_weight": 0.0, "drop_fraction": 0.0, "distribution": "global"}),
        ("rigl", {"rank_weight": 0.0, "drop_fraction": 0.3, "distribution": "erk"}),
        ("set", {"rank_weight": 0.0, "drop_fraction": 0.3, "distribution": "erk"}),
        ("magnitude", {"rank_weight": 0.0, "drop_fraction": 0.0, "distribution": "global"}),
        ("dense", {"rank_weight": 0.0, "drop_fraction": 0.0, "sparsity": 0.0}),
    ],
)
def test_methods_are_settings(method, expected):
    config = resolve({"rank_weight": 0.5, "drop_fraction": 0.3, "sparsity": 0.9}, {"method": method})
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("sparcity: 0.9\n", [], r"c.yaml: unknown key 'sparcity'; did you mean sparsity\?"),
        ("", ["--sparcity", "0.9"], r"command line: unknown option --sparcity; did you mean --sparsity\?"),
        ("", ["--sparsity=2"], "command line: sparsity: .*less than 1"),
        ("sparsity: -1\n", [], "c.yaml: sparsity: .*greater than or equal to 0"),
        ("sparsity: lots\n", [], "c.yaml: sparsity: .*valid number.*'lots'"),
        ("batch_size: 1.5\n", [], "c.yaml: batch_size: .*integer"),
        ("method: prune\n", [], "c.yaml: method: .*'rpg'.*not 'prune'"),
        ("model: resnet21\n", [], "c.yaml: model: .*resnet20"),
        ("lr: [1]\n", [], "c.yaml: lr: "),
        ("lr: .nan\n", [], "c.yaml: lr: "),
        ("seed:\n", [], "c.yaml: seed: "),
        ("- a\n- b\n", [], "holds no `key: value` lines"),
        ("a: b: c\n", [], "not valid YAML"),
        ("lr: !!python/object/apply:os.getcwd []\n", [], "not valid YAML"),
        ("base: nowhere.yaml\n", [], "cannot read .*nowhere.yaml: No such file"),
        ("base: c.yaml\n", [], "base.*itself"),
        ("prune_window: 0.9\nupdate_end: 0.8\n", [], "update_end 0.8 lies before the end of prune_window 0.9"),
        ("prune_start: 0.9\n", [], "prune_start 0.9 lies behind the end of prune_window 0.9"),
        ("batch_size: 64\naccumulation_steps: 3\n", [], "batch_size 64 does not divide into accumulation_steps 3"),
        ("distribution: global\nmethod: rigl\n", [], "distribution global does not fit method rigl"),
        ("", ["--method", "gap", "--rank_weight", "1"], "command line: rank_weight: method gap fixes it to 0"),
        ("", ["--seed"], "command line: argument --seed: expected one argument"),
        ("", ["stray"], "command line: unknown option stray"),
        (
            "",
            ["config/a.yaml"],
            r"config/a.yaml belongs to no option; did you mean --config_path config/a.yaml\?",
        ),
        ("", ["--stray.yaml"], "command line: unknown option --stray.yaml"),
        ("", ["--spars", "0.5"], "command line: unknown option --spars"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, text, words, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, text, *words)


@pytest.mark.parametrize("path", [CONFIGS[0].parent / "resnet20_digits.yaml", CONFIGS[-1]], ids=lambda path: path.name)
def test_help_shows_the_values_and_choices_of_the_recipe_at_hand(path, capsys):
    words = [] if path.stem == "resnet20_digits" else ["--config_path", str(path)]
    with pytest.raises(SystemExit) as end:
        load_config(["--sparsity", "0.123", "--help", *words])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"YAML file with the recipe (default: config/{DEFAULT_CONFIG.name})" in text
    assert f"what config/{path.name} comes to" in text
    config = resolve(read_yaml(path))
    for key, field in Config.model_fields.items():
        choices = [*get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
        words = field.description + (": " + ", ".join(choices) if choices else "")
        value = {True: "true", False: "false"}[config[key]] if field.annotation is bool else config[key]
        assert re.search(rf"--{key} (VALUE|\[true\|false\]) ", text)
        assert words + (f" (default: {value})" if value != "" else "") in text


def test_help_on_a_bad_file_says_what_is_wrong_with_it(tmp_path):
    with pytest.raises(InputError, match="unknown key 'sparcity'"):
        load(tmp_path, "sparcity: 0.9\n", "--help")


def test_missing_file():
    with pytest.raises(InputError, match=r"cannot read nowhere\.yaml"):
        load_config(["--config_path", "nowhere.yaml"])


def test_weights_named_on_the_command_line_must_be_there(tmp_path):
    """In a plan too; those that a recipe names may still have to be trained, and a resumed run brings its own."""
    missing = str(tmp_path / "none.ckpt")
    for words in ([], ["--dry_run"]):
        with pytest.raises(InputError, match=r"pretrained: cannot read .*none\.ckpt: No such file"):
            load(tmp_path, "lr: 0.1", "--pretrained", missing, *words)
        with pytest.raises(InputError, match=r"pretrained: cannot read x+: File name too long"):
            load(tmp_path, "lr: 0.1", "--pretrained", "x" * 3000, *words)
    assert load(tmp_path, f"pretrained: {missing}", "--dry_run").pretrained == missing
    assert load(tmp_path, "", "--pretrained", missing, "--resume_ckpt", "auto").pretrained == missing
    assert load(tmp_path, f"pretrained: {missing}", "--pretrained=", "--dry_run").pretrained == ""
    there = str(tmp_path / "c.yaml")
    assert load(tmp_path, "", "--pretrained", there, "--dry_run").pretrained == there


def test_every_key_is_described():
    assert all(field.description for field in Config.model_fields.values())


def test_default_configuration_names_every_recipe_key_it_sets():
    text = CONFIGS[0].parent.joinpath("resnet20_digits.yaml").read_text()
    assert set(yaml.safe_load(text)) <= set(Config.model_fields)
