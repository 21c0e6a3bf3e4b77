"""Print how a released quant is served by llama-server and mlx_lm.server, and Hermes Agent's settings for it.

In:  a release folder, or a copy of it on any machine. Out: text on stdout; nothing is started.

  .venv/bin/python scripts/release_serve.py --dir runs/tiny/release --quant q4kxl
"""

from pathlib import Path

from kxl.base import cli
from kxl.release import serving
from kxl.release.folder import read_summary


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder of the release")
    parser.add_argument("--quant", default="q4kxl", help="which file, by its name in the summary")
    parser.add_argument("--port", type=int, default=8080, help="port of the server")
    args = parser.parse_args()
    print(serving.page(serving.of(args.dir, read_summary(args.dir), args.quant), args.port))


if __name__ == "__main__":
    cli.run(main)
