"""A small OpenID provider: discovery, keys, the code flow with PKCE, rotating refresh tokens."""

import base64
import hashlib
import json
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT = "answerback-desktop"


class OidcProvider:
    """`break_*` attributes make it misbehave. `visit` is the person with a browser who agrees."""

    def __init__(self, subject="ada"):
        self.subject = subject
        self.key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        self.codes = {}
        self.refresh_tokens = set()
        self.lifetime_s = 3600
        self.refusal = None  # (status, error) of the token endpoint
        self.id_claims = {}
        self.metadata = {}
        self.forms = []
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def public_keys(self):
        jwk = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**jwk, "kid": "one", "alg": "RS256"}]}

    def token(self, **claims):
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": self.subject, "iat": now, "exp": now + self.lifetime_s, **claims}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self.key, "RS256", {"kid": "one"})

    def visit(self, url, **changes):
        """Sign in, and go where the provider sends the browser. Returns the page seen there."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self._count += 1
        code = f"code-{self._count}"
        self.codes[code] = query
        back = {"code": code, "state": query["state"], **changes}
        back = {name: value for name, value in back.items() if value is not None}
        with urllib.request.urlopen(f"{query['redirect_uri']}?{urlencode(back)}") as page:
            return page.read().decode()

    def grant(self, form):
        self.forms.append(form)
        if self.refusal is not None:
            return self.refusal[0], {"error": self.refusal[1]}
        if form["grant_type"] == "authorization_code":
            asked = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if (
                asked is None
                or asked["code_challenge"] != challenge
                or asked["redirect_uri"] != form["redirect_uri"]
                or asked["client_id"] != form["client_id"]
            ):
                return 400, {"error": "invalid_grant"}
            claims = {"aud": CLIENT, "nonce": asked["nonce"], "name": "Ada Lovelace", **self.id_claims}
            extra = {"id_token": self.token(**claims)}
        else:
            if form["refresh_token"] not in self.refresh_tokens:
                return 400, {"error": "invalid_grant"}
            self.refresh_tokens.discard(form["refresh_token"])
            extra = {}
        self._count += 1
        refresh = f"refresh-{self._count}"
        self.refresh_tokens.add(refresh)
        access = self.token(aud="answerback", jti=str(self._count))
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": self.lifetime_s}
        return 200, {**answer, "refresh_token": refresh, **extra}

    def _handler(self):
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.path == "/.well-known/openid-configuration":
                    self.answer(
                        200,
                        {
                            "issuer": provider.issuer,
                            "authorization_endpoint": f"{provider.issuer}/authorize",
                            "token_endpoint": f"{provider.issuer}/token",
                            "jwks_uri": f"{provider.issuer}/keys",
                            **provider.metadata,
                        },
                    )
                elif self.path == "/keys":
                    self.answer(200, provider.public_keys())
                else:
                    self.answer(404, {})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.answer(*provider.grant({name: values[0] for name, values in parse_qs(body).items()}))

            def answer(self, status, content):
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler
