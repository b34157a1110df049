"""Makes the rollouts of ``scripts/`` importable, as they are for processes of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
