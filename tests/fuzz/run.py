"""Fuzzing by coverage, with atheris: python -m tests.fuzz.run TARGET --seconds 60 (TARGET may be "all").

An input that raises ends it; libFuzzer keeps it in the folder that is named, and shows the traceback.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


def main():
    wanted = _arguments()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is missing: pip install --group fuzz")
    # Only what is imported inside is measured.
    with atheris.instrument_imports(include=["k1s0_event_store"]):
        from .targets import TARGETS
    if wanted.target == "all":
        failed = [name for name in TARGETS if _run_alone(name, wanted)]
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    if wanted.target not in TARGETS:
        sys.exit(f"no such target; there are {', '.join(TARGETS)}")
    # The first folder is written to; what is committed is only read.
    found = tempfile.mkdtemp(prefix=f"fuzz-{wanted.target}-")
    print(f"{wanted.target}: new inputs are kept in {found}", flush=True)
    known = [str(folder) for folder in [CORPUS / wanted.target] if folder.is_dir()]
    options = [
        f"-max_total_time={wanted.seconds}",
        f"-seed={wanted.seed}",
        f"-artifact_prefix={found}/",
        "-max_len=4096",
        "-timeout=30",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], found, *known, *options], TARGETS[wanted.target])
    atheris.Fuzz()


def _run_alone(name, wanted):
    """libFuzzer ends its process."""
    command = ["-m", __spec__.name, name, "--seconds", str(wanted.seconds), "--seed", str(wanted.seed)]
    return subprocess.run([sys.executable, *command], check=False).returncode


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
