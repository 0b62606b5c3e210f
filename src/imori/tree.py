"""The vocabulary in which a network is written: layers and combinators, all frozen values. Standard library only.

A tree says what its paper's table says and nothing else: input channels are never written, and nothing here knows a
framework. `shapes.resolve` gives every node its shapes and its padding in whole numbers; `str(tree)` prints the table.

Shapes are channels first, without the batch: a map is (C, H, W), a flat vector is (F,).
Sizes are an int, or a pair (vertical, horizontal). Padding is an int, a pair (vertical, horizontal), the four sides
(top, bottom, left, right), or "same" (the output is the input divided by the stride, rounded up; an odd rest goes to
the bottom and the right, as TensorFlow has it).
"""

from __future__ import annotations

import difflib
import json
import keyword
import re
import reprlib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from imori.errors import TreeError

Pair: TypeAlias = int | tuple[int, int]
Pad: TypeAlias = int | tuple[int, int] | tuple[int, int, int, int] | Literal["same"]
Init: TypeAlias = Literal["he", "xavier"] | float

FORMAT = 1
ROLES = ("weight", "bias", "mean", "var")
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_NUMBER = 2**24
MAX_TEXT = 2**24


@dataclass(frozen=True, repr=False)
class _Node:
    """What layers and combinators share: they are checked when made, and print as the code that makes them."""

    weighted: ClassVar[bool] = False
    """Whether it, or a child of it, has weights. This and the next two are no fields: they follow from the fields."""
    depth: ClassVar[int] = 0
    """The levels of children below it."""
    nodes: ClassVar[int] = 1
    """How many nodes it is, counting every place where one is used."""

    def _enclose(self, children: list[Tree]) -> None:
        depth = 1 + max(child.depth for child in children)
        nodes = 1 + sum(child.nodes for child in children)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise TreeError(
                f"{type(self).__name__}: {depth} levels and {nodes} nodes are too many;"
                f" a tree has at most {MAX_DEPTH} and {MAX_NODES}"
            )
        weighted = any(child.weighted for child in children)
        for name, value in (("weighted", weighted), ("depth", depth), ("nodes", nodes)):
            object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            check = _CHECKS.get(f"{type(self).__name__}.{part.name}", _CHECKS.get(part.name))
            if check is not None:
                try:
                    object.__setattr__(self, part.name, check(value))
                except ValueError as error:
                    shown = reprlib.repr(value)
                    raise TreeError(f"{type(self).__name__}: {part.name} is {shown}; it must be {error}") from None

    def __repr__(self) -> str:
        written = []
        for part in fields(self):
            value = getattr(self, part.name)
            if part.default is MISSING:
                written.append(repr(value))
            elif value != part.default:
                written.append(f"{part.name}={value!r}")
        return f"{type(self).__name__}({', '.join(written)})"

    def __str__(self) -> str:
        return table(self)  # type: ignore[arg-type]


# --- layers with weights ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Conv(_Node):
    """Convolution (cross-correlation) to `out` channels; map (C, H, W) -> map.

    weight (out, C / groups, kernel height, kernel width), bias (out,).
    `init`: "he" (normal, deviation sqrt(2 / fan in): arXiv:1502.01852), "xavier" (uniform within
    sqrt(6 / (fan in + fan out)): Glorot and Bengio 2010), or a normal distribution's own deviation. Biases start at 0.
    """

    weighted: ClassVar[bool] = True
    out: int
    kernel: Pair
    stride: Pair = 1
    pad: Pad = 0
    groups: int = 1
    dilation: Pair = 1
    bias: bool = True
    init: Init = "he"


@dataclass(frozen=True, repr=False)
class Depthwise(_Node):
    """A convolution of each channel by itself; map (C, H, W) -> map of C * multiplier channels.

    weight (C * multiplier, 1, kernel height, kernel width): channel c gives outputs c * multiplier + m.
    """

    weighted: ClassVar[bool] = True
    kernel: Pair
    stride: Pair = 1
    pad: Pad = 0
    multiplier: int = 1
    dilation: Pair = 1
    bias: bool = True
    init: Init = "he"


