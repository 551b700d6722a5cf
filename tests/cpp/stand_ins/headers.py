"""Copies TensorRT's headers, with bodies for the virtual functions of three classes, so that a stand-in need override
only what is called:   headers.py FOLDER TARGET"""

import re
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
target.mkdir(parents=True, exist_ok=True)
for header in source.glob("NvInfer*.h"):
    text = header.read_text(encoding="utf-8")
    for name in ("VRuntime", "VCudaEngine", "VExecutionContext") if header.name == "NvInferImpl.h" else ():
        begin = re.search(rf"^class {name} : ", text, re.MULTILINE).start()
        end = text.index("\n};", begin)
        text = text[:begin] + text[begin:end].replace(" = 0;", " { __builtin_abort(); }") + text[end:]
    (target / header.name).write_text(text, encoding="utf-8")
