"""What PyInstaller cannot see by following imports: modules imported by name, and data files."""

from PyInstaller.utils.hooks import (
    collect_data_files,
    collect_dynamic_libs,
    collect_submodules,
    copy_metadata,
)

hiddenimports = collect_submodules(
    "uniaudio_engine",
    filter=lambda name: name.split(".")[1:2] not in (["pyinstaller"], ["serving"]),
)
# Optional, imported where they are used, and large: the CPU build of torch alone has 750 MB. An
# app that imports one of them, or names it by --hidden-import, has it all the same.
excludedimports = [
    "huggingface_hub",
    "matplotlib",
    "onnxruntime",
    "pyarrow",
    "ray",
    "sounddevice",
    "tensorrt",
    "torch",
    "transformers",
    "uniaudio_engine.serving",
]
datas = collect_data_files("uniaudio_engine", excludes=["**/*.cc", "**/*.pyi", "pyinstaller"])
datas += copy_metadata("uniaudio-engine")
binaries = collect_dynamic_libs("uniaudio_engine")  # the CUDA library, which is opened by path
