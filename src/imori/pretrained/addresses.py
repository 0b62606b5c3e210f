"""Where publishers have their ImageNet checkpoints, what proves a file whole, and how each sees a photo.

Every address, checksum and number is copied from the publisher's own source, read at these commits:

torchvision  pytorch/vision 1f1a920d685d (0.29.1), torchvision/models. A file's name ends in the first digits of its
             sha256, as torch.hub checks them. GoogLeNet scales its input again itself (`transform_input`), which the
             numbers here hold already.
timm         huggingface/pytorch-image-models aa4b5850c154, timm/models; the form of an address is that of
             huggingface_hub 2.4.0, constants.py. Those for non-commercial use alone are left out (fb_ssl, fb_swsl,
             fb_wsl), so that the first of resnext101_32x4d is not timm's own choice.
keras        keras-team/keras 3422977a5e38, keras/src/applications, with the md5 that `get_file` checks, which the
             MobileNets have not. Keras says how pixels become numbers and leaves the cut to its users: here it is the
             middle seven eighths.

The first of a model's checkpoints is what its publisher takes unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from imori.errors import NameUnknown

NUMBERS: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"scale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "caffe": {"scale": 1.0, "order": "bgr", "mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0)},
}
"""How pixels become numbers, as fields of `data.Preprocessing`; "half", which is Keras's "tf", is -1 to 1."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that a publisher has."""

    publisher: str
    model: str
    """Its network's name in our catalogue; the variant is the publisher's."""
    tag: str
    """What the publisher calls it."""
    address: str
    file: str
    checksum: str = ""
    """As "md5:…", or "sha256:…" with all digits or the first ones; "" where the publisher's source has none."""
    width: float = 1.0
    size: int = 224
    """Height and width of the input."""
    share: float = 0.875
    """Of a photo's shorter side, what the middle that is cut out keeps."""
    interpolation: str = "bilinear"
    numbers: str = "imagenet"
    """A key of NUMBERS."""

    def preprocessing(self) -> dict[str, Any]:
        """The fields of its `data.Preprocessing`."""
        cut = {"size": (self.size, self.size), "share": self.share, "interpolation": self.interpolation}
        resize = "crop" if self.publisher == "keras" else "torchvision"
        return {"resize": resize, **cut, **NUMBERS[self.numbers]}


# --- torchvision -----------------------------------------------------------------------------------------------------

#   model, tag, file, what the shorter side of a photo is resized to before the middle 224 × 224 are cut out
_TORCHVISION = (
    ("alexnet", "IMAGENET1K_V1", "alexnet-owt-7be5be79", 256),
    ("vgg16", "IMAGENET1K_V1", "vgg16-397923af", 256),
    ("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d", 256),
    ("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313", 256),
    ("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0", 256),
    ("googlenet", "IMAGENET1K_V1", "googlenet-1378be20", 256),
    ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd", 256),
    ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593", 256),
    ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6", 232),
    ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61", 256),
    ("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2", 232),
    ("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227", 256),
    ("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261", 232),
    ("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45", 256),
    ("resnext50_32x4d", "IMAGENET1K_V2", "resnext50_32x4d-1a0047aa", 232),
    ("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587", 256),
    ("resnext101_32x8d", "IMAGENET1K_V2", "resnext101_32x8d-110c445d", 232),
    ("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5", 256),
    ("resnext101_64x4d", "IMAGENET1K_V1", "resnext101_64x4d-173b62eb", 232),
    ("densenet121", "IMAGENET1K_V1", "densenet121-a639ec97", 256),
    ("densenet161", "IMAGENET1K_V1", "densenet161-8d451a50", 256),
    ("densenet169", "IMAGENET1K_V1", "densenet169-b2777c0a", 256),
    ("densenet201", "IMAGENET1K_V1", "densenet201-c1103571", 256),
    ("mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0", 232),
    ("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104", 256),
)


def _torchvision() -> Iterator[Checkpoint]:
    for model, tag, name, resize in _TORCHVISION:
        numbers = "half" if model == "googlenet" else "imagenet"
        yield Checkpoint(
            "torchvision", model, tag, f"https://download.pytorch.org/models/{name}.pth", f"{name}.pth",
            f"sha256:{name.rpartition('-')[2]}", share=224 / resize, numbers=numbers,
        )  # fmt: skip


