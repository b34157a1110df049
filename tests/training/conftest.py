"""Makes the toy model of ``scripts/`` importable, as it is for the scripts that run as processes of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
