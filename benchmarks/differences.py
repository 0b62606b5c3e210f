"""How far each framework is from the NumPy engine, for every network and variant, as a Markdown table.

    IMORI_DIFFERENCES=differences.jsonl python -m pytest -m exhaustive
    python benchmarks/differences.py differences.jsonl

The first line takes hours. Each cell is the largest difference beside the largest value, of the logits in float32, of
the logits in float64, and of the gradients, weights and running statistics of a training step in float64: the worst
tensor. Weights and images are random. The logits are of an even, square input, the step of an odd one that is not.
"""

import json
import sys
from pathlib import Path


def table(path: Path) -> str:
    """The Markdown table of what the tests wrote; of two lines for one network and framework the later counts."""
    cells: dict[str, dict[str, str]] = {}
    frameworks: dict[str, None] = {}
    figures: list[tuple[float, float, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        figures.append((row["float32"], row["float64"], max(row["gradients"], row["weights"])))
        cells.setdefault(row["net"], {})[row["framework"]] = " · ".join(
            f"{value:.0e}".replace("e-0", "e-") for value in figures[-1]
        )
        frameworks[row["framework"]] = None
    largest = " · ".join(f"{max(column):.1e}" for column in zip(*figures, strict=True))
    lines = [f"| Network | {' | '.join(frameworks)} |", f"| --- |{' --- |' * len(frameworks)}"]
    for net, found in cells.items():
        lines.append(f"| `{net}` | {' | '.join(found.get(framework, '') for framework in frameworks)} |")
    return "\n".join([*lines, "", f"The largest of all: {largest}"])


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
