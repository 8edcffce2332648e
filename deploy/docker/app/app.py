"""An application as it may have been before Keyward: it counts its visitors in Redis. Only REDIS_URL and the password are new."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import redis

client = redis.from_url(
    os.environ["REDIS_URL"], password=Path(os.environ["REDIS_PASSWORD_FILE"]).read_text().strip(), decode_responses=True
)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, text = 200, f"visitor {client.incr('visitors')}\n"
        except redis.RedisError as error:
            status, text = 503, f"{error}\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


server = ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler)
print(f"listening on port {server.server_port}")
server.serve_forever()
