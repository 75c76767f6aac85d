"""Runs a real Envoy with a JSON access log, makes three calls through it, and posts the log.

usage: envoy-log.py URL    (the token in the environment's TOKEN)
"""

import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import envoy

FORMAT = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "route_name": "%ROUTE_NAME%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
}


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def cluster(name: str, port: int) -> dict:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }


def config(port: int, backend: int, dead: int, log: pathlib.Path) -> dict:
    package = "type.googleapis.com/envoy.extensions"
    routes = [
        {"name": "hello", "match": {"prefix": "/hello"}, "route": {"cluster": "backend"}},
        {"name": "dead", "match": {"prefix": "/dead"}, "route": {"cluster": "dead"}},
    ]
    manager = {
        "@type": f"{package}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{package}.access_loggers.file.v3.FileAccessLog",
                    "path": str(log),
                    "log_format": {"json_format": FORMAT},
                },
            }
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{package}.filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "static_resources": {
            "listeners": [listener],
            "clusters": [cluster("backend", backend), cluster("dead", dead)],
        }
    }


def call(url: str, method: str = "GET") -> int:
    request = urllib.request.Request(url, method=method, headers={"user-agent": "envoy-test/1"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def post(url: str, body: bytes) -> dict:
    headers = {"content-type": "application/x-ndjson", "authorization": f"Bearer {os.environ['TOKEN']}"}
    request = urllib.request.Request(url, data=body, method="POST", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def main() -> None:
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="doorward-envoy-") as folder:
        log = pathlib.Path(folder, "access.log")
        file = pathlib.Path(folder, "envoy.json")
        file.write_text(json.dumps(config(port, backend.server_port, free_port(), log)))
        program = pathlib.Path(envoy.__file__).parent / "_bin" / "envoy"
        running = subprocess.Popen(
            [program, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"],
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    first = call(f"http://127.0.0.1:{port}/hello/world?token=abc")
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            statuses = [first, call(f"http://127.0.0.1:{port}/none", "POST"), call(f"http://127.0.0.1:{port}/dead")]
            while not log.exists() or len(log.read_text().splitlines()) < 3:
                if time.monotonic() > deadline:
                    sys.exit("Envoy wrote no log")
                time.sleep(0.1)
            report = post(sys.argv[1], log.read_bytes())
            print(statuses, report, log.read_text())
            if report.get("accepted") != 3 or "unknown_fields" in report:
                sys.exit(1)
        finally:
            running.terminate()
            running.wait(10)


main()
