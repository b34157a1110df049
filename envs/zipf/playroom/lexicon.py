"""The playroom's words: fifty invented names, each for one look (shape, colour and pattern), in the order of rank.

No two objects share both shape and colour, so that "red ball" names one object too; every shape and every colour occurs
five times, so that neither tells an object's rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from envs.raycast import COLOURS
from envs.raycast.billboards import PATTERNS, SHAPES, Billboard, shaped

Naming = Literal["atomic", "compositional"]
_PALE = ("white", "yellow", "cyan")
_DARK_MARKS, _LIGHT_MARKS = (52, 48, 66), (250, 250, 245)


@dataclass(frozen=True)
class Item:
    """One kind of object.

    Attributes:
        name: Its invented name.
        colour: Key of `envs.raycast.COLOURS`.
        shape: Key of `envs.raycast.billboards.SHAPES`.
        pattern: Key of `envs.raycast.billboards.PATTERNS`.
    """

    name: str
    colour: str
    shape: str
    pattern: str

    def words(self, naming: Naming) -> tuple[str, ...]:
        """What it is called: its name, or its colour and shape.

        Example:
            >>> LEXICON[0].words("atomic"), LEXICON[0].words("compositional")
            (('zup',), ('orange', 'star'))
        """
        return (self.name,) if naming == "atomic" else (self.colour, self.shape)

    def picture(self) -> Billboard:
        """Its picture ``[U, U, 4]``, read-only; see `envs.raycast.billboards`."""
        return _picture(self.colour, self.shape, self.pattern)


@cache
def _picture(colour: str, shape: str, pattern: str) -> Billboard:
    other = _DARK_MARKS if colour in _PALE else _LIGHT_MARKS
    picture = shaped(SHAPES[shape](), COLOURS[colour], PATTERNS[pattern], other)
    picture.flags.writeable = False
    return picture


# One row a rank, the most frequent first: name, colour, shape, pattern.
_TABLE = """
zup orange star stripes
dax red ball plain
wug white cone dots
blick green tower checks
fep white box plain
kiv cyan cup stripes
mib brown ball checks
tiz orange cup dots
gorp red cup stripes
plim cyan ball plain
snarb pink moon stripes
vek brown star dots
jop green cup plain
lurg cyan star dots
nuz yellow tower checks
yag pink ring plain
roff red cone plain
sprel brown gem checks
drend yellow moon stripes
thwip brown box dots
clov yellow box plain
brask green cone dots
cheem red tower stripes
fliv blue gem checks
hosk purple ball plain
jang green gem stripes
kleb pink gem checks
lorp red cross dots
moxt pink tower checks
neft pink star dots
pamp blue cross plain
quib purple box checks
rask orange ring checks
skib orange cross plain
trobe blue box stripes
vung cyan ring dots
wex blue cup stripes
yolt white moon dots
zand yellow cone checks
bix white ring plain
crav blue tower plain
dwim purple cross dots
fosh brown moon checks
grel yellow cross stripes
hib purple star plain
jelk cyan moon checks
lish purple cone dots
murl white ball stripes
nosp orange gem dots
pilk green ring checks
"""
LEXICON: tuple[Item, ...] = tuple(Item(*row.split()) for row in _TABLE.split("\n") if row)
"""The objects by rank (with ``rank_seed=None``), the most frequent first."""
