"""The policies that an arm may have: what ranks, where it is the online model, popularity or chance."""

ONLINE, POPULARITY, RANDOM = "online", "popularity", "random"
POLICIES = (ONLINE, POPULARITY, RANDOM)
