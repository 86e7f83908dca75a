"""Print the lowest versions that setup.cfg allows, as constraints for pip.

    python .ci/lowest_versions.py [EXTRA ...]

They are those of what the package needs, and of what the named extras need.
"""

import sys
from configparser import ConfigParser
from pathlib import Path

config = ConfigParser()
config.read(Path(__file__).parents[1] / "setup.cfg")
needed = [config["options"]["install_requires"]]
needed += [config["options.extras_require"][extra] for extra in sys.argv[1:]]
print("".join(needed).replace(">=", "==").strip())
