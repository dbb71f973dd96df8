"""Write constraints.txt: the version at hand of everything that `make` installs, which is what the tests were run with."""
import importlib.metadata as metadata
import re
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Versions that are known to work together, of all that `make` installs. `make CONSTRAINTS=` takes the newest instead;
# `make constraints` writes this file anew from the environment at hand.
"""


def key(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def asked():
    "What settings.ini asks for in the core and in the extras that the Makefile installs."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    extras = re.search(r"--editable '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))[1].split(",")
    names = ["requirements", *(f"{extra}_requirements" for extra in extras)]
    return [Requirement(text) for name in names for text in config["DEFAULT"][name].split()]


def needed(requirements):
    "Those and all that they need, as {name: version}; raises `PackageNotFoundError` where one that is asked for is not installed."
    versions, waiting = {}, [(each, "") for each in requirements]
    done = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked_for in ("", *requirement.extras):
            if (key(requirement.name), asked_for) in done:
                continue
            done.add((key(requirement.name), asked_for))
            found = metadata.distribution(requirement.name)
            versions[key(requirement.name)] = found.version.partition("+")[0]  # a build for one machine is not on PyPI
            waiting += [(Requirement(text), asked_for) for text in found.requires or ()]
    return versions


def too_new(names, oldest="3.11.0"):
    "Which of the installed versions the oldest Python that is promised does not take, such as Debian 12's 3.11.2."
    wants = {name: metadata.metadata(name).get("Requires-Python") or "" for name in names}
    return [f"{name} wants Python {want}" for name, want in wants.items() if not SpecifierSet(want).contains(oldest)]


if __name__ == "__main__":
    if found := too_new(needed(asked())):
        raise SystemExit(f"expected versions for every Python 3.11; found {', '.join(found)}: install older ones, then again")
    lines = [f"{name}=={version}\n" for name, version in sorted(needed(asked()).items())]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines), encoding="utf-8")
