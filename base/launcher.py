"""The first file that a child process runs (see ``isolation``): sets its search path, loads this package, calls main.

``python -s [-P] .../alibi_rewriter/base/launcher.py '{"module": ..., "path": [...]}' ARGUMENTS``
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # This comes before any other import, since this file's folder holds modules with general names.
    del sys.path[0]

import importlib
import importlib.util
import json
from pathlib import Path


def launch(request: str, arguments: list[str]) -> int:
    """Run ``main()`` of a module.

    Args:
        request: JSON: ``module``, its full name, and ``path``, where other modules are looked for.
        arguments: The module's command line.

    Returns:
        The exit status.
    """
    wanted = json.loads(request)
    sys.path[:] = wanted["path"]
    sys.argv[:] = [wanted["module"], *arguments]
    package = str(wanted["module"]).partition(".")[0]
    folder = Path(__file__).resolve().parents[1]
    # The package around this file, whatever else has its name, and also where it is found by a hook only that this
    # process lacks: an editable installation in the user's site folder.
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} is not in {folder}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)
    return int(importlib.import_module(wanted["module"]).main() or 0)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1], sys.argv[2:]))
