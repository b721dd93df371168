"""`python -m devcluster up`: a cluster that stays up until Ctrl-C. `python -m devcluster images FILE`: only the images."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from controlplane import programs
from controlplane.run import RunError
from devcluster import DevCluster, Node, images


def main() -> int:
    parser = argparse.ArgumentParser(prog="devcluster")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="a cluster that stays up until Ctrl-C")
    up.add_argument("--nodes", type=int, default=1, metavar="N")
    up.add_argument("--gpus", type=int, default=8, metavar="N", help="of each node")
    only = commands.add_parser("images", help="assemble the images, as an OCI archive")
    only.add_argument("archive", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "images":
            images.build(arguments.archive)
            return 0
        return _up(arguments.nodes, arguments.gpus)
    except (programs.UnavailableError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _up(nodes: int, gpus: int) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C does
    start = time.monotonic()
    tools = DevCluster.find_programs("kubectl", "helm")
    specs = [Node(f"gpu-{chr(ord('a') + index)}", gpus=gpus) for index in range(nodes)]
    with DevCluster(specs) as cluster:
        cluster.import_image(images.build(cluster.folder / "images.tar"))
        folders = ":".join(sorted({str(tools[name].parent) for name in ("kubectl", "helm")}))
        print(f"# ready in {time.monotonic() - start:.0f} s; Ctrl-C ends it. In another terminal:")
        print(f"export KUBECONFIG={cluster.kubeconfig}\nexport PATH={folders}:$PATH")
        print("# images in it: weir.dev/weir:dev weir.dev/engines:dev (imagePullPolicy: Never)", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