# --- timm ------------------------------------------------------------------------------------------------------------

#    form: input_size, crop_pct, interpolation, numbers
_FORMS = {
    "tv": (224, 0.875, "bilinear", "imagenet"),
    "bicubic": (224, 0.875, "bicubic", "imagenet"),
    "rsb": (224, 0.95, "bicubic", "imagenet"),
    "rsb160": (160, 0.95, "bicubic", "imagenet"),
    "rsb176": (176, 0.9, "bicubic", "imagenet"),
    "tv2": (176, 0.875, "bilinear", "imagenet"),
    "half": (224, 0.875, "bicubic", "half"),
    "half90": (224, 0.9, "bicubic", "half"),
}
_RSB = "a1:rsb a2:rsb a3:rsb160"
_RSB_H = "a1h:rsb a1:rsb a2:rsb a3:rsb160"
#    model, width, their name of it, tags without "_in1k", each with its form
_TIMM = (
    ("vgg16", 1.0, "vgg16", "tv:tv"),
    ("vgg19", 1.0, "vgg19", "tv:tv"),
    ("vgg16_bn", 1.0, "vgg16_bn", "tv:tv"),
    ("vgg19_bn", 1.0, "vgg19_bn", "tv:tv"),
    ("resnet18", 1.0, "resnet18", f"{_RSB} tv:tv gluon:bicubic"),
    ("resnet34", 1.0, "resnet34", f"{_RSB} bt:bicubic ra4_e3600_r224:half90 tv:tv gluon:bicubic"),
    ("resnet50", 1.0, "resnet50", "a1:rsb a1h:rsb176 a2:rsb a3:rsb160 b1k:rsb b2k:rsb c1:rsb c2:rsb d:rsb ram:bicubic"
     " am:bicubic ra:bicubic bt:bicubic tv:tv tv2:tv2 gluon:bicubic"),
    ("resnet101", 1.0, "resnet101", f"{_RSB_H} tv:tv tv2:tv2 gluon:bicubic"),
    ("resnet152", 1.0, "resnet152", f"{_RSB_H} tv:tv tv2:tv2 gluon:bicubic"),
    ("resnext50_32x4d", 1.0, "resnext50_32x4d", f"{_RSB_H} ra:bicubic tv:tv tv2:tv2 gluon:bicubic"),
    ("resnext101_32x4d", 1.0, "resnext101_32x4d", "gluon:bicubic"),
    ("resnext101_32x8d", 1.0, "resnext101_32x8d", "tv:tv tv2:tv2"),
    ("resnext101_64x4d", 1.0, "resnext101_64x4d", "c1:rsb tv:tv gluon:bicubic"),
    ("densenet121", 1.0, "densenet121", "ra:bicubic tv:bicubic"),
    ("densenet161", 1.0, "densenet161", "tv:bicubic"),
    ("densenet169", 1.0, "densenet169", "tv:bicubic"),
    ("densenet201", 1.0, "densenet201", "tv:bicubic"),
    ("mobilenet_v1", 1.0, "mobilenetv1_100", "ra4_e3600_r224:half"),
    ("mobilenet_v1", 1.25, "mobilenetv1_125", "ra4_e3600_r224:half90"),
    ("mobilenet_v2", 1.0, "mobilenetv2_100", "ra:bicubic"),
    ("mobilenet_v2", 0.5, "mobilenetv2_050", "lamb:bicubic"),
    ("mobilenet_v2", 1.4, "mobilenetv2_140", "ra:bicubic"),
)  # fmt: skip


def _timm() -> Iterator[Checkpoint]:
    for model, width, name, tags in _TIMM:
        for tag, form in (each.split(":") for each in tags.split()):
            size, percent, interpolation, numbers = _FORMS[form]
            called = f"{name}.{tag}_in1k"
            yield Checkpoint(
                "timm", model, f"{tag}_in1k", f"https://huggingface.co/timm/{called}/resolve/main/model.safetensors",
                f"{called}.safetensors", width=width, size=size, share=size / math.floor(size / percent),
                interpolation=interpolation, numbers=numbers,
            )  # fmt: skip
    release = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene"
    yield Checkpoint(
        "timm", "xception", "tf_in1k", f"{release}/xception-43020ad28.pth", "xception-43020ad28.pth",
        "sha256:43020ad28", size=299, share=299 / 333, interpolation="bicubic", numbers="half",
    )  # fmt: skip


