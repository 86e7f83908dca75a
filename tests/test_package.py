"""What `import riemdln` brings."""

import importlib
import re
import sys
import types
from pathlib import Path

import riemdln


def test_the_public_modules_come_with_the_package(monkeypatch):
    # Anew, since what another test has imported would be there in any case.
    for name in [name for name in sys.modules if name.partition(".")[0] == "riemdln"]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("riemdln")
    for name in ("checks", "geodesics", "kernels", "retractions", "transports"):
        assert isinstance(getattr(package, name), types.ModuleType)
        assert name in package.__all__
    for name in package.__all__:
        assert hasattr(package, name)


def test_the_api_reference_lists_what_is_public():
    api = (Path(__file__).parent.parent / "docs/api.rst").read_text(encoding="utf-8")
    entries = re.findall(r"^   ([\w.]+)$", api, re.MULTILINE)  # of its lists
    listed = {entry.rpartition(".")[2] for entry in entries}
    names = {name: getattr(riemdln, name) for name in riemdln.__all__}
    modules = [value for value in names.values() if isinstance(value, types.ModuleType)]
    public = {name for module in [riemdln.manifolds, *modules] for name in module.__all__}
    assert len(listed) == len(entries)
    assert listed <= public | names.keys()
    assert {name for name, value in names.items() if value not in modules} <= listed
