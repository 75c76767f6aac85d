"""psycopg 3, asyncpg and pg8000 through the Postgres door. Prints one line for each check."""

import asyncio
import os

import asyncpg
import pg8000.dbapi
import psycopg

HOST, PORT = os.environ["DOORWARD_HOST"], int(os.environ["DOORWARD_PORT"])
TOKEN = os.environ["DOORWARD_TOKEN"]


def connect(**more):
    return psycopg.connect(host=HOST, port=PORT, user="any", dbname="shop", password=TOKEN, **more)


def parameters():
    with connect() as c:
        assert c.execute("select count(*) from orders where id < %s", (5,)).fetchone()[0] == 4
        for n in range(1, 9):
            assert c.execute("select total from orders where id = %s", (n,)).fetchone()[0] == n


def pipeline():
    with connect() as c:
        with c.pipeline():
            all = [c.execute("select %s::int + id from orders where id = 1", (n,)) for n in range(50)]
        assert [one.fetchone()[0] for one in all] == list(range(1, 51))


def refusal_in_a_pipeline():
    with connect() as c:
        try:
            with c.pipeline():
                c.execute("insert into orders (customer) values ('piped')")
                c.execute("select * from secrets")
                c.execute("select 1")
            raise AssertionError("not refused")
        except psycopg.errors.InsufficientPrivilege as e:
            assert "no-secrets" in e.diag.message_detail and e.diag.message_hint
        c.rollback()
        assert c.execute("select count(*) from orders where customer = 'piped'").fetchone()[0] == 0


def copy():
    with connect() as c:
        with c.cursor().copy("copy orders (customer, total) from stdin") as data:
            for n in range(1000):
                data.write_row((f"copied {n}", n))
        with c.cursor().copy("copy (select customer from orders where customer like 'copied%') to stdout") as data:
            assert sum(1 for _ in data.rows()) == 1000
        c.rollback()


def server_cursor():
    with connect() as c, c.cursor(name="of_the_server") as cursor:
        cursor.itersize = 7
        cursor.execute("select id from orders order by id")
        assert sum(1 for _ in cursor) >= 20


def large_value():
    with connect() as c:
        assert c.execute("select length(%s::text)", ("z" * 3_000_000,)).fetchone()[0] == 3_000_000


async def with_asyncpg():
    c = await asyncpg.connect(host=HOST, port=PORT, user="any", database="shop", password=TOKEN, ssl=False)
    async with c.transaction():
        assert len([row async for row in c.cursor("select id from orders where id <= $1", 20)]) == 20
    try:
        await c.fetch("select * from secrets")
        raise AssertionError("not refused")
    except asyncpg.InsufficientPrivilegeError:
        pass
    statement = await c.prepare("select total from orders where id = $1")
    assert await statement.fetchval(3) == 3
    await c.reset()
    await c.close()


def with_pg8000():
    c = pg8000.dbapi.connect(user="any", host=HOST, port=PORT, database="shop", password=TOKEN)
    cursor = c.cursor()
    cursor.execute("select count(*) from orders where id < %s", (5,))
    assert cursor.fetchone()[0] == 4
    c.close()


CHECKS = [parameters, pipeline, refusal_in_a_pipeline, copy, server_cursor, large_value, with_pg8000]
for check in CHECKS:
    check()
    print("ok", check.__name__)
asyncio.run(with_asyncpg())
print("ok with_asyncpg")
