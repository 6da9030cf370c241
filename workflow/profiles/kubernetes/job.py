"""Submit one of Snakemake's job scripts as a Job of Kubernetes, or tell what became of it.

The pods mount the volume claim BSM_CLAIM at this repository's own path and run the image BSM_IMAGE, as the pod or
machine does in which Snakemake itself runs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path


def manifest(options: argparse.Namespace, image: str, claim: str, folder: Path) -> dict:
    """Describe the Job; a pod that fails is not started again: Snakemake counts the attempts."""
    resources = {"cpu": str(options.threads), "memory": f"{options.mem_mb}M"}
    if options.gpus:
        resources["nvidia.com/gpu"] = str(options.gpus)
    container = {
        "name": "bsm",
        "image": image,
        "command": ["/bin/bash", options.script],
        "workingDir": str(folder),
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "study", "mountPath": str(folder)}],
    }
    volume = {"name": "study", "persistentVolumeClaim": {"claimName": claim}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"bsm-{options.rule.replace('_', '-')}-", "labels": {"app": "bsm"}},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": options.minutes * 60,
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}},
        },
    }


def submit(options: argparse.Namespace) -> int:
    """Create the Job and print its name."""
    if missing := [name for name in ("BSM_IMAGE", "BSM_CLAIM") if name not in os.environ]:
        sys.exit(f"error: set {' and '.join(missing)}; see docs/cluster.md")
    job = manifest(options, os.environ["BSM_IMAGE"], os.environ["BSM_CLAIM"], Path.cwd())
    command = ["kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}"]
    return subprocess.run(command, input=json.dumps(job), text=True).returncode


def status(options: argparse.Namespace) -> int:
    """Print running, success or failed; failed is also a pod that was evicted or ran out of time or memory."""
    command = ["kubectl", "get", "job", options.name, "-o", "jsonpath={.status.conditions[?(@.status=='True')].type}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    kinds = done.stdout.split()
    print("success" if "Complete" in kinds else "failed" if "Failed" in kinds else "running")
    return 0


def main() -> None:
    """Read the command line of the profile's commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    submitting = commands.add_parser("submit")
    submitting.add_argument("--rule", required=True)
    for name in ("--threads", "--mem-mb", "--minutes", "--gpus"):
        submitting.add_argument(name, type=int, required=True)
    submitting.add_argument("script")
    submitting.set_defaults(command=submit)
    asking = commands.add_parser("status")
    asking.add_argument("name")
    asking.set_defaults(command=status)
    options = parser.parse_args()
    sys.exit(options.command(options))


if __name__ == "__main__":
    main()
