"""Pages are tested by pytest; what Sphinx reads and writes is not collected."""

from importlib.util import find_spec

collect_ignore = ["_build", "conf.py", "gallery", "generated", "thumbnails.py"]
collect_ignore += ["tutorial", "tutorial_source"]

# This page shows losses in two libraries that the tests do not need.
if not (find_spec("torch") and find_spec("jax")):
    collect_ignore.append("guide/your_own_loss.md")
