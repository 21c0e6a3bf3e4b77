"""A program, not a module: mlx_lm.server as it is, whose every answer names the token in HERMES_KXL_SERVER_TOKEN.

  python mlx_program.py --model FOLDER --host 127.0.0.1 --port N

The token stands in the HTTP header `Server`, so whoever knows it can tell our server from another one on its port.
"""

import http.server
import os
import runpy

if __name__ == "__main__":
    http.server.BaseHTTPRequestHandler.server_version = os.environ.pop("HERMES_KXL_SERVER_TOKEN")
    runpy.run_module("mlx_lm.server", run_name="__main__", alter_sys=True)
