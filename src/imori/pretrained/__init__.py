"""Checkpoints that torchvision, timm and Keras publish: where they are, fetching, reading, and changing them to fit.

addresses   what there is, and how each sees a photo; imports no library
downloads   files from publishers' servers, kept on this machine
reading     a checkpoint by name or file, with its network, class names and preprocessing
adapting    trained weights for other classes and channels
"""
