"""The package, as `settings.ini` describes it; the report templates, parameter files and scripts travel inside the wheel."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
RESOURCES = ("reports", "prompts", "paper_data", "static")  # folders of nbs/ that travel with the package


def requirements(key):
    return settings[key].split()


EXTRAS = ("posebench", "clip", "qwen", "nf4", "dinov2", "detect", "serve", "video", "attention", "hub", "ray", "remote", "dev")
extras = {name: requirements(f"{name}_requirements") for name in EXTRAS}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    keywords=settings["keywords"],
    license="Apache-2.0",
    url=settings["git_url"],
    project_urls={
        "Documentation": settings["doc_host"] + settings["doc_baseurl"],
        "Changelog": f"{settings['git_url']}/blob/main/CHANGELOG.md",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {python}" for python in settings["pythons"].split()),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=f">={settings['min_python']}",
    packages=[*find_packages(include=["qcfer", "qcfer.*"]), *(f"qcfer.{kind}" for kind in RESOURCES)],
    package_dir={"qcfer": "qcfer"} | {f"qcfer.{kind}": f"nbs/{kind}" for kind in RESOURCES},
    package_data={f"qcfer.{kind}": ["*"] for kind in RESOURCES} | {"qcfer": ["py.typed", "__init__.pyi"]},
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": ["qcfer=qcfer.cli:main"]},
    zip_safe=False,
)
