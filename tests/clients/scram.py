"""A minted login with drivers of Python: libpq 18 (psycopg 3), asyncpg and pg8000, each with an implementation of
SCRAM of its own, over TLS and without, at the strictest settings they have.

Prints a line for each check that passes; the first that fails ends it.
"""

import asyncio
import os
import ssl

import asyncpg
import pg8000.dbapi
import psycopg

HOST, PORT, CA = os.environ["DOORWARD_HOST"], os.environ["DOORWARD_PORT"], os.environ["DOORWARD_CA"]
USER, PASSWORD = os.environ["DOORWARD_USER"], os.environ["DOORWARD_PASSWORD"]
WHO = "select current_user::text, count(*) from orders"
EXPECTED = ("auth_analyst", 20)
TLS = ssl.create_default_context(cafile=CA)


def ok(name, row):
    assert tuple(row) == EXPECTED, f"{name}: {row}"
    print("ok", name)


def libpq(name, **more):
    with psycopg.connect(
        host=HOST, port=PORT, dbname="shop", user=USER, password=PASSWORD, connect_timeout=60, **more
    ) as connection:
        ok(name, connection.execute(WHO).fetchone())


def libpq_refused(name, wanted, **more):
    try:
        libpq(name, **more)
    except psycopg.OperationalError as error:
        assert wanted in str(error), f"{name}: {error}"
        print("ok", name)
    else:
        raise AssertionError(f"{name}: it came in")


verified = {"sslmode": "verify-full", "sslrootcert": CA}
libpq("libpq, plain", sslmode="disable")
libpq("libpq, require_auth", require_auth="scram-sha-256", channel_binding="require", **verified)
libpq("libpq, direct TLS", sslnegotiation="direct", channel_binding="require", **verified)
libpq("libpq, without channel binding", channel_binding="disable", require_auth="scram-sha-256", **verified)
libpq_refused("libpq, of another way", "authentication method requirement", require_auth="password", **verified)
libpq_refused("libpq, no binding without TLS", "channel binding", sslmode="disable", channel_binding="require")


async def of_asyncpg(name, tls):
    connection = await asyncpg.connect(
        host=HOST, port=int(PORT), database="shop", user=USER, password=PASSWORD, timeout=60, ssl=tls
    )
    ok(name, await connection.fetchrow(WHO))
    await connection.close()


asyncio.run(of_asyncpg("asyncpg, TLS", TLS))
asyncio.run(of_asyncpg("asyncpg, plain", False))

# pg8000 binds to the channel by itself where the server offers it.
connection = pg8000.dbapi.connect(
    host=HOST, port=int(PORT), database="shop", user=USER, password=PASSWORD, timeout=60, ssl_context=TLS
)
cursor = connection.cursor()
cursor.execute(WHO)
ok("pg8000, TLS", cursor.fetchone())
connection.close()
