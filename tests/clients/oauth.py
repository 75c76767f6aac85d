"""OAUTHBEARER with libpq 18, which psycopg's package carries: the token is handed over by libpq's own hook.

Prints a line for each check that passes; the first that fails ends it.
"""

import ctypes
import glob
import os

import psycopg  # noqa: F401 (the package below wants it first)
import psycopg_binary

HOST, PORT, CA = os.environ["DOORWARD_HOST"], os.environ["DOORWARD_PORT"], os.environ["DOORWARD_CA"]
ISSUER, GOOD, BAD = os.environ["DOORWARD_ISSUER"], os.environ["DOORWARD_TOKEN"], os.environ["DOORWARD_BAD_TOKEN"]

folder = os.path.join(os.path.dirname(os.path.dirname(psycopg_binary.__file__)), "psycopg_binary.libs")
libpq = ctypes.CDLL(glob.glob(os.path.join(folder, "libpq-*.so*"))[0])
assert libpq.PQlibVersion() >= 180000, libpq.PQlibVersion()


class Request(ctypes.Structure):
    """PGoauthBearerRequest of libpq-fe.h."""

    _fields_ = [
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("async_", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    ]


PQAUTHDATA_OAUTH_BEARER_TOKEN = 1
Hook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
asked = []
token = None


@Hook
def hook(kind, _connection, data):
    if kind != PQAUTHDATA_OAUTH_BEARER_TOKEN:
        return 0
    request = ctypes.cast(data, ctypes.POINTER(Request)).contents
    asked.append((request.openid_configuration, request.scope))
    request.token = token
    return 1


libpq.PQsetAuthDataHook.argtypes = [Hook]
libpq.PQsetAuthDataHook(hook)
for name, result in [
    ("PQconnectdb", ctypes.c_void_p),
    ("PQstatus", ctypes.c_int),
    ("PQerrorMessage", ctypes.c_char_p),
    ("PQexec", ctypes.c_void_p),
    ("PQgetvalue", ctypes.c_char_p),
    ("PQfinish", None),
]:
    getattr(libpq, name).restype = result


def connect(shown, options="-c doorward.auth=oauth", issuer=ISSUER, more=""):
    """What current_user is, or why there is no connection; and what the hook was asked."""
    global token
    token = shown.encode()
    asked.clear()
    conninfo = (
        f"host={HOST} port={PORT} dbname=shop user=ann connect_timeout=60 sslmode=verify-full sslrootcert={CA} "
        f"oauth_issuer={issuer} oauth_client_id=psql require_auth=oauth options='{options}' {more}"
    )
    connection = ctypes.c_void_p(libpq.PQconnectdb(conninfo.encode()))
    try:
        if libpq.PQstatus(connection) != 0:
            return libpq.PQerrorMessage(connection).decode(), list(asked)
        result = ctypes.c_void_p(libpq.PQexec(connection, b"select current_user"))
        return libpq.PQgetvalue(result, 0, 0).decode(), list(asked)
    finally:
        libpq.PQfinish(connection)


def check(name, condition, what):
    assert condition, f"{name}: {what}"
    print("ok", name)


DISCOVERY = f"{ISSUER}/.well-known/openid-configuration".encode()
said = connect(GOOD)
check("the server says where tokens are to be had", said == ("auth_analyst", [(DISCOVERY, b"openid data")]), said)
said = connect(GOOD, issuer=DISCOVERY.decode())
check("a client that knows it sends its token at once", said[0] == "auth_analyst" and len(said[1]) == 1, said)
said = connect(BAD)
check("a token that does not count", "the token has expired" in said[0], said)
said = connect("not-a-token")
check("what is no token", "authenticate." in said[0], said)
said = connect(GOOD, options="")
check("who does not ask is asked for a password", "authentication method requirement" in said[0], said)
said = connect(GOOD, issuer="https://another.example")
check("an issuer that the client does not trust", "incompatible" in said[0] or "issuer" in said[0], said)