@dataclass(frozen=True, repr=False)
class ConvTranspose(_Node):
    """Transposed convolution, the gradient of a `Conv` by its input; map (C, H, W) -> map of `out` channels.

    The full result, (H - 1) * stride + kernel high, is cropped by `pad` and then grows by `output_pad` at the bottom
    and the right. weight (C, out / groups, kernel height, kernel width).
    """

    weighted: ClassVar[bool] = True
    out: int
    kernel: Pair
    stride: Pair = 1
    pad: Pad = 0
    output_pad: Pair = 0
    groups: int = 1
    bias: bool = True
    init: Init = "he"


@dataclass(frozen=True, repr=False)
class Linear(_Node):
    """A dense (fully connected, affine) layer; flat (F,) -> flat (out,). weight (out, F), bias (out,)."""

    weighted: ClassVar[bool] = True
    out: int
    bias: bool = True
    init: Init = "he"


@dataclass(frozen=True, repr=False)
class BatchNorm(_Node):
    """Batch normalisation of each channel (arXiv:1502.03167); map or flat, the shape stays.

    weight, bias, mean and var, each (C,). `momentum` is the share of the new batch in the running mean and variance;
    the batch is normalised by its biased variance, the running one is unbiased (N / (N - 1)), as in PyTorch.
    """

    weighted: ClassVar[bool] = True
    eps: float = 1e-5
    momentum: float = 0.1


# --- layers without weights ------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class MaxPool(_Node):
    """The largest value of each window; `stride` is the kernel unless given. `ceil` rounds the output size up."""

    kernel: Pair
    stride: Pair | None = None
    pad: Pad = 0
    ceil: bool = False

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class AvgPool(_Node):
    """The mean of each window. `count_include_pad` counts padded zeros (never those that `ceil` or "same" add)."""

    kernel: Pair
    stride: Pair | None = None
    pad: Pad = 0
    ceil: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool(_Node):
    """Means over a grid of `size` cells, whatever the input; map (C, H, W) -> (C, *size).

    Cell i of n covers rows floor(i * H / n) to ceil((i + 1) * H / n), as in PyTorch.
    """

    size: Pair


@dataclass(frozen=True, repr=False)
class GlobalAvgPool(_Node):
    """The mean of each channel (arXiv:1312.4400); map (C, H, W) -> flat (C,)."""


@dataclass(frozen=True, repr=False)
class Flatten(_Node):
    """Map (C, H, W) -> flat (C * H * W,), in that order in every framework."""


@dataclass(frozen=True, repr=False)
class LRN(_Node):
    """Local response normalisation across `size` neighbouring channels: x / (k + alpha * sum of squares) ** beta.

    From Krizhevsky et al. 2012, section 3.3. `alpha` multiplies the sum, not the mean; `size` is odd.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0


@dataclass(frozen=True, repr=False)
class ReLU(_Node):
    """max(x, 0), and no more than `max` where it is given (6 for MobileNet-v2)."""

    max: float | None = None


@dataclass(frozen=True, repr=False)
class LeakyReLU(_Node):
    """x where positive, slope * x elsewhere."""

    slope: float = 0.01


@dataclass(frozen=True, repr=False)
class Sigmoid(_Node):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, repr=False)
class Tanh(_Node):
    """The hyperbolic tangent."""


@dataclass(frozen=True, repr=False)
class Softmax(_Node):
    """exp(x) over its sum, along the channels. A network for training ends in logits, without it."""


@dataclass(frozen=True, repr=False)
class Dropout(_Node):
    """In training, sets a share `drop` of the values to zero and divides the others by 1 - drop."""

    drop: float = 0.5


@dataclass(frozen=True, repr=False)
class Identity(_Node):
    """Passes its input through: the plain shortcut of a residual block."""


@dataclass(frozen=True, repr=False)
class Subsample(_Node):
    """Every `stride`-th row and column, from the first: the shortcut of ResNet's option A."""

    stride: Pair


@dataclass(frozen=True, repr=False)
class PadChannels(_Node):
    """Appends channels of zeros up to `out`: the shortcut of ResNet's option A."""

    out: int


@dataclass(frozen=True, repr=False)
class Select(_Node):
    """The channels of these numbers (from 0), in this order: what a filter that does not see every map is given."""

    channels: tuple[int, ...]


