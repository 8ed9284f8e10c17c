"""A world's users and items as records; the ids carry the seed, so that many worlds share one stack."""

from msgspec import Struct

from streams.records import Item, User
from streams.simulation.world import World


class Catalogue(Struct, frozen=True):
    """Names and records of one world in one scene.

    A user's `segment` hints at the user's taste; an item's `category` is what tastes are about.
    """

    seed: int
    scene: str

    def user_id(self, user: int) -> str:
        return f"w{self.seed}-u{user}"

    def item_id(self, item: int) -> str:
        return f"w{self.seed}-i{item}"

    def item_number(self, item_id: str) -> int | None:
        """The number of an item of this world, None for any other id."""
        prefix = f"w{self.seed}-i"
        number = item_id.removeprefix(prefix)
        return int(number) if item_id.startswith(prefix) and number.isdecimal() else None

    def users(self, world: World, ts: int) -> list[User]:
        """All users as of `ts` (ms)."""
        return [
            User(user=self.user_id(user), ts=ts, attributes={"segment": f"w{self.seed}-s{segment}"})
            for user, segment in enumerate(world.segment)
        ]

    def item(self, world: World, item: int, ts: int) -> Item:
        """An item, available or retired, as of `ts` (ms)."""
        if item not in world.items:
            return Item(item=self.item_id(item), ts=ts, scene=self.scene, available=False)
        category = world.category[item - world.first_item]
        title = f"{self.item_id(item)} of c{category}"
        attributes = {"category": f"w{self.seed}-c{category}", "title": title}
        return Item(item=self.item_id(item), ts=ts, scene=self.scene, attributes={**attributes})