# --- Keras -----------------------------------------------------------------------------------------------------------

#   model, folder, md5, size, numbers
_KERAS = (
    ("vgg16", "vgg16", "64373286793e3c8b2b4e3219cbf3544b", 224, "caffe"),
    ("vgg19", "vgg19", "cbe5617147190e668d6c5d5026f83318", 224, "caffe"),
    ("resnet50", "resnet", "2cb95161c43110f7111970584f804107", 224, "caffe"),
    ("resnet101", "resnet", "f1aeb4b969a6efcfb50fad2f0c20cfc5", 224, "caffe"),
    ("resnet152", "resnet", "100835be76be38e30d865e96f2aaae62", 224, "caffe"),
    ("xception", "xception", "0a58e3b7378bc2990ea3b43d5981f1f6", 299, "half"),
    ("densenet121", "densenet", "9d60b8095a5708f2dcce2bca79d332c7", 224, "imagenet"),
    ("densenet169", "densenet", "d699b8f76981ab1b30698df4c175e90b", 224, "imagenet"),
    ("densenet201", "densenet", "1ceb130c1ea1b78c3bf6114dbdfd8807", 224, "imagenet"),
)
#    model, folder, a file's name, its widths as they are written there, sizes
_MOBILENETS = (
    ("mobilenet_v1", "mobilenet", "mobilenet_{}_{}_tf.h5",
     {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}, (224, 192, 160, 128)),
    ("mobilenet_v2", "mobilenet_v2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_{}.h5",
     {width: str(width) for width in (1.0, 0.75, 0.5, 0.35)}, (224, 192, 160, 128, 96)),
    ("mobilenet_v2", "mobilenet_v2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_{}.h5",
     {width: str(width) for width in (1.3, 1.4)}, (224,)),
)  # fmt: skip
_STORE = "https://storage.googleapis.com/tensorflow/keras-applications"


def _keras() -> Iterator[Checkpoint]:
    for model, folder, md5, size, numbers in _KERAS:
        file = f"{model}_weights_tf_dim_ordering_tf_kernels.h5"
        yield Checkpoint(
            "keras", model, "imagenet", f"{_STORE}/{folder}/{file}", file, f"md5:{md5}", size=size,
            numbers=numbers,
        )  # fmt: skip
    for model, folder, name, widths, sizes in _MOBILENETS:
        for width, written in widths.items():
            for size in sizes:
                file = name.format(written, size)
                yield Checkpoint(
                    "keras",
                    model,
                    "imagenet",
                    f"{_STORE}/{folder}/{file}",
                    file,
                    width=width,
                    size=size,
                    numbers="half",
                )


CHECKPOINTS: tuple[Checkpoint, ...] = (*_torchvision(), *_timm(), *_keras())


def checkpoints(publisher: str, model: str) -> list[Checkpoint]:
    """Those that a publisher has of a network of the catalogue, its own choice first."""
    return [each for each in CHECKPOINTS if (each.publisher, each.model) == (publisher, model)]


def chosen(
    publisher: str, model: str, tag: str = "", width: float | None = None, size: int | None = None
) -> Checkpoint:
    """The checkpoint that is asked for; of several sizes the one nearest to `size`. NameUnknown lists what there is."""
    known = checkpoints(publisher, model)
    if not known:
        others = _joined(each.publisher for each in CHECKPOINTS if each.model == model)
        rest = f"there are some of {others}" if others else "nor does anyone else"
        raise NameUnknown(f"{publisher} publishes no weights of {model}; {rest}")
    tagged = [each for each in known if tag in ("", each.tag)]
    if not tagged:
        raise NameUnknown(f"{publisher} has no {tag!r} of {model}; it has {_joined(each.tag for each in known)}")
    wanted = 1.0 if width is None else width
    wide = [each for each in tagged if each.width == wanted]
    if not wide:
        widths = _joined(f"{each.width:g}" for each in tagged)
        raise NameUnknown(f"{publisher} has {model} in no width {wanted:g}; it has {widths}")
    return min(wide, key=lambda each: abs(each.size - size)) if size else wide[0]


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
