"""What the shop sells."""

from typing import NamedTuple


class Tea(NamedTuple):
    sku: str
    name: str
    origin: str
    text: str
    price: int  # in cents
    liquor: str  # the colour in the cup

    @property
    def amount(self) -> str:
        return f"{self.price / 100:.2f}"


TEAS = {
    tea.sku: tea
    for tea in [
        Tea("sencha", "First-flush Sencha", "Shizuoka", "Grassy and bright.", 1250, "#9db44c"),
        Tea("oolong", "Iron Goddess Oolong", "Anxi", "Orchid, then cream.", 1690, "#c9a227"),
        Tea(
            "darjeeling", "Spring Darjeeling", "West Bengal", "Muscatel and stone.", 1420, "#d98e32"
        ),
        Tea("assam", "Golden-tip Assam", "Brahmaputra", "Malt, brisk, wide awake.", 980, "#a8481f"),
        Tea("puerh", "Ripe Pu-erh, 2016", "Yunnan", "Earth after rain.", 2200, "#5b2a1b"),
        Tea("hibiscus", "Hibiscus & Rose", "Aswan", "Sharp, red, no caffeine.", 760, "#b3204d"),
    ]
}
GRINDS = ["Loose leaf", "Tea bags"]
