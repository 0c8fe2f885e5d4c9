"""A stage's process in the hands of a test: `python scripted_stage.py MODULE CONFIG.json` follows script.json.

It speaks the protocol of training stages (metrics.jsonl, result.json last) without learning anything. The
script is a list of commands, kept in the folder above the work folders.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    config = json.loads(Path(sys.argv[2]).read_text())
    folder = Path(config["work_dir"])
    with (folder.parent / "started.txt").open("a") as log:
        log.write(f"{os.getpid()} {sys.argv[1]}\n")
    for word, value in json.loads((folder.parent / "script.json").read_text()):
        if word == "log":
            with (folder / "metrics.jsonl").open("a") as metrics:
                metrics.write(json.dumps(value) + "\n")
        elif word == "say":
            sys.stdout.write(f"{value}\n")
        elif word == "child":
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (folder.parent / "child.txt").write_text(str(process.pid))
        elif word == "wait_for":
            while not (folder.parent / value).exists():
                time.sleep(0.02)
        elif word == "fail":
            sys.stderr.write(f"{value}\n")
            sys.exit(3)
        elif word == "result":
            (folder / "policy").mkdir(exist_ok=True)
            (folder / "policy" / "model.safetensors").write_text(value)
            (folder / "checkpoints").mkdir(exist_ok=True)
            result = {
                "outputs": {"policy": "policy"},
                "summary": {"loss": 0.5},
                "versions": {},
                "device": "cpu",
            }
            part = folder / "result.json.part"
            part.write_text(json.dumps(result))
            part.replace(folder / "result.json")


if __name__ == "__main__":
    main()
