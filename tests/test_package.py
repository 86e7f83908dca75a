"""What `import riemdln` brings."""

import importlib
import sys
import types


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
