"""Time and peak memory of the pass on models of many layers, beside other graph optimizers on the same files.

``python benchmarks/pass/bench.py FOLDER [--peers PYTHON]`` measures every model of ``models.py`` in FOLDER, each in a
process of its own; ``--peers`` names an interpreter that has onnxscript and onnxslim.  Imports are not counted in
seconds, but in memory.  Prints a table and, with ``--json``, writes it down.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PEAK = """
import re
from pathlib import Path
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024
"""

OURS = """
import json, sys, time
from alibi_rewriter import Options, rewrite
start, worked = time.perf_counter(), time.process_time()
result = rewrite(sys.argv[1], sys.argv[2], options=Options(verify=sys.argv[3] == "verify"))
seconds, worked = time.perf_counter() - start, time.process_time() - worked
"""

TOOLS = {
    "onnxruntime.transformers": """
import sys, time, logging
logging.disable(logging.CRITICAL)
from onnxruntime.transformers import optimizer
start = time.perf_counter()
made = optimizer.optimize_model(sys.argv[1], model_type="gpt2", num_heads=4, hidden_size=32, opt_level=0)
made.save_model_to_file(sys.argv[2])
seconds = time.perf_counter() - start
""",
    "onnxscript.optimizer": """
import sys, time
import onnx, onnxscript.optimizer
start = time.perf_counter()
onnx.save(onnxscript.optimizer.optimize(onnx.load(sys.argv[1])), sys.argv[2])
seconds = time.perf_counter() - start
""",
    "onnxslim": """
import sys, time
import onnxslim
start = time.perf_counter()
onnxslim.slim(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - start
""",
}


def measure(
    python: str, code: str, *arguments: str, end: str = 'print("RESULT", json.dumps([seconds, peak]))'
) -> object:
    """What a script prints at its end, run in a process of its own; None if it fails."""
    script = f"import json\n{code}\n{PEAK}\n{end}"
    done = subprocess.run(
        [python, "-W", "ignore", "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        print(f"    failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(found.group(1))


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", help="an interpreter with onnxscript and onnxslim")
    parser.add_argument("--verify", type=int, default=2, help="largest number of layers to run the verification on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    models = sorted(
        options.folder.glob("bloom-*.onnx"), key=lambda p: (p.stem.split("-")[1], int(p.stem.split("-")[2]))
    )
    end = 'print("RESULT", json.dumps([seconds, peak, len(result.fused), result.seconds, worked]))'
    for path in models:
        _, exporter, layers = path.stem.split("-")
        row: dict[str, object] = {"exporter": exporter, "layers": int(layers), "file_mib": path.stat().st_size / 2**20}
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "out.onnx")
            ours = measure(sys.executable, OURS, str(path), out, "no", end=end)
            assert isinstance(ours, list)
            row |= {"seconds": ours[0], "peak_mib": ours[1], "fused": ours[2], "phases": ours[3], "processor": ours[4]}
            phases = ", ".join(f"{k} {v:.2f}" for k, v in ours[3].items())
            print(
                f"{exporter} {layers} layers: {ours[0]:.2f} s, {ours[4]:.2f} s of a processor, {ours[1]:.0f} MiB, "
                f"{ours[2]} fused ({phases})",
                flush=True,
            )
            if int(layers) <= options.verify:
                verified = measure(sys.executable, OURS, str(path), out, "verify", end=end)
                assert isinstance(verified, list)
                row["verification_seconds"] = verified[3]["verify"]
                print(f"    verification {verified[3]['verify']:.2f} s", flush=True)
            for name, code in TOOLS.items() if options.peers else ():
                peer = measure(options.peers, code, str(path), out)
                if isinstance(peer, list):
                    row[name] = {"seconds": peer[0], "peak_mib": peer[1], "ratio": peer[0] / ours[0]}
                    print(f"    {name}: {peer[0]:.2f} s ({peer[0] / ours[0]:.2f} x), {peer[1]:.0f} MiB", flush=True)
        rows.append(row)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
