"""The packages of `mindspore_rpg`, found in src/, and the recipes; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=["mindspore_rpg", *(f"mindspore_rpg.{name}" for name in find_packages("src")), "mindspore_rpg.recipes"],
    package_dir={"mindspore_rpg": "src", "mindspore_rpg.recipes": "config"},
    package_data={"mindspore_rpg.report": ["*.html"], "mindspore_rpg.recipes": ["*.yaml"]},
)