# --- combinators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, init=False)
class _Combinator(_Node):
    """Children in order, each with its name. Unnamed ones are numbered (among the weighted) or named by their kind."""

    children: tuple[tuple[str | None, Tree], ...]

    def __init__(self, /, *unnamed: Tree, **named: Tree) -> None:
        self._adopt(tuple((None, child) for child in unnamed) + tuple(named.items()))

    @classmethod
    def of(cls, children: tuple[tuple[str | None, Tree], ...]) -> _Combinator:
        """From (name or None, child) pairs, where names and their order are computed."""
        made = cls.__new__(cls)
        made._adopt(tuple(children))
        return made

    def _adopt(self, children: tuple[tuple[str | None, Tree], ...]) -> None:
        object.__setattr__(self, "children", children)
        kind = type(self).__name__
        if not children:
            raise TreeError(f"{kind} has no children; use Identity() to pass an input through")
        for name, child in children:
            if not isinstance(child, get_args(Tree)):
                called = f"child {name}" if name else "a child"
                raise TreeError(f"{kind}: {called} is {reprlib.repr(child)}, which is no layer; make it, as in ReLU()")
            if name is not None:
                _check_name(kind, name)
        self._enclose([child for _, child in children])
        seen = set[str]()
        for segment, _ in self.segments():
            if segment in seen:
                raise TreeError(f"{kind}: two children are called {segment!r}; give each its own name")
            seen.add(segment)

    def segments(self) -> Iterator[tuple[str, Tree]]:
        """Each child with its segment of the path: its name, or its number among the unnamed ones with weights.

        An unnamed child without weights is called by its kind and number ("relu_0"), so that adding a Dropout
        renames no weight.
        """
        number, kinds = 0, dict[str, int]()
        for name, child in self.children:
            if name is not None:
                yield name, child
            elif child.weighted:
                yield str(number), child
                number += 1
            else:
                kind = type(child).__name__.lower()
                yield f"{kind}_{kinds.get(kind, 0)}", child
                kinds[kind] = kinds.get(kind, 0) + 1

    def __repr__(self) -> str:
        names = [name for name, _ in self.children]
        unnamed = names.count(None)
        if any(names[:unnamed]) or not all(str(name).isidentifier() for name in names[unnamed:]):
            return f"{type(self).__name__}.of({self.children!r})"
        inside = (f"{name}={child!r}" if name is not None else repr(child) for name, child in self.children)
        return f"{type(self).__name__}({', '.join(inside)})"


class Chain(_Combinator):
    """One after the other."""


class Sum(_Combinator):
    """The same input to every child; their outputs, of one shape, are added."""


class Concat(_Combinator):
    """The same input to every child; their outputs are joined along the channels, in order."""


@dataclass(frozen=True, repr=False)
class Aux(_Node):
    """An auxiliary classifier: passes its input through, and in training adds its head's loss times `weight`.

    The head takes the input to logits. It is dropped at inference, so it forbids no input size there.
    """

    head: Tree
    weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.head, get_args(Tree)):
            raise TreeError(f"Aux: head is {reprlib.repr(self.head)}; it must be a layer or a combinator")
        self._enclose([self.head])


Layer: TypeAlias = (
    Conv | Depthwise | ConvTranspose | Linear | BatchNorm
    | MaxPool | AvgPool | AdaptiveAvgPool | GlobalAvgPool | Flatten | LRN
    | ReLU | LeakyReLU | Sigmoid | Tanh | Softmax | Dropout | Identity | Subsample | PadChannels | Select
)  # fmt: skip
Tree: TypeAlias = Layer | Chain | Sum | Concat | Aux
KINDS: dict[str, type[Tree]] = {kind.__name__: kind for kind in get_args(Tree)}
ACTIVATIONS = (ReLU, LeakyReLU, Sigmoid, Tanh, Softmax)

# --- checks ----------------------------------------------------------------------------------------------------------


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
        raise ValueError(f"a whole number from {least} to {MAX_NUMBER}")
    return value


def _sizes(value: Any, least: int) -> Pair:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError("a whole number or a pair (vertical, horizontal)")
        vertical, horizontal = (_whole(part, least) for part in value)
        return vertical if vertical == horizontal else (vertical, horizontal)
    return _whole(value, least)


