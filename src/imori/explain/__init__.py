"""What a trained network has learned, as pictures: its first filters, what its stages respond to, and its mistakes.

from imori.explain import draw_mistakes, features, filters, mistakes

model = imori.load("runs/a")
filters(model).save("filters.png")
features(model, "cat.jpg").save("features.png")
images = model.test_images()
draw_mistakes(model, images, mistakes(model, images)).save("mistakes.png")
"""

from imori.explain.labels import labels_of
from imori.explain.mistakes import Mistake, draw_mistakes, mistakes
from imori.explain.network import features, filters

__all__ = ["Mistake", "draw_mistakes", "features", "filters", "labels_of", "mistakes"]
