"""Generates the directories `tests/models/more-*`: small random models in common layouts, with the
results that sentence-transformers, transformers, model2vec and pylate compute for them.

    python tools/more_models OUT [NAME ...]

Needs the packages listed in `tests/models/README.md`. The ColBERT models need pylate, which requires an
older sentence-transformers, so generate them separately. Tokenizers come from other directories in
`tests/models`. That README also describes the format of `expected.json`.
"""

import shutil
import sys
from pathlib import Path

import embedders  # noqa: F401
import heads  # noqa: F401
import numpy
import sides  # noqa: F401
import torch
from shared import MAKERS, SCRATCH

try:
    import colbert  # noqa: F401
except ImportError:
    print("pylate is not installed; skipping ColBERT models", file=sys.stderr)


def main():
    out, selected = Path(sys.argv[1]), sys.argv[2:] or list(MAKERS)
    for index, (name, make) in enumerate(MAKERS.items()):
        if name not in selected:
            continue
        torch.manual_seed(100 + index)
        numpy.random.seed(index)
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(SCRATCH, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{name}: {size // 1024} KB", flush=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