def _pad(value: Any) -> Pad:
    if value == "same":
        return "same"
    if isinstance(value, (tuple, list)) and len(value) == 4:
        top, bottom, left, right = (_whole(part, 0) for part in value)
        return _sizes((top, left), 0) if (top, left) == (bottom, right) else (top, bottom, left, right)
    try:
        return _sizes(value, 0)
    except ValueError:
        raise ValueError(
            'a whole number from 0, a pair (vertical, horizontal), four sides (top, bottom, left, right) or "same"'
        ) from None


def _number(value: Any, least: float, below: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
        raise ValueError(what)
    return float(value)


def _init(value: Any) -> Init:
    if value == "he":
        return "he"
    if value == "xavier":
        return "xavier"
    return _number(value, 0.0, 1e6, '"he", "xavier" or a deviation from 0')


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _odd(value: Any) -> int:
    if _whole(value, 1) % 2 == 0:
        raise ValueError("odd, so that the window has a middle")
    return int(value)


def _places(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not value or len(set(map(repr, value))) < len(value):
        raise ValueError("a tuple of different whole numbers from 0, one at least")
    return tuple(_whole(part, 0) for part in value)


_CHECKS: dict[str, Any] = {
    "out": lambda value: _whole(value, 1),
    "groups": lambda value: _whole(value, 1),
    "multiplier": lambda value: _whole(value, 1),
    "kernel": lambda value: _sizes(value, 1),
    "stride": lambda value: _sizes(value, 1),
    "dilation": lambda value: _sizes(value, 1),
    "output_pad": lambda value: _sizes(value, 0),
    "pad": _pad,
    "AdaptiveAvgPool.size": lambda value: _sizes(value, 1),
    "LRN.size": _odd,
    "Select.channels": _places,
    "bias": _flag,
    "ceil": _flag,
    "count_include_pad": _flag,
    "init": _init,
    "eps": lambda value: _number(value, 1e-12, 1.0, "a number from 1e-12, below 1"),
    "momentum": lambda value: _number(value, 0.0, 1.0 + 1e-12, "a number from 0 to 1"),
    "drop": lambda value: _number(value, 0.0, 1.0, "a share from 0, below 1"),
    "slope": lambda value: _number(value, -1e6, 1e6, "a number"),
    "alpha": lambda value: _number(value, 0.0, 1e6, "a number from 0"),
    "beta": lambda value: _number(value, 0.0, 1e6, "a number from 0"),
    "k": lambda value: _number(value, 1e-12, 1e6, "a number above 0"),
    "weight": lambda value: _number(value, 0.0, 1e6, "a number from 0"),
    "max": lambda value: None if value is None else _number(value, 1e-12, 1e6, "None or a number above 0"),
}


# What a segment of a path may not be: it would hide an attribute of a framework's module.
RESERVED = frozenset(
    """
    add add_hook add_link add_loss add_metric add_module add_param add_persistent add_variable add_weight addgrads
    append apply autocast bfloat16 buffers build built call call_signature_parameters call_super_init children clear
    cleargrads compile compiled compute_dtype compute_loss compute_mask compute_metrics compute_output_shape copy
    copyparams count_params cpu cuda cursor default delete_hook deterministic device device_resident_accept
    disable_update double dtype dtype_policy dump_patches enable_update eval evaluate export extend extra_repr fit float
    forward from_chx from_config from_iterable from_params get_buffer get_config get_extra_state get_layer get_parameter
    get_submodule get_weights half init_scope inplace input input_shape input_spec inputs insert ipu items iter_children
    iter_modules jit_compile keys layers links load_state_dict load_weights local_link_hooks loss losses merge metrics
    metrics_names modules mtia name name_scope named_buffers named_children named_modules named_parameters namedlinks
    namedparams non_trainable_variables non_trainable_weights operations optimizer output output_shape outputs
    parameters params path perturb pop predict predict_on_batch predict_step print printable_specs quantize
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_persistent register_state_dict_post_hook register_state_dict_pre_hook
    rematerialized_call remove repeat requires_grad requires_grad_ reset_states reverse run_eagerly save save_weights
    serialize serve set set_attributes set_extra_state set_submodule set_view set_weights share_memory signatures sow
    split state_dict stateless_call submodules summary supports_masking symbolic_call T_destination test_on_batch
    test_step to to_chx to_cpu to_device to_empty to_gpu to_intel64 to_json train train_on_batch train_step trainable
    trainable_variables trainable_weights training type update update_enabled use_running_average values variable_dtype
    variables weights with_name_scope within_init_scope xp xpu zero_grad zerograds
    """.split()  # noqa: SIM905
)
_SEGMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*|[0-9]+")


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not _SEGMENT.fullmatch(name) or len(name) > 64 or keyword.iskeyword(name):
        raise TreeError(f"{kind}: {name!r} is no name for a child; use letters, digits and _, up to 64 of them")
    if name in ROLES or name in RESERVED:
        raise TreeError(f"{kind}: a child may not be called {name!r}, which a framework's modules use; try {name}1")


# --- the table, and JSON ---------------------------------------------------------------------------------------------


def _join(path: str, segment: object) -> str:
    return f"{path}.{segment}" if path else str(segment)


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer with its path, in the order in which it runs; an auxiliary head's layers included."""
    match tree:
        case Chain() | Sum() | Concat():
            for segment, child in tree.segments():
                yield from leaves(child, _join(path, segment))
        case Aux(head):
            yield from leaves(head, path)
        case _:
            yield path, tree


def without_heads(tree: Tree) -> Tree:
    """The tree as it is at inference: an `Identity` for each `Aux`, and the same paths."""
    match tree:
        case Chain() | Sum() | Concat():
            children = tuple((segment, without_heads(child)) for segment, child in tree.segments())
            return type(tree).of(children)  # type: ignore[return-value]
        case Aux():
            return Identity()
        case _:
            return tree


def cut(tree: Tree, path: str) -> Tree:
    """The tree up to and with the node of that path, whose output are features; auxiliary heads are left out.

    Of a `Sum` or `Concat` that the path leads into, the branch on it is kept alone. Paths stay as they were, so that
    weights still fit. TreeError with the nearest paths where there is no such node.
    """
    made = _cut(without_heads(tree), path.split("."))
    if made is None:
        near = difflib.get_close_matches(path, [node for node in _paths(tree) if node], n=5, cutoff=0.3)
        raise TreeError(f"there is no {path!r} in this network; the nearest paths are {', '.join(near) or 'none'}")
    return made


def _cut(tree: Tree, segments: list[str]) -> Tree | None:
    if not segments:
        return tree
    first, *rest = segments
    before: list[tuple[str | None, Tree]] = []
    for segment, child in tree.segments() if isinstance(tree, _Combinator) else ():
        if segment == first:
            last = _cut(child, rest)
            return None if last is None else Chain.of((*before, (segment, last)))  # type: ignore[return-value]
        before += [(segment, child)] if isinstance(tree, Chain) else []
    return None


def _paths(tree: Tree, path: str = "") -> Iterator[str]:
    """The path of every node, combinators included, auxiliary heads not."""
    yield path
    if isinstance(tree, _Combinator):
        for segment, child in tree.segments():
            yield from _paths(child, _join(path, segment))


def columns(layer: Layer | Sum | Concat) -> tuple[str, str, str, str]:
    """kernel, filters, stride and padding as a paper's table writes them; "-" where a layer has none."""
    kernel = layer.size if isinstance(layer, AdaptiveAvgPool) else getattr(layer, "kernel", None)
    filters, stride, pad = (getattr(layer, name, None) for name in ("out", "stride", "pad"))
    ceil = " ceil" if getattr(layer, "ceil", False) else ""
    return (
        _written((kernel, kernel) if isinstance(kernel, int) else kernel),
        _written(filters),
        _written(stride),
        _written(pad) + ceil,
    )


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return (" x " if len(value) == 2 else "/").join(map(str, value))
    return "-" if value is None else str(value)


def describe(layer: Layer | Sum | Concat) -> str:
    """The layer's kind, with what departs from the defaults and no column says: "Conv groups=2", "ReLU max=6.0"."""
    said = {"out", "kernel", "stride", "pad", "ceil", "init", "children"}
    if isinstance(layer, AdaptiveAvgPool):
        said.add("size")
    values = {part.name: getattr(layer, part.name) for part in fields(layer) if part.name not in said}
    defaults = {part.name: part.default for part in fields(layer)}
    departures = [f"{name}={value}" for name, value in values.items() if value != defaults[name]]
    return " ".join([type(layer).__name__, *departures])


def table(tree: Tree) -> str:
    """The tree as its paper's table: a row a layer, an activation in the row of what it follows.

    Where branches meet again, a row says `Sum` or `Concat`.
    """
    rows = [("path", "layer", "kernel", "filters", "stride", "padding", "activation"), *rows_of(tree)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def rows_of(tree: Tree, path: str = "") -> list[tuple[str, ...]]:
    """The rows of `table`: path, layer, kernel, filters, stride, padding, activation."""
    if isinstance(tree, Aux):
        return rows_of(tree.head, path)
    if not isinstance(tree, (Chain, Sum, Concat)):
        return [(path, describe(tree), *columns(tree), "-")]
    rows: list[tuple[str, ...]] = []
    follows = False
    for segment, child in tree.segments():
        if follows and isinstance(child, ACTIVATIONS):
            rows[-1] = (*rows[-1][:-1], describe(child))
        else:
            rows += rows_of(child, _join(path, segment))
        follows = isinstance(tree, Chain) and not isinstance(child, (Chain, Aux, *ACTIVATIONS))
    return rows if isinstance(tree, Chain) else [*rows, (path, describe(tree), *columns(tree), "-")]


def to_data(tree: Tree) -> dict[str, Any]:
    """The tree as plain data for JSON; every field is written, defaults included."""
    data: dict[str, Any] = {"kind": type(tree).__name__}
    match tree:
        case Chain() | Sum() | Concat():
            data["children"] = [[name, to_data(child)] for name, child in tree.children]
        case Aux(head, weight):
            data |= {"head": to_data(head), "weight": weight}
        case _:
            for part in fields(tree):
                value = getattr(tree, part.name)
                data[part.name] = list(value) if isinstance(value, tuple) else value
    return data


def to_json(tree: Tree) -> str:
    """The tree as JSON, with the format's number: read it back with `from_json`."""
    return json.dumps({"format": FORMAT, "tree": to_data(tree)})


def from_json(text: str) -> Tree:
    """The tree that `to_json` wrote. Refuses, by TreeError, what it does not know: nothing is guessed or dropped."""
    if len(text) > MAX_TEXT:
        raise TreeError(f"a tree in JSON has at most {MAX_TEXT} characters, and this has {len(text)}")
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TreeError(f"this is not a tree in JSON: {error}") from error
    if not isinstance(data, dict) or set(data) != {"format", "tree"}:
        raise TreeError('a tree in JSON is {"format": 1, "tree": {...}}, and this is not')
    if type(data["format"]) is not int or data["format"] != FORMAT:
        raise TreeError(f"this tree has format {reprlib.repr(data['format'])}; this imori reads {FORMAT}; update imori")
    return from_data(data["tree"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a field is written twice")
    return data


def from_data(data: Any) -> Tree:
    """The tree of plain data as `to_data` makes it; its depth, size and numbers are bounded."""
    return _from_data(data, "", 0, [MAX_NODES])


def _from_data(data: Any, path: str, depth: int, budget: list[int]) -> Tree:
    where = path or "the root"
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise TreeError(f"{where}: the tree is deeper than {MAX_DEPTH} or has more than {MAX_NODES} nodes")
    kind = KINDS.get(data["kind"]) if isinstance(data, dict) and isinstance(data.get("kind"), str) else None
    if kind is None:
        found = data.get("kind") if isinstance(data, dict) else data
        raise TreeError(f"{where}: {reprlib.repr(found)} is no kind of layer; the kinds are {', '.join(KINDS)}")
    expected = {"kind", *(part.name for part in fields(kind))}
    if set(data) != expected:
        wrong = reprlib.repr(sorted(set(data) ^ expected))
        raise TreeError(f"{where}: {data['kind']} has the fields {sorted(expected)}; these differ: {wrong}")
    make: Any = kind
    values: dict[str, Any]
    if issubclass(kind, _Combinator):
        pairs = data["children"]
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise TreeError(f"{where}: children must be a list of [name or null, node]")
        make = kind.of
        values = {
            "children": tuple(
                (name, _from_data(child, _join(path, i if name is None else name), depth + 1, budget))
                for i, (name, child) in enumerate(pairs)
            )
        }
    else:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        del values["kind"]
        if kind is Aux:
            values["head"] = _from_data(data["head"], path, depth + 1, budget)
    try:
        return make(**values)  # type: ignore[no-any-return]
    except TreeError as error:
        raise TreeError(f"{where}: {error}") from error
