"""Rules that a team shares between its services and its Spark jobs."""

from slugify import slugify


def product_key(name: str) -> str:
    """Return the key under which a product is known, whatever the spelling of its name."""
    return slugify(name)
