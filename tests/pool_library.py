"""A custom-op library without ops, that writes down what is asked of its pool: for tests of both runtimes."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Into $STAND_IN_LOG, or else printed. It lacks 5 bytes at one of the checks, of which each load and run has one.
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
static int checks = 0;
static void note(const char* what, int device) {
  const char* path = getenv("STAND_IN_LOG");
  FILE* log = path == NULL ? stdout : fopen(path, "a");
  fprintf(log, "pool=%s %d\\n", what, device);
  if (path == NULL) fflush(log); else fclose(log);
}
int flashvsr_op_abi(void) { return 1; }
int flashvsr_can_serve(int c) { return c == 90; }
void* RegisterCustomOps(void* options, const void* base) { (void)options; (void)base; return NULL; }
const char* flashvsr_share_pool(int device) { note("shared", device); return REFUSAL; }
const char* flashvsr_unshare_pool(int device) { note("no longer shared", device); return NULL; }
unsigned long flashvsr_pool_shortage(int device) { (void)device; return ++checks == LACKS ? 5 : 0; }
void flashvsr_pool_trim(int device) { note("trimmed", device); }
"""


def pool_library(folder: Path, refusal: str | None = None, lacks: int = 0) -> Path:
    """Compiled into `folder`. refusal: why the pool cannot be shared; lacks: number of the check, from 1 on."""
    (folder / "pool.c").write_text(SOURCE)
    said = "NULL" if refusal is None else f'"{refusal}"'
    options = ("-shared", "-fPIC", f"-DREFUSAL={said}", f"-DLACKS={lacks}")
    subprocess.run(["cc", *options, "-o", folder / "pool.so", folder / "pool.c"], check=True)
    return folder / "pool.so"
