"""Transfer learning: a trained network in two parts, and the features that its frozen part gives of photos.

parts = parted(tree, (3, 224, 224))                 # what stays as it is, and the head that starts anew
features = Extractor(parts.body, …).features(images)  # computed once a photo, kept on disk
"""

from imori.transfer.cache import Features
from imori.transfer.features import Extractor
from imori.transfer.parts import Parts, parted, stages, with_mlp

__all__ = ["Extractor", "Features", "Parts", "parted", "stages", "with_mlp"]
