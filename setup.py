"""Builds the Cython modules; everything else about the package stands in pyproject.toml.

MATYAN_SANITIZE=1 builds it with AddressSanitizer and UBSan (see `make asan`).
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Without what only a debugger reads, which would be most of a wheel.
compile_args = ["-O3", "-g0", "-std=c11", "-Wno-unreachable-code"]
if sys.platform == "linux":
    # The codec marks what is to be inlined. GCC stops when a file has grown by 40 %, and then leaves out what is called most.
    # Clang, a Mac's compiler, has no such limit and no such word.
    compile_args += ["--param", "inline-unit-growth=100"]
link_args: list[str] = []
if os.environ.get("MATYAN_SANITIZE") == "1":
    sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    compile_args = ["-O1", "-g", "-std=c11", *sanitize]
    link_args = sanitize

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                [name.replace(".", "/") + ".pyx"],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
            for name in ("matyan._codec", "matyan.store.fdb._calls", "matyan.broker.kafka._answers")
        ],
        compiler_directives={"language_level": "3"},
    )
)
