"""Data: labelled photos found, checked and divided; how a photo becomes a network's input; and batches of them.

splits = open_splits("photos/")                             # a folder, a list, MNIST's files, or "digits"
preprocessing = Preprocessing((224, 224), share=0.875)      # saved with the model
loader = Loader(splits.train, preprocessing, Augmentation(flip=0.5), batch=32)
for batch in loader.training(0, loader.steps_per_epoch): ...
"""

from imori.data.augmentation import Augmentation
from imori.data.images import Images, PhotoFiles, PixelArrays
from imori.data.loader import Batch, Loader
from imori.data.photos import Skipped, find_images, open_photo
from imori.data.preprocessing import Preprocessing, statistics
from imori.data.splits import Splits, check_classes, open_labelled, open_listed, open_splits

__all__ = [
    "Augmentation",
    "Batch",
    "Images",
    "Loader",
    "PhotoFiles",
    "PixelArrays",
    "Preprocessing",
    "Skipped",
    "Splits",
    "check_classes",
    "find_images",
    "open_labelled",
    "open_listed",
    "open_photo",
    "open_splits",
    "statistics",
]
