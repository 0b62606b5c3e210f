"""What classes are called in a picture: by their names, where there is a font that can draw them."""

from __future__ import annotations

from collections.abc import Sequence

from imori.explain.drawing import drawable, font_for


def labels_of(classes: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """A font, and what each class is called in it: its name, or "class 3" where no font here has its letters."""
    font = font_for(classes)
    return font, {name: name if drawable(name, font) else f"class {i}" for i, name in enumerate(classes)}
